// Small pieces that every section uses.
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";

// colours gives each machine one of ten colours, in the order in which they were first seen; from the eleventh on
// they come again, striped. The number is always written too.
const order = new Map<number, number>();

export function colourOf(machine: number): string {
  if (machine < 0) return "nobody";
  if (!order.has(machine)) order.set(machine, order.size);
  const n = order.get(machine)!;
  return `m${n % 10}${n >= 10 ? " striped" : ""}`;
}

export function Machine({ id, title }: { id: number; title?: string }) {
  return (
    <span class={`machine ${colourOf(id)}`} title={title}>
      <span class="hidden">machine </span>
      {id < 0 ? "nobody" : id}
    </span>
  );
}

export type Tone = "good" | "busy" | "warn" | "bad" | "quiet";

const marks: Record<Tone, string> = { good: "M3 8.500 6.500 12 13 4.500", busy: "M8 3v5l3.500 2", warn: "M8 3v6M8 12v1", bad: "M4 4l8 8M12 4l-8 8", quiet: "M4 8h8" };

export function Badge({ tone, children }: { tone: Tone; children: ComponentChildren }) {
  return (
    <span class={`badge ${tone}`}>
      <svg viewBox="0 0 16 16" aria-hidden="true"><path d={marks[tone]} /></svg>
      {children}
    </span>
  );
}

// Meter is a bar beside its figure.
export function Meter({ share, label }: { share: number; label: string }) {
  const percent = Math.round(Math.min(Math.max(share, 0), 1) * 100);
  return (
    <span class="meter">
      <svg viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">
        <rect class="track" width="100" height="6" />
        <rect class={share > 0.9 ? "bar bad" : share > 0.7 ? "bar warn" : "bar"} width={percent} height="6" />
      </svg>
      <span>{label}</span>
    </span>
  );
}

export function Section({ id, title, note, children }: { id: string; title: string; note?: ComponentChildren; children: ComponentChildren }) {
  return (
    <section id={id} aria-labelledby={`${id}-title`}>
      <header class="head">
        <h2 id={`${id}-title`}>{title}</h2>
        {note && <p>{note}</p>}
      </header>
      {children}
    </section>
  );
}

export interface Column<Row> {
  name: string;
  cell: (row: Row) => ComponentChildren;
  by?: (row: Row) => number | string; // sortable
  number?: boolean;
  head?: boolean; // names the row
}

interface TableProps<Row> {
  label: string;
  columns: Column<Row>[];
  rows: Row[];
  id: (row: Row) => string;
  tone?: (row: Row) => string;
  sort?: string; // column sorted by at first, falling
  limit?: number;
  empty: string;
}

// Table is a table that becomes a list of cards where the screen is narrow; the roles keep it a table for screen
// readers there.
export function Table<Row>({ label, columns, rows, id, tone, sort, limit, empty }: TableProps<Row>) {
  const [by, setBy] = useState(sort ?? "");
  const [falling, setFalling] = useState(true);
  const [all, setAll] = useState(false);
  const column = columns.find((c) => c.name === by);
  let shown = rows;
  if (column?.by) {
    const value = column.by;
    shown = [...rows].sort((a, b) => {
      const x = value(a), y = value(b);
      return (typeof x === "string" ? x.localeCompare(y as string) : x - (y as number)) * (falling ? -1 : 1) || id(a).localeCompare(id(b));
    });
  }
  const rest = limit && !all ? Math.max(shown.length - limit, 0) : 0;
  if (rest) shown = shown.slice(0, limit);
  const choose = (c: Column<Row>) => {
    if (by === c.name) return setFalling(!falling);
    setBy(c.name);
    setFalling(Boolean(c.number));
  };
  if (rows.length === 0) return <p class="card empty">{empty}</p>;
  const sortable = columns.filter((c) => c.by);
  return (
    <div class="card table">
      {sortable.length > 0 && (
        <label class="sorter">
          Sort by{" "}
          <select value={by} onChange={(e) => { setBy(e.currentTarget.value); setFalling(Boolean(columns.find((c) => c.name === e.currentTarget.value)?.number)); }}>
            {!sort && <option value="">as listed</option>}
            {sortable.map((c) => <option key={c.name} value={c.name}>{c.name}</option>)}
          </select>
        </label>
      )}
      <table role="table" aria-label={label}>
        <thead role="rowgroup">
          <tr role="row">
            {columns.map((c) => (
              <th key={c.name} role="columnheader" scope="col" class={c.number ? "number" : ""} aria-sort={c.by ? (by === c.name ? (falling ? "descending" : "ascending") : "none") : undefined}>
                {c.by ? (
                  <button type="button" onClick={() => choose(c)}>
                    {c.name}
                    <span class="arrow" aria-hidden="true">{by === c.name ? (falling ? "▼" : "▲") : ""}</span>
                  </button>
                ) : c.name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody role="rowgroup">
          {shown.map((row) => (
            <tr key={id(row)} role="row" class={tone?.(row) ?? ""}>
              {columns.map((c) => {
                const of = `${c.number ? "number" : ""}`;
                return c.head ? (
                  <th key={c.name} role="rowheader" scope="row" class={of} data-name={c.name}>{c.cell(row)}</th>
                ) : (
                  <td key={c.name} role="cell" class={of} data-name={c.name}>{c.cell(row)}</td>
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
      {limit && (rest > 0 || (all && rows.length > limit)) && (
        <button type="button" class="more" aria-expanded={all} onClick={() => setAll(!all)}>
          {all ? "Show fewer" : `Show ${rest} more`}
        </button>
      )}
    </div>
  );
}
