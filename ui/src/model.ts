// What the page shows, from the samples it has seen: rates, moves of shards, processes that are gone.
import type { Fleet, Histogram, Route, Sample } from "./answers";
import { minus, none, plus, quantile, ranges } from "./figures";

export type State = "ready" | "starting" | "draining" | "mute" | "lost" | "gone";

export interface Process {
  key: string;
  machine: number;
  sample: Sample;
  roles: string;
  state: State;
  since: number; // when it was gone, in ms
  cpu: number | null; // cores
  requests: number | null; // per second
  delivery: number | null; // p95 in seconds
}

export interface RouteRow {
  key: string;
  method: string;
  path: string;
  role: string;
  rate: number;
  p50: number | null;
  p95: number | null;
  failed: number; // share of 5xx
  refused: number; // share of 4xx
  flight: number;
  total: number;
}

export interface StreamRow {
  name: string;
  role: string;
  shards: { machine: number; from: number | null; moved: number }[]; // moved: when, in ms; 0: not seen to move
  rate: number;
  behind: number;
  commit: number | null; // p95 of its owners
  delivery: number | null; // p95 of all
}

export interface Totals {
  messages: number | null;
  requests: number | null;
  errors: number | null; // 5xx per second
  api: number | null;
  delivery: number | null;
  commit: number | null;
  waiting: number;
  cpu: number | null;
  cpus: number;
  memory: number;
  queued: number;
}

export interface Change {
  id: number;
  at: number;
  text: string;
  bad: boolean;
}

export interface Frame {
  at: number;
  fleet: Fleet;
  processes: Process[];
  streams: StreamRow[];
  routes: RouteRow[];
  window: number; // seconds that the rates of routes cover
  totals: Totals;
  byRoles: Map<string, number>; // CPU in cores
  blob: number | null; // p95 to the first byte
  redis: number | null; // p95 of a round trip
  changes: Change[];
}

const shownGone = 120_000; // ms that a process which went away stays on the page
const longWindow = 30_000; // ms of the rates and quantiles of routes
const mostChanges = 60;

const keyOf = (s: Sample) => `${s.machine}/${s.incarnation}`;
const millis = (text: string) => Date.parse(text);
const idOf = (r: Route) => `${r.role} ${r.pattern} ${r.hop ?? false}`;
const isSync = (r: Route) => r.pattern.endsWith("/sync");
const sum = (by: Record<string, number>) => Object.values(by).reduce((a, b) => a + b, 0);

function stateOf(s: Sample): State {
  if (s.error) return "lost";
  if (s.draining) return "draining";
  if (!s.ready) return "starting";
  return s.mute ? "mute" : "ready";
}

// index finds samples of processes that answered.
function index(f: Fleet | undefined): Map<string, Sample> {
  return new Map((f?.processes ?? []).filter((s) => !s.error).map((s) => [keyOf(s), s]));
}

interface Difference {
  s: Sample;
  old: Sample | undefined;
  seconds: number;
}

// differences pairs samples of the same runs. A process that started in between counts from its start; one that was
// just met for the first time has no rates yet.
function differences(now: Fleet, earlier: Fleet | undefined): Difference[] {
  const before = index(earlier);
  const out: Difference[] = [];
  for (const s of now.processes ?? []) {
    if (s.error) continue;
    const old = before.get(keyOf(s));
    const from = old ? millis(old.at) : earlier && millis(s.started) > millis(earlier.at) ? millis(s.started) : NaN;
    const seconds = (millis(s.at) - from) / 1000;
    if (seconds > 0) out.push({ s, old, seconds });
  }
  return out;
}

function eachRoute(d: Difference, visit: (r: Route, codes: Record<string, number>, latency: Histogram) => void) {
  const before = new Map((d.old?.routes ?? []).map((r) => [idOf(r), r]));
  for (const r of d.s.routes ?? []) {
    const old = before.get(idOf(r));
    const codes: Record<string, number> = {};
    for (const [code, n] of Object.entries(r.by_code ?? {})) codes[code] = Math.max(n - (old?.by_code?.[code] ?? 0), 0);
    visit(r, codes, minus(r.latency, old?.latency));
  }
}

function rowsOf(s: Sample | undefined, stream: string): number {
  return (s?.streams ?? []).find((st) => st.name === stream)?.shards?.reduce((n, sh) => n + sh.rows, 0) ?? 0;
}

// Model keeps what is needed between two samples.
export class Model {
  private seen: Fleet[] = [];
  private gone = new Map<string, Process>();
  private moves = new Map<string, { from: number; at: number }>();
  private changes: Change[] = [];
  private nextChange = 1;

  // add takes a sample and returns what to show; null when it is the one that was shown already.
  add(fleet: Fleet, now: number): Frame | null {
    const last = this.seen.at(-1);
    if (last && last.at === fleet.at) return null;
    if (last) this.compare(last, fleet, now);
    this.seen.push(fleet);
    while (this.seen.length > 2 && millis(this.seen.at(-1)!.at) - millis(this.seen[1]!.at) >= longWindow) this.seen.shift();
    const short = differences(fleet, last);
    const long = differences(fleet, this.seen[0] === fleet ? undefined : this.seen[0]);
    const processes = this.processes(fleet, short, now);
    const routes = this.routes(fleet, long);
    return {
      at: now, fleet, processes, routes, window: long.length ? Math.max(...long.map((d) => d.seconds)) : 0,
      streams: this.streams(fleet, short, long), totals: this.totals(fleet, short), byRoles: this.byRoles(processes),
      blob: this.p95(long, (s) => s.blob), redis: this.p95(long, (s) => s.redis), changes: this.changes,
    };
  }

  private p95(list: Difference[], pick: (s: Sample) => Histogram): number | null {
    return quantile(list.reduce((h, d) => plus(h, minus(pick(d.s), d.old && pick(d.old))), none), 0.95);
  }

  private processes(fleet: Fleet, short: Difference[], now: number): Process[] {
    const rates = new Map(short.map((d) => [keyOf(d.s), d]));
    const out = (fleet.processes ?? []).map((s): Process => {
      const d = rates.get(keyOf(s));
      let requests = 0;
      if (d) eachRoute(d, (_, codes) => (requests += sum(codes)));
      return {
        key: keyOf(s), machine: s.machine, sample: s, roles: (s.roles ?? []).join(", "), state: stateOf(s), since: 0,
        cpu: d ? Math.max(s.cpu_seconds - (d.old?.cpu_seconds ?? 0), 0) / d.seconds : null,
        requests: d ? requests / d.seconds : null,
        delivery: d ? quantile(minus(s.delivery, d.old?.delivery), 0.95) : null,
      };
    });
    for (const [key, p] of this.gone) {
      if (now - p.since > shownGone) this.gone.delete(key);
      else out.push(p);
    }
    return out.sort((a, b) => a.machine - b.machine || Number(a.state === "gone") - Number(b.state === "gone"));
  }

  private streams(fleet: Fleet, short: Difference[], long: Difference[]): StreamRow[] {
    return (fleet.streams ?? []).map((st) => {
      const owners = new Set(st.shards.map((sh) => sh.machine));
      const shards = st.shards.map((sh, i) => {
        const move = this.moves.get(`${st.name}/${i}`);
        return { machine: sh.machine, from: move ? move.from : null, moved: move ? move.at : 0 };
      });
      let behind = 0;
      for (const s of fleet.processes ?? []) {
        for (const mine of s.streams ?? []) if (mine.name === st.name) behind = Math.max(behind, mine.shards.reduce((n, sh) => n + sh.behind, 0));
      }
      const rate = short.reduce((n, d) => n + Math.max(rowsOf(d.s, st.name) - rowsOf(d.old, st.name), 0) / d.seconds, 0);
      const commit = this.p95(long.filter((d) => owners.has(d.s.machine)), (s) => s.commit);
      return { name: st.name, role: st.role, shards, rate, behind, commit, delivery: this.p95(long, (s) => s.streams?.find((mine) => mine.name === st.name)?.delivery ?? none) };
    });
  }

  private routes(fleet: Fleet, long: Difference[]): RouteRow[] {
    const found = new Map<string, { row: RouteRow; latency: Histogram; codes: Record<string, number> }>();
    const get = (r: Route) => {
      const key = `${r.role} ${r.pattern}`;
      let hit = found.get(key);
      if (!hit) {
        const space = r.pattern.indexOf(" ");
        const row: RouteRow = {
          key, method: space < 0 ? "" : r.pattern.slice(0, space), path: space < 0 ? "no route matched" : r.pattern.slice(space + 1), role: r.role,
          rate: 0, p50: null, p95: null, failed: 0, refused: 0, flight: 0, total: 0,
        };
        found.set(key, (hit = { row, latency: none, codes: {} }));
      }
      return hit;
    };
    for (const s of fleet.processes ?? []) {
      for (const r of s.routes ?? []) {
        if (r.hop) continue;
        const { row } = get(r);
        row.flight += r.in_flight;
        row.total += sum(r.by_code ?? {});
      }
    }
    for (const d of long) {
      eachRoute(d, (r, codes, latency) => {
        if (r.hop) return;
        const hit = get(r);
        hit.row.rate += sum(codes) / d.seconds;
        hit.latency = plus(hit.latency, latency);
        for (const [code, n] of Object.entries(codes)) hit.codes[code] = (hit.codes[code] ?? 0) + n;
      });
    }
    return [...found.values()].map(({ row, latency, codes }) => {
      const all = sum(codes);
      return {
        ...row, p50: quantile(latency, 0.5), p95: quantile(latency, 0.95),
        failed: all ? (codes["5xx"] ?? 0) / all : 0, refused: all ? (codes["4xx"] ?? 0) / all : 0,
      };
    });
  }

  private totals(fleet: Fleet, short: Difference[]): Totals {
    const t: Totals = { messages: null, requests: null, errors: null, api: null, delivery: null, commit: null, waiting: 0, cpu: null, cpus: 0, memory: 0, queued: 0 };
    const hosts = new Map<string, number>();
    for (const s of fleet.processes ?? []) {
      if (s.error) continue;
      // Processes of one host share its cores.
      const host = s.host.replace(/, process \d+$/, "");
      hosts.set(host, Math.max(hosts.get(host) ?? 0, s.cpus));
      t.memory += s.resident_bytes;
      t.queued += s.queued_writes;
      for (const r of s.routes ?? []) if (isSync(r) && !r.hop) t.waiting += r.in_flight;
    }
    t.cpus = [...hosts.values()].reduce((a, b) => a + b, 0);
    if (short.length === 0) return t;
    let api = none;
    t.messages = t.requests = t.errors = t.cpu = 0;
    for (const d of short) {
      t.messages += Math.max(rowsOf(d.s, "events") - rowsOf(d.old, "events"), 0) / d.seconds;
      t.cpu += Math.max(d.s.cpu_seconds - (d.old?.cpu_seconds ?? 0), 0) / d.seconds;
      eachRoute(d, (r, codes, latency) => {
        if (r.hop) return;
        t.requests! += sum(codes) / d.seconds;
        t.errors! += (codes["5xx"] ?? 0) / d.seconds;
        if (!isSync(r)) api = plus(api, latency);
      });
    }
    t.api = quantile(api, 0.95);
    t.delivery = this.p95(short, (s) => s.delivery);
    t.commit = this.p95(short, (s) => s.commit);
    return t;
  }

  private byRoles(processes: Process[]): Map<string, number> {
    const out = new Map<string, number>();
    for (const p of processes) if (p.cpu !== null && p.state !== "gone") out.set(p.roles, (out.get(p.roles) ?? 0) + p.cpu);
    return out;
  }

  private tell(at: number, text: string, bad = false) {
    this.changes = [{ id: this.nextChange++, at, text, bad }, ...this.changes].slice(0, mostChanges);
  }

  // compare finds what is new: processes that came, went or do not answer, shards and jobs that moved, a rollout.
  private compare(last: Fleet, fleet: Fleet, now: number) {
    const before = new Map((last.processes ?? []).map((s) => [keyOf(s), s]));
    const after = new Map((fleet.processes ?? []).map((s) => [keyOf(s), s]));
    const named = (s: Sample) => `machine ${s.machine} (${(s.roles ?? []).join(", ")})`;
    for (const [key, s] of after) {
      const old = before.get(key);
      this.gone.delete(key);
      if (!old) this.tell(now, `${named(s)} joined with version ${s.version}`);
      else if (s.error && !old.error) this.tell(now, `${named(s)} does not answer`, true);
      else if (!s.error && old.error) this.tell(now, `${named(s)} answers again`);
      else if (s.draining && !old.draining) this.tell(now, `${named(s)} hands over its shards`);
      else if (s.ready && !old.ready && !old.error) this.tell(now, `${named(s)} is ready`);
    }
    for (const [key, s] of before) {
      if (after.has(key)) continue;
      this.gone.set(key, { key, machine: s.machine, sample: s, roles: (s.roles ?? []).join(", "), state: "gone", since: now, cpu: null, requests: null, delivery: null });
      this.tell(now, `${named(s)} is gone`, !s.draining);
    }
    const old = new Map((last.streams ?? []).map((st) => [st.name, st]));
    for (const st of fleet.streams ?? []) {
      const groups = new Map<string, number[]>();
      st.shards.forEach((sh, i) => {
        const from = old.get(st.name)?.shards[i]?.machine;
        if (from === undefined || from === sh.machine) return;
        this.moves.set(`${st.name}/${i}`, { from, at: now });
        const way = sh.machine < 0 ? `lost their owner, machine ${from}` : from < 0 ? `taken by machine ${sh.machine}` : `moved from machine ${from} to ${sh.machine}`;
        groups.set(way, [...(groups.get(way) ?? []), i]);
      });
      for (const [way, list] of groups) this.tell(now, `${st.name}: shard${list.length > 1 ? "s" : ""} ${ranges(list)} ${way}`, way.startsWith("lost"));
    }
    const jobs = new Map((last.jobs ?? []).map((j) => [j.name, j.machine]));
    for (const j of fleet.jobs ?? []) {
      const from = jobs.get(j.name);
      if (from !== undefined && from !== j.machine && j.machine >= 0) this.tell(now, `${j.name} is now done by machine ${j.machine}`);
    }
    const r = fleet.rollout, was = last.rollout;
    if (r && (r.state !== was?.state || r.to !== was?.to)) this.tell(now, `rollout ${r.from} to ${r.to}: ${r.state}${r.reason ? `, ${r.reason}` : ""}`, r.state === "failed" || r.state === "rolled back");
  }
}

// History holds the plotted figures of the last minutes, oldest first. A pause leaves a gap.
export class History {
  times: number[] = [];
  series = new Map<string, (number | null)[]>();

  constructor(private readonly length: number) {}

  add(at: number, figures: Map<string, number | null>) {
    const last = this.times.at(-1);
    if (last !== undefined && at - last > 8) this.push(last + 1, new Map());
    this.push(at, figures);
  }

  private push(at: number, figures: Map<string, number | null>) {
    for (const name of figures.keys()) if (!this.series.has(name)) this.series.set(name, this.times.map(() => null));
    this.times.push(at);
    for (const [name, list] of this.series) list.push(figures.get(name) ?? null);
    const from = this.times.findIndex((t) => t >= at - this.length);
    if (from > 0) {
      this.times.splice(0, from);
      for (const list of this.series.values()) list.splice(0, from);
    }
    for (const [name, list] of this.series) if (list.every((v) => v === null)) this.series.delete(name);
  }

  get(name: string): (number | null)[] {
    return this.series.get(name) ?? this.times.map(() => null);
  }
}
