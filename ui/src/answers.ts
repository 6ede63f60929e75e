// What the server answers: the types of platform/status, admin and doctor, as JSON.

export interface Fleet {
  at: string;
  server: string;
  version: string;
  processes: Sample[] | null;
  streams: Stream[] | null;
  jobs: Lease[] | null;
  database: Engine;
  redis: Engine;
  blob: Engine;
  rollout?: Rollout;
}

export interface Sample {
  at: string;
  machine: number;
  incarnation: number;
  host: string;
  version: string;
  roles: string[] | null;
  started: string;
  ready: boolean;
  draining: boolean;
  mute: boolean;
  cpu_seconds: number;
  cpus: number;
  resident_bytes: number;
  memory_limit_bytes: number;
  goroutines: number;
  routes: Route[] | null;
  streams: ProcessStream[] | null;
  queued_writes: number;
  commit: Histogram;
  delivery: Histogram;
  database_pool: { in_use: number; open: number; max: number };
  redis: Histogram;
  blob: Histogram;
  hops: number;
  error?: string;
}

export interface Route {
  pattern: string;
  role: string;
  hop?: boolean; // another process passed these on, and counts them too
  by_code: Record<string, number>;
  latency: Histogram;
  in_flight: number;
}

export interface Histogram {
  bounds?: number[];
  counts?: number[];
  count: number;
  sum_seconds: number;
}

export interface ProcessStream {
  name: string;
  shards: { position: number; behind: number; owned: boolean; rows: number }[];
  delivery?: Histogram; // not told by older versions
}

export interface Stream {
  name: string;
  role: string;
  shards: { machine: number; epoch: number; position: number }[];
}

export interface Lease {
  name: string;
  machine: number;
  epoch: number;
}

export interface Engine {
  kind: string;
  address: string;
  version?: string;
  round_trip_seconds: number;
  protected: boolean;
  encrypted: boolean;
  connections: number;
  max_connections: number;
  memory_bytes: number;
  max_memory_bytes: number;
  size_bytes: number;
  extra?: Record<string, number>;
  error?: string;
}

export interface Rollout {
  from: string;
  to: string;
  state: string;
  done: number;
  of: number;
  now?: string;
  reason?: string;
  started: string;
  changed: string;
}

export interface Comparison {
  load: { concurrent_users: number; messages_per_second: number; uploads_per_day: number };
  seconds: number;
  shape: string;
  advice: string;
  processes_planned: number;
  processes_running: number;
  busy_cores_planned: number;
  used_cores: number;
  memory_planned_bytes: number;
  resident_bytes: number;
  roles: { role: string; planned: number; running: number; busy_planned: number; used?: number; why: string }[];
}

export type Severity = "critical" | "warning" | "note" | "ok";

export interface Finding {
  severity: Severity;
  rule: string;
  where: string;
  what: string;
  why?: string;
  do?: string;
}

export interface Diagnosis {
  headline: string;
  seconds: number;
  findings: Finding[] | null;
}
