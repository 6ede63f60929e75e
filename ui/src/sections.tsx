// The parts of the page, each from one frame.
import type { Comparison, Diagnosis, Engine, Finding, Severity } from "./answers";
import { Chart, type Line } from "./charts";
import { age, amount, bytes, clock, count, seconds } from "./figures";
import type { Change, Frame, History, Process, RouteRow, State, StreamRow } from "./model";
import { Badge, Machine, Meter, Section, Table, colourOf, type Column, type Tone } from "./parts";

const stateTones: Record<State, [Tone, string]> = {
  ready: ["good", "ready"], starting: ["busy", "starting"], draining: ["busy", "draining"], mute: ["warn", "without Redis"],
  lost: ["bad", "no answer"], gone: ["quiet", "gone"],
};

export const severities: Record<Severity, [Tone, string]> = {
  critical: ["bad", "critical"], warning: ["warn", "warning"], note: ["quiet", "note"], ok: ["good", "passed"],
};

export function Tiles({ frame }: { frame: Frame }) {
  const t = frame.totals;
  const present = frame.processes.filter((p) => p.state !== "gone");
  const ready = present.filter((p) => p.state === "ready").length;
  const tiles: [string, string, string][] = [
    ["Processes ready", `${ready} of ${present.length}`, `${frame.streams.reduce((n, s) => n + s.shards.length, 0)} shards`],
    ["Messages", amount(t.messages), "events stored per second"],
    ["Requests", amount(t.requests), t.errors ? `${amount(t.errors)} failed per second` : "per second, none failed"],
    ["Requests p95", seconds(t.api), "without waiting /sync"],
    ["Delivery p95", seconds(t.delivery), "from writing to every process"],
    ["Commit p95", seconds(t.commit), t.queued ? `${count(t.queued)} writes queued` : "no writes queued"],
    ["Waiting clients", count(t.waiting), "in /sync now"],
    ["CPU", amount(t.cpu), `of ${t.cpus % 1 ? amount(t.cpus) : count(t.cpus)} cores`],
    ["Memory", bytes(t.memory), "of all processes"],
  ];
  return (
    <section aria-label="At a glance" id="glance">
      <dl class="tiles">
        {tiles.map(([name, value, note]) => (
          <div class="card tile" key={name}>
            <dt>{name}</dt>
            <dd><b>{value}</b><span>{note}</span></dd>
          </div>
        ))}
      </dl>
    </section>
  );
}

const mostLines = 6;

export function Plots({ history, frame, theme }: { history: History; frame: Frame; theme: string }) {
  const times = history.times;
  const line = (label: string, name: string): Line => ({ label, values: history.get(name) });
  const busiest = [...frame.byRoles.entries()].sort((a, b) => b[1] - a[1]).map(([roles]) => roles);
  const roles = busiest.slice(0, mostLines).sort();
  const plot = { times, theme };
  return (
    <Section id="plots" title="The last minutes">
      <div class="plots">
        <Chart {...plot} title="Messages" unit="per second" lines={[line("stored", "messages")]} show={amount} />
        <Chart {...plot} title="Requests" unit="per second" lines={[line("all", "requests"), line("failed", "errors")]} show={amount} />
        <Chart {...plot} title="Latency" unit="p95" lines={[line("delivery", "delivery"), line("commit", "commit"), line("requests", "api")]} show={seconds} />
        <Chart {...plot} title="CPU by roles" unit="cores" lines={roles.map((r) => line(r, `cpu ${r}`))} show={amount}
          note={busiest.length > mostLines ? `the ${mostLines} busiest of ${busiest.length}` : undefined} />
        <Chart {...plot} title="Waiting clients" unit="in /sync" lines={[line("waiting", "waiting")]} show={(v) => (v === null ? "–" : v % 1 ? "" : count(v))} />
        <Chart {...plot} title="Memory" unit="of all processes" lines={[line("resident", "memory")]} binary show={(v) => (v === null ? "–" : v === 0 ? "0" : bytes(v))} />
      </div>
    </Section>
  );
}

export function Doctor({ diagnosis }: { diagnosis: Diagnosis | null }) {
  if (!diagnosis) return <Section id="doctor" title="Doctor"><p class="card empty">Examining…</p></Section>;
  const list = diagnosis.findings ?? [];
  const open = list.filter((f) => f.severity !== "ok"), passed = list.filter((f) => f.severity === "ok");
  const over = diagnosis.seconds > 0 ? `Over the last ${age(diagnosis.seconds)}.` : "Since the start of the processes.";
  return (
    <Section id="doctor" title="Doctor" note={<>{over} In a terminal: <code>lyceum doctor</code></>}>
      <div class="card findings">
        {open.length === 0 && <p class="empty"><Badge tone="good">{diagnosis.headline}</Badge></p>}
        <ul>{open.map((f) => <FindingItem key={f.rule + f.where + f.what} finding={f} />)}</ul>
        {passed.length > 0 && (
          <details>
            <summary>{passed.length} check{passed.length > 1 ? "s" : ""} passed</summary>
            <ul class="passed">{passed.map((f) => <li key={f.rule + f.where + f.what}><b>{f.rule}</b> {f.what} <span class="quiet">({f.where})</span></li>)}</ul>
          </details>
        )}
      </div>
    </Section>
  );
}

function FindingItem({ finding: f }: { finding: Finding }) {
  const [tone, word] = severities[f.severity] ?? ["quiet", f.severity];
  return (
    <li class={`finding ${tone}`}>
      <p><Badge tone={tone}>{word}</Badge> <b>{f.where}</b>: {f.what}</p>
      {f.why && <p class="quiet">{f.why}</p>}
      {f.do && <p class="do"><span>What to do:</span> {f.do}</p>}
    </li>
  );
}

export function Processes({ frame }: { frame: Frame }) {
  const now = Date.parse(frame.fleet.at);
  const version = frame.fleet.version;
  const columns: Column<Process>[] = [
    { name: "Machine", head: true, cell: (p) => <Machine id={p.machine} />, by: (p) => p.machine },
    {
      name: "State", by: (p) => p.state,
      cell: (p) => {
        const [tone, word] = stateTones[p.state];
        return <span class="state"><Badge tone={tone}>{word}</Badge>{p.state === "gone" && <span class="quiet"> {age((frame.at - p.since) / 1000)} ago</span>}</span>;
      },
    },
    { name: "Roles", cell: (p) => <span class="roles">{p.roles}</span>, by: (p) => p.roles },
    { name: "Version", cell: (p) => (p.sample.version === version ? p.sample.version : <b class="other">{p.sample.version}</b>), by: (p) => p.sample.version },
    { name: "Up", number: true, cell: (p) => (p.state === "gone" ? "–" : age((now - Date.parse(p.sample.started)) / 1000)), by: (p) => now - Date.parse(p.sample.started) },
    {
      name: "CPU", number: true, by: (p) => p.cpu ?? -1,
      cell: (p) => (p.cpu === null ? "–" : <Meter share={p.sample.cpus ? p.cpu / p.sample.cpus : 0} label={`${(p.cpu * 100).toFixed(p.cpu < 0.1 ? 1 : 0)} %`} />),
    },
    {
      name: "Memory", number: true, by: (p) => p.sample.resident_bytes,
      cell: (p) => (p.state === "gone" || p.state === "lost" ? "–" : p.sample.memory_limit_bytes ? <Meter share={p.sample.resident_bytes / p.sample.memory_limit_bytes} label={bytes(p.sample.resident_bytes)} /> : bytes(p.sample.resident_bytes)),
    },
    { name: "Requests/s", number: true, cell: (p) => amount(p.requests), by: (p) => p.requests ?? -1 },
    { name: "Delivery p95", number: true, cell: (p) => seconds(p.delivery), by: (p) => p.delivery ?? -1 },
    { name: "DB conns", number: true, cell: (p) => (p.sample.error || p.state === "gone" ? "–" : `${p.sample.database_pool.in_use}/${p.sample.database_pool.max}`), by: (p) => p.sample.database_pool?.in_use ?? -1 },
    { name: "Host", cell: (p) => <span class="host" title={p.sample.error}>{p.sample.host}</span>, by: (p) => p.sample.host },
  ];
  return (
    <Section id="processes" title="Processes">
      <Table label="Processes" columns={columns} rows={frame.processes} id={(p) => p.key} empty="No process is registered."
        tone={(p) => (p.state === "lost" ? "row-bad" : p.state === "gone" ? "row-gone" : p.state === "ready" ? "" : "row-busy")} />
    </Section>
  );
}

const markFor = 15_000; // ms that a moved shard stays marked

export function Streams({ frame }: { frame: Frame }) {
  const owners = new Map<number, number>();
  for (const st of frame.streams) for (const sh of st.shards) owners.set(sh.machine, (owners.get(sh.machine) ?? 0) + 1);
  const roles = new Map(frame.processes.filter((p) => p.state !== "gone").map((p) => [p.machine, p.roles]));
  return (
    <Section id="streams" title="Streams and shards" note="Each square is a shard and the machine that owns it. Shards that just moved show from where and have a thick edge.">
      <ul class="key" aria-label="Machines that own shards">
        {[...owners.entries()].sort((a, b) => a[0] - b[0]).map(([id, n]) => (
          <li key={id}><Machine id={id} /> <span>{n} shard{n > 1 ? "s" : ""}</span> <span class="quiet">{id < 0 ? "without an owner" : roles.get(id) ?? "gone"}</span></li>
        ))}
      </ul>
      <div class="streams">{frame.streams.map((st) => <StreamCard key={st.name} stream={st} now={frame.at} />)}</div>
    </Section>
  );
}

function StreamCard({ stream: st, now }: { stream: StreamRow; now: number }) {
  return (
    <article class="card stream" aria-label={`Stream ${st.name}`}>
      <h3>{st.name} {st.role !== st.name && <span class="quiet">role {st.role}</span>}</h3>
      <dl>
        <div><dt>Rows/s</dt><dd>{amount(st.rate)}</dd></div>
        <div><dt>Behind</dt><dd class={st.behind > 500 ? "bad" : ""}>{count(st.behind)} row{st.behind === 1 ? "" : "s"}</dd></div>
        <div><dt>Commit p95</dt><dd>{seconds(st.commit)}</dd></div>
        <div><dt>Delivery p95</dt><dd>{seconds(st.delivery)}</dd></div>
      </dl>
      <ol class="shards" aria-label="Shards">
        {st.shards.map((sh, i) => {
          const moved = sh.moved > 0 && now - sh.moved < markFor && sh.from !== null;
          const owner = sh.machine < 0 ? "nobody" : `machine ${sh.machine}`;
          return (
            <li key={i} class={`shard ${colourOf(sh.machine)}${moved ? " moved" : ""}`} title={`shard ${i}: ${owner}${moved ? `, from ${sh.from! < 0 ? "nobody" : `machine ${sh.from}`}` : ""}`}>
              <span class="hidden">shard {i}: {owner}{moved ? `, moved from ${sh.from}` : ""}</span>
              <span aria-hidden="true">{moved && <small>{sh.from! < 0 ? "?" : sh.from}›</small>}{sh.machine < 0 ? "?" : sh.machine}</span>
            </li>
          );
        })}
      </ol>
    </article>
  );
}

const share = (n: number) => (n === 0 ? "0" : n < 0.001 ? "<0.1 %" : `${(n * 100).toFixed(1)} %`);

export function Routes({ frame }: { frame: Frame }) {
  const rows = frame.routes.filter((r) => r.total > 0 || r.flight > 0);
  const columns: Column<RouteRow>[] = [
    { name: "Route", head: true, cell: (r) => <code class="route"><b>{r.method}</b> {r.path}</code>, by: (r) => r.path },
    { name: "Role", cell: (r) => r.role || "any", by: (r) => r.role },
    { name: "Per second", number: true, cell: (r) => amount(r.rate), by: (r) => r.rate },
    { name: "p50", number: true, cell: (r) => seconds(r.p50), by: (r) => r.p50 ?? -1 },
    { name: "p95", number: true, cell: (r) => seconds(r.p95), by: (r) => r.p95 ?? -1 },
    { name: "4xx", number: true, cell: (r) => share(r.refused), by: (r) => r.refused },
    { name: "5xx", number: true, cell: (r) => (r.failed > 0 ? <b class="bad">{share(r.failed)}</b> : "0"), by: (r) => r.failed },
    { name: "In flight", number: true, cell: (r) => count(r.flight), by: (r) => r.flight },
    { name: "Total", number: true, cell: (r) => count(r.total), by: (r) => r.total },
  ];
  return (
    <Section id="routes" title="Routes" note={frame.window > 0 ? `Rates and latencies of the last ${age(frame.window)}.` : "Rates come with the next sample."}>
      <Table label="Routes" columns={columns} rows={rows} id={(r) => r.key} sort="Per second" limit={12} empty="No requests yet." />
    </Section>
  );
}

function engineFacts(e: Engine, frame: Frame, first: string): [string, string][] {
  const facts: [string, string][] = [];
  const add = (name: string, value: string) => facts.push([name, value]);
  add("Round trip", seconds(e.round_trip_seconds));
  if (e.max_connections) add("Connections", `${count(e.connections)} of ${count(e.max_connections)}`);
  else if (e.connections) add("Connections", count(e.connections));
  if (e.memory_bytes) add("Memory", e.max_memory_bytes ? `${bytes(e.memory_bytes)} of ${bytes(e.max_memory_bytes)}` : bytes(e.memory_bytes));
  if (e.size_bytes) add("Size", bytes(e.size_bytes));
  if (first === "Blob store" && frame.blob !== null) add("First byte p95", seconds(frame.blob));
  if (first === "Bus" && frame.redis !== null) add("Round trip p95", seconds(frame.redis));
  const extra = e.extra ?? {};
  const named: [string, string, (v: number) => string][] = [
    ["active", "Active queries", count], ["waiting_for_locks", "Waiting for locks", count],
    ["oldest_transaction_seconds", "Oldest transaction", seconds], ["replication_lag_seconds", "Replication lag", seconds],
  ];
  for (const [key, name, show] of named) if (extra[key] !== undefined) add(name, show(extra[key]));
  if (e.kind === "sqlite" || e.kind === "directory") add("Access", "files of this machine");
  else add("Access", `${e.protected ? "with a secret" : "without a password"}, ${e.encrypted ? "private" : "not encrypted"}`);
  return facts;
}

const kinds: Record<string, string> = { postgresql: "PostgreSQL", sqlite: "SQLite", redis: "Redis", local: "in the process", s3: "S3", directory: "a directory" };

export function Engines({ frame }: { frame: Frame }) {
  const list: [string, Engine][] = [["Database", frame.fleet.database], ["Bus", frame.fleet.redis], ["Blob store", frame.fleet.blob]];
  return (
    <Section id="engines" title="Engines" note="As the process that answers this page sees them.">
      <div class="engines">
        {list.map(([name, e]) => (
          <article class="card engine" key={name} aria-label={name}>
            <h3>{name} <span class="quiet">{kinds[e.kind] ?? e.kind} {e.version}</span></h3>
            {e.error && <p class="problem"><Badge tone="bad">no answer</Badge> {e.error}</p>}
            <dl>{e.kind === "local"
              ? <div><dt>Nothing to reach</dt><dd>one process</dd></div>
              : engineFacts(e, frame, name).map(([k, v]) => <div key={k}><dt>{k}</dt><dd>{v}</dd></div>)}</dl>
            {e.address && <p class="address quiet">{e.address}</p>}
          </article>
        ))}
      </div>
    </Section>
  );
}

export function Plan({ comparison: c }: { comparison: Comparison | null }) {
  if (!c) return <Section id="plan" title="Plan and reality"><p class="card empty">Planning…</p></Section>;
  const columns: Column<Comparison["roles"][number]>[] = [
    { name: "Role", head: true, cell: (r) => r.role, by: (r) => r.role },
    { name: "Wanted", number: true, cell: (r) => r.planned, by: (r) => r.planned },
    { name: "Running", number: true, cell: (r) => (r.running < r.planned ? <b class="bad">{r.running}</b> : r.running), by: (r) => r.running },
    { name: "Verdict", cell: (r) => (r.running < r.planned ? <Badge tone="warn">{r.planned - r.running} too few</Badge> : <Badge tone="good">enough</Badge>), by: (r) => r.running - r.planned },
    { name: "Cores planned", number: true, cell: (r) => amount(r.busy_planned), by: (r) => r.busy_planned },
    { name: "Cores used", number: true, cell: (r) => (r.used === undefined ? "shared" : amount(r.used)), by: (r) => r.used ?? -1 },
    { name: "Why", cell: (r) => <span class="quiet">{r.why}</span> },
  ];
  const used = c.busy_cores_planned > 0 ? c.used_cores / c.busy_cores_planned : 0;
  return (
    <Section id="plan" title="Plan and reality" note={`For the present load: ${count(c.load.concurrent_users)} waiting clients, ${amount(c.load.messages_per_second < 0.01 ? 0 : c.load.messages_per_second)} messages/s.`}>
      <div class="card plan">
        <p>{c.advice.split("`").map((text, i) => (i % 2 ? <code key={i}>{text}</code> : text))}</p>
        <dl>
          <div><dt>Processes</dt><dd>{c.processes_running} run{c.processes_planned > 0 && `, ${c.processes_planned} wanted`}</dd></div>
          <div><dt>CPU</dt><dd>{amount(c.used_cores)} cores used, {amount(c.busy_cores_planned)} planned{used > 2 && c.used_cores > 0.5 ? `: ${used.toFixed(1)} times` : ""}</dd></div>
          <div><dt>Memory</dt><dd>{bytes(c.resident_bytes)} used, {bytes(c.memory_planned_bytes)} planned</dd></div>
        </dl>
      </div>
      <Table label="Plan and reality by role" columns={columns} rows={c.roles} id={(r) => r.role} empty="The plan has no roles." />
    </Section>
  );
}

export function Rollout({ frame }: { frame: Frame }) {
  const r = frame.fleet.rollout;
  if (!r) return <p class="card empty">No upgrade was made yet. One is made with <code>lyceum rollout</code>.</p>;
  const tones: Record<string, Tone> = { running: "busy", done: "good", "rolled back": "warn", failed: "bad" };
  return (
    <div class="card rollout">
      <p><Badge tone={tones[r.state] ?? "quiet"}>{r.state}</Badge> <b>{r.from}</b> to <b>{r.to}</b>, {r.done} of {r.of} processes</p>
      <progress max={r.of || 1} value={r.done} aria-label={`Rollout from ${r.from} to ${r.to}`}>{r.done} of {r.of}</progress>
      <p class="quiet">
        {r.state === "running" && r.now ? `Now: ${r.now}. ` : ""}{r.reason ? `${r.reason}. ` : ""}
        Begun {new Date(r.started).toLocaleString()}, last step {age((Date.parse(frame.fleet.at) - Date.parse(r.changed)) / 1000)} ago.
      </p>
    </div>
  );
}

export function Work({ frame }: { frame: Frame }) {
  const jobs = frame.fleet.jobs ?? [];
  return (
    <div class="pair">
      <Section id="jobs" title="Background work">
        {jobs.length === 0 ? <p class="card empty">No background work is registered.</p> : (
          <ul class="card jobs">
            {jobs.map((j) => <li key={j.name}><span>{j.name}</span> <Machine id={j.machine} title={`epoch ${j.epoch}`} /></li>)}
          </ul>
        )}
      </Section>
      <Section id="rollout" title="Rollout"><Rollout frame={frame} /></Section>
      <Section id="changes" title="Changes" note="Seen by this page."><Changes list={frame.changes} /></Section>
    </div>
  );
}

function Changes({ list }: { list: Change[] }) {
  if (list.length === 0) return <p class="card empty">Nothing has changed since this page was opened.</p>;
  return (
    <ol class="card changes" tabIndex={0} aria-label="Changes, newest first">
      {list.map((c) => <li key={c.id} class={c.bad ? "bad" : ""}><time>{clock(c.at)}</time> <span>{c.bad && <Badge tone="bad">{""}</Badge>}{c.text}</span></li>)}
    </ol>
  );
}
