// Live plots. Lines differ in dash pattern as well as colour; the figures stand beside them as text.
import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";

export interface Line {
  label: string;
  values: (number | null)[];
}

interface Props {
  title: string;
  unit: string;
  times: number[];
  lines: Line[];
  show: (v: number | null) => string;
  theme: string; // a change redraws
  note?: string;
  binary?: boolean; // ticks at powers of two
}

const dashes = [[], [7, 3], [2, 3], [9, 3, 2, 3], [4, 2], [1, 2]];

const powers = Array.from({ length: 40 }, (_, i) => 2 ** (i + 10));

function token(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export function Chart({ title, unit, times, lines, show, theme, note, binary }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const drawn = useRef(show);
  drawn.current = show;
  const [at, setAt] = useState<number | null>(null);
  const names = lines.map((l) => l.label).join("\n");

  useEffect(() => {
    const element = box.current!;
    const grid = { stroke: token("--grid"), width: 1 };
    const axis = { stroke: token("--quiet"), grid, ticks: { show: false }, font: '11px system-ui, "Segoe UI", sans-serif' };
    const u = new uPlot(
      {
        width: Math.max(element.clientWidth, 120), height: 132, legend: { show: false }, padding: [8, 8, 0, 0],
        cursor: { sync: { key: "status" }, y: false, drag: { x: false, y: false }, points: { size: 6 } },
        scales: { y: { range: (_u, _min, max) => [0, max === null || max <= 0 ? 1 : max * 1.12] } },
        axes: [
          { ...axis, size: 24, space: 56, values: (_u, splits) => splits.map((t) => new Date(t * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false })) },
          { ...axis, size: 58, space: 30, ...(binary ? { incrs: powers } : {}), values: (_u, splits) => splits.map((v) => drawn.current(v)) },
        ],
        series: [{}, ...names.split("\n").filter(Boolean).map((label, i) => ({
          label, stroke: token(`--line-${(i % 6) + 1}`), width: 1.75, dash: dashes[i % dashes.length], points: { show: false },
          fill: i === 0 && !names.includes("\n") ? token("--fill") : undefined,
        }))],
        hooks: { setCursor: [(u: uPlot) => setAt(u.cursor.idx ?? null)] },
      },
      [times, ...lines.map((l) => l.values)], element,
    );
    u.root.querySelectorAll("canvas").forEach((c) => c.setAttribute("aria-hidden", "true"));
    plot.current = u;
    const observer = new ResizeObserver(() => u.setSize({ width: Math.max(element.clientWidth, 120), height: 132 }));
    observer.observe(element);
    return () => {
      observer.disconnect();
      u.destroy();
      plot.current = null;
    };
  }, [theme, names]);

  useEffect(() => {
    plot.current?.setData([times, ...lines.map((l) => l.values)]);
  });

  const pointed = at !== null && at < times.length ? at : times.length - 1;
  const now = (l: Line) => show(l.values.at(-1) ?? null);
  const most = (l: Line) => show(l.values.reduce<number | null>((m, v) => (v !== null && (m === null || v > m) ? v : m), null));
  const told = lines.map((l) => `${lines.length > 1 ? `${l.label}: ` : ""}now ${now(l)}, highest ${most(l)}`).join("; ");
  return (
    <figure class="card plot" aria-label={`${title}, ${unit}. ${told}`}>
      <figcaption>
        <span class="name">{title}</span> <span class="unit">{unit}</span>
      </figcaption>
      <div ref={box} class="canvas" />
      <ul class="legend">
        {lines.map((l, i) => (
          <li key={l.label}>
            <svg width="22" height="8" aria-hidden="true">
              <line x1="1" y1="4" x2="21" y2="4" class={`stroke-${(i % 6) + 1}`} stroke-width="2" stroke-dasharray={dashes[i % dashes.length]!.join(" ")} />
            </svg>
            <span class="what" title={l.label}>{l.label}</span> <b>{show(l.values[pointed] ?? null)}</b>
          </li>
        ))}
      </ul>
      {note && <p class="note">{note}</p>}
    </figure>
  );
}
