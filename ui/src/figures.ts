// Histograms, and figures as people read them.
import type { Histogram } from "./answers";

export const none: Histogram = { count: 0, sum_seconds: 0 };

// minus is what was observed since an earlier sample of the same run of a process.
export function minus(now: Histogram, earlier: Histogram | undefined): Histogram {
  if (!earlier || earlier.count === 0 || earlier.count > now.count || earlier.counts?.length !== now.counts?.length) return now;
  return {
    bounds: now.bounds, counts: now.counts?.map((n, i) => Math.max(n - (earlier.counts?.[i] ?? 0), 0)),
    count: now.count - earlier.count, sum_seconds: now.sum_seconds - earlier.sum_seconds,
  };
}

// plus adds the observations of another process with the same bounds.
export function plus(a: Histogram, b: Histogram): Histogram {
  if (a.count === 0) return b;
  if (b.count === 0 || a.counts?.length !== b.counts?.length) return a;
  return { bounds: a.bounds, counts: a.counts?.map((n, i) => n + (b.counts?.[i] ?? 0)), count: a.count + b.count, sum_seconds: a.sum_seconds + b.sum_seconds };
}

// quantile is the value in seconds under which a share q lies, by interpolation in its bucket; null without observations.
export function quantile(h: Histogram, q: number): number | null {
  if (h.count === 0 || !h.bounds || !h.counts) return null;
  const rank = q * h.count;
  let low = 0, before = 0;
  for (let i = 0; i < h.bounds.length; i++) {
    const bound = h.bounds[i]!, count = h.counts[i] ?? 0;
    if (count >= rank) return count === before ? bound : low + ((bound - low) * (rank - before)) / (count - before);
    low = bound;
    before = count;
  }
  return low;
}

const dash = "–";
const grouped = new Intl.NumberFormat("en");

export function count(n: number): string {
  return Math.abs(n) < 100000 ? grouped.format(Math.round(n)) : Math.abs(n) < 1e6 ? `${(n / 1e3).toFixed(0)} k` : `${(n / 1e6).toFixed(1)} M`;
}

// amount has as many digits as tell something: 0.04, 3.2, 48, 1,250.
export function amount(n: number | null): string {
  if (n === null || !Number.isFinite(n)) return dash;
  if (n === 0) return "0";
  if (n < 0.01) return "<0.01";
  if (n < 1) return n.toFixed(2);
  return n < 99.95 ? n.toFixed(1) : count(n);
}

export function seconds(s: number | null): string {
  if (s === null) return dash;
  if (s === 0) return "0 ms";
  if (s < 0.001) return `${(s * 1e3).toFixed(2)} ms`;
  if (s < 0.01) return `${(s * 1e3).toFixed(1)} ms`;
  if (s < 1) return `${(s * 1e3).toFixed(0)} ms`;
  return s < 10 ? `${s.toFixed(1)} s` : `${s.toFixed(0)} s`;
}

export function bytes(n: number): string {
  if (n <= 0) return dash;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  while (n >= 1000 && i < units.length - 1) {
    n /= 1024;
    i++;
  }
  return `${n < 10 && i > 0 ? n.toFixed(1) : n.toFixed(0)} ${units[i]}`;
}

// age is a length of time in its two largest units.
export function age(s: number): string {
  s = Math.max(0, Math.round(s));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60 ? `${s % 60} s` : ""}`.trim();
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export function clock(ms: number): string {
  return new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
}

// ranges writes 0,1,2,5 as 0–2, 5.
export function ranges(list: number[]): string {
  const out: string[] = [];
  for (let i = 0; i < list.length; i++) {
    const from = list[i]!;
    while (i + 1 < list.length && list[i + 1] === list[i]! + 1) i++;
    out.push(from === list[i] ? `${from}` : `${from}–${list[i]}`);
  }
  return out.join(", ");
}
