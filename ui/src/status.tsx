// The status page: log-in, then a sample of the fleet every two seconds while somebody looks.
import { render } from "preact";
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import type { Comparison, Diagnosis, Fleet } from "./answers";
import { age, clock } from "./figures";
import { History, Model, type Frame } from "./model";
import { Badge, type Tone } from "./parts";
import { Doctor, Engines, Plan, Plots, Processes, Routes, Streams, Tiles, Work } from "./sections";
import { Refused, ask, logIn, logOut, session } from "./source";

const period = 2000;
const slowPeriod = 10_000; // of plan and doctor
const staleAfter = 7000;
const minutes = 5;

type Theme = "auto" | "light" | "dark";
const themeKey = "lyceum.theme";

function keptTheme(): Theme {
  const kept = localStorage.getItem(themeKey);
  return kept === "light" || kept === "dark" ? kept : "auto";
}

function paint(theme: Theme): string {
  const dark = theme === "dark" || (theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset["theme"] = dark ? "dark" : "light";
  return dark ? "dark" : "light";
}

function useTheme(): [Theme, string, () => void] {
  const [theme, setTheme] = useState(keptTheme);
  const [shown, setShown] = useState(() => paint(keptTheme()));
  useEffect(() => {
    const query = matchMedia("(prefers-color-scheme: dark)");
    const follow = () => setShown(paint(theme));
    follow();
    query.addEventListener("change", follow);
    return () => query.removeEventListener("change", follow);
  }, [theme]);
  const next = () => {
    const to: Theme = theme === "auto" ? (shown === "dark" ? "light" : "dark") : theme === "light" ? "dark" : "auto";
    localStorage.setItem(themeKey, to);
    setTheme(to);
  };
  return [theme, shown, next];
}

function LogIn({ why, done }: { why: string; done: () => void }) {
  const [user, setUser] = useState("");
  const [password, setPassword] = useState("");
  const [error, setError] = useState(why);
  const [busy, setBusy] = useState(false);
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => field.current?.focus(), []);
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setError("");
    try {
      await logIn(user.trim(), password);
      done();
    } catch (e) {
      setError((e as Error).message);
      setPassword("");
      setBusy(false);
    }
  };
  return (
    <main class="login">
      <form class="card" onSubmit={submit} aria-labelledby="login-title">
        <h1 id="login-title">Lyceum status</h1>
        <p class="quiet">For administrators of this server.</p>
        <label>User<input ref={field} name="user" autocomplete="username" autocapitalize="none" spellcheck={false} required value={user} onInput={(e) => setUser(e.currentTarget.value)} /></label>
        <label>Password<input name="password" type="password" autocomplete="current-password" required value={password} onInput={(e) => setPassword(e.currentTarget.value)} /></label>
        <div role="alert">{error && <p class="problem"><Badge tone="bad">{""}</Badge> {error}</p>}</div>
        <button type="submit" class="primary" disabled={busy}>{busy ? "Logging in…" : "Log in"}</button>
      </form>
    </main>
  );
}

interface Link {
  ok: number; // when the last answer came, in ms
  error: string;
}

// useLive polls while the page is seen and not paused.
function useLive(paused: boolean, ended: (why: string) => void) {
  const model = useRef(new Model());
  const history = useRef(new History(minutes * 60));
  const [frame, setFrame] = useState<Frame | null>(null);
  const [link, setLink] = useState<Link>({ ok: 0, error: "" });
  const [comparison, setComparison] = useState<Comparison | null>(null);
  const [diagnosis, setDiagnosis] = useState<Diagnosis | null>(null);
  useEffect(() => {
    if (paused) return;
    let stopped = false, running = false, slowAt = 0, timer = 0;
    const failed = (e: unknown) => {
      if (stopped) return;
      if (e instanceof Refused && e.status === 401) return ended("Your log-in has ended. Log in again.");
      if (e instanceof Refused && e.status === 403) return ended("You are no longer an administrator of this server.");
      setLink((l) => ({ ...l, error: (e as Error).message }));
    };
    const look = async () => {
      if (running || stopped || document.hidden) return;
      running = true;
      const began = Date.now();
      try {
        const fleet = await ask<Fleet>("status");
        if (stopped) return;
        const now = Date.now();
        const made = model.current.add(fleet, now);
        if (made) {
          const t = made.totals;
          history.current.add(Date.parse(fleet.at) / 1000, new Map<string, number | null>([
            ["messages", t.messages], ["requests", t.requests], ["errors", t.errors], ["delivery", t.delivery], ["commit", t.commit], ["api", t.api],
            ["waiting", t.waiting], ["memory", t.memory], ...[...made.byRoles].map(([roles, n]): [string, number] => [`cpu ${roles}`, n]),
          ]));
          setFrame(made);
        }
        setLink({ ok: now, error: "" });
        if (now - slowAt >= slowPeriod) {
          slowAt = now;
          ask<Comparison>("plan").then((c) => stopped || setComparison(c), failed);
          ask<Diagnosis>("doctor").then((d) => stopped || setDiagnosis(d), failed);
        }
      } catch (e) {
        failed(e);
      } finally {
        running = false;
        if (!stopped && !document.hidden) {
          clearTimeout(timer);
          timer = setTimeout(look, Math.max(period - (Date.now() - began), 250));
        }
      }
    };
    const seen = () => (document.hidden ? clearTimeout(timer) : void look());
    document.addEventListener("visibilitychange", seen);
    void look();
    return () => {
      stopped = true;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
    };
  }, [paused]);
  return { frame, link, comparison, diagnosis, history: history.current };
}

// useClock ticks each second, so that ages stay true when no answer comes.
function useClock(): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, []);
  return now;
}

function health(frame: Frame | null, diagnosis: Diagnosis | null, stale: boolean): [Tone, string] {
  if (!frame) return ["busy", "loading"];
  if (stale) return ["bad", "no answer"];
  const present = frame.processes.filter((p) => p.state !== "gone");
  const lost = present.filter((p) => p.state === "lost").length;
  const free = frame.streams.reduce((n, s) => n + s.shards.filter((sh) => sh.machine < 0).length, 0);
  if (lost) return ["bad", `${lost} process${lost > 1 ? "es do" : " does"} not answer`];
  if (free) return ["bad", `${free} shard${free > 1 ? "s have" : " has"} no owner`];
  for (const [name, e] of [["database", frame.fleet.database], ["Redis", frame.fleet.redis], ["blob store", frame.fleet.blob]] as const) {
    if (e.error) return ["bad", `the ${name} does not answer`];
  }
  const found = diagnosis?.findings ?? [];
  const critical = found.filter((f) => f.severity === "critical").length, warnings = found.filter((f) => f.severity === "warning").length;
  if (critical) return ["bad", `${critical} critical finding${critical > 1 ? "s" : ""}`];
  if (warnings) return ["warn", `${warnings} warning${warnings > 1 ? "s" : ""}`];
  const other = present.filter((p) => p.state !== "ready").length;
  return other ? ["busy", `${other} not ready`] : ["good", "all is well"];
}

const parts = [["processes", "Processes"], ["streams", "Shards"], ["routes", "Routes"], ["engines", "Engines"], ["plan", "Plan"], ["doctor", "Doctor"], ["changes", "Changes"]];

function Console({ theme, shown, turn, ended }: { theme: Theme; shown: string; turn: () => void; ended: (why: string, leaving?: Promise<void>) => void }) {
  const [paused, setPaused] = useState(false);
  const live = useLive(paused, useCallback(ended, []));
  const now = useClock();
  const { frame, link } = live;
  const late = link.ok ? now - link.ok : 0;
  const stale = !paused && link.ok > 0 && late > staleAfter;
  const [tone, word] = health(frame, live.diagnosis, stale);
  useEffect(() => {
    document.title = frame ? `${tone === "good" ? "" : `(${word}) `}${frame.fleet.server} · Lyceum status` : "Lyceum status";
  }, [frame, tone, word]);
  const leave = () => {
    ended("", logOut());
  };
  return (
    <>
      <a class="skip" href="#glance">Skip to the figures</a>
      <header class="top">
        <div class="bar-1">
          <h1><span class="brand">Lyceum</span> <span class="server">{frame?.fleet.server ?? ""}</span> {frame && <span class="quiet">{frame.fleet.version}</span>}</h1>
          <span class="health" role="status" aria-live="polite"><a href={tone === "warn" || word.includes("finding") ? "#doctor" : "#processes"}><Badge tone={tone}>{word}</Badge></a></span>
          <span class="when" data-paused={paused}>{paused ? "paused" : link.ok ? (stale ? `${age(late / 1000)} old` : clock(link.ok)) : ""}</span>
          <div class="buttons">
            <button type="button" aria-pressed={paused} onClick={() => setPaused(!paused)}>{paused ? "Go on" : "Pause"}</button>
            <button type="button" onClick={turn} title="Change the colours of this page">{`Colours: ${theme}`}</button>
            <button type="button" onClick={leave} title={session.user()}>Log out</button>
          </div>
        </div>
        <nav aria-label="Parts of the page">{parts.map(([id, name]) => <a key={id} href={`#${id}`}>{name}</a>)}</nav>
      </header>
      {(stale || link.error) && (
        <div class="banner" role="alert">
          <Badge tone="bad">{stale ? `The figures are ${age(late / 1000)} old.` : "A question was not answered."}</Badge> <span>{link.error || "The server does not answer"}. Trying again every {period / 1000} s.</span>
        </div>
      )}
      <main class={stale ? "stale" : ""} tabIndex={-1}>
        {!frame ? <p class="card empty loading">{link.error ? "Waiting for the server…" : "Asking every process…"}</p> : (
          <>
            <Tiles frame={frame} />
            <Plots history={live.history} frame={frame} theme={shown} />
            <Processes frame={frame} />
            <Streams frame={frame} />
            <Routes frame={frame} />
            <Engines frame={frame} />
            <Plan comparison={live.comparison} />
            <Doctor diagnosis={live.diagnosis} />
            <Work frame={frame} />
          </>
        )}
      </main>
      <footer>
        <p>Lyceum {frame?.fleet.version}. The same in a terminal: <code>lyceum status --watch</code>. <a href="/_lyceum/ui/licences.txt">Licences</a></p>
      </footer>
    </>
  );
}

function App() {
  const [theme, shown, turn] = useTheme();
  const [inside, setInside] = useState(() => session.token() !== null);
  const [why, setWhy] = useState("");
  const ended = (reason: string, leaving?: Promise<void>) => {
    if (!leaving) session.forget();
    setWhy(reason);
    setInside(false);
  };
  return inside ? <Console theme={theme} shown={shown} turn={turn} ended={ended} /> : <LogIn why={why} done={() => setInside(true)} />;
}

render(<App />, document.getElementById("app")!);
