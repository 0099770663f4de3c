// Turns measurements into text: tables for the terminal and for docs/performance.md, with the machine and the versions
// that they belong to.
// Promises: medians, never the best; what failed is told; of the document only what stands between a pair of marks
// changes, all else stays.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { arch, cpus, release, totalmem } from 'node:os';
import { join } from 'node:path';
import type { Series } from './growth.ts';
import type { Peer } from './peers.ts';
import { type Figures, workloads } from './workloads.ts';

/** All rounds of one server at one workload, or of one point of a series. */
export type Results = Map<string, Figures[]>;
type Run = {
  readonly rounds: number;
  readonly scale: number;
  readonly failures: number;
  readonly peers: readonly Peer[];
};

export function median(figures: readonly Figures[] | undefined, name: string): number {
  const sorted = (figures ?? []).map(one => one[name] ?? Number.NaN).toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

export function comparison(results: Results, names: readonly string[], peers: readonly Peer[]): string {
  const rates = names.filter(name => name !== 'idle' && name !== 'latency');
  const get = (workload: string, peer: Peer, figure: string, unit = 1): number =>
    median(results.get(`${workload} ${peer.name}`), figure) / unit;
  const rows = (figure: string, unit?: number): string[][] =>
    rates.map(name => [label(name), ...peers.map(peer => shown(get(name, peer, figure, unit)))]);
  const ratio = (name: string): string => {
    const others = peers.filter(({ name: other }) => other !== 'slimsmtp').map(peer => get(name, peer, 'perSecond'));
    const own = peers.find(peer => peer.name === 'slimsmtp');
    const fastest = Math.max(...others.filter(rate => rate > 0));
    return own && Number.isFinite(fastest) ? `${shown(get(name, own, 'perSecond') / fastest)} ×` : '–';
  };
  const head = peers.map(({ name }) => name);
  const parts = [];
  if (rates.length > 0) {
    const speeds = rows('perSecond').map((row, i) => [...row, ratio(rates[i]!)]);
    parts.push('Messages per second:', table(['', ...head, 'ours to the fastest peer'], speeds));
    parts.push('Processor time, ms for each message:', table(['', ...head], rows('processorMs')));
    parts.push('Peak memory (resident, all processes together), MB:', table(['', ...head], rows('peakBytes', 1e6)));
  }
  const others: [string, string, string, number][] = [
    ['latency', 'p50Ms', `p50 of the ${workloads.latency?.title}, ms`, 1],
    ['latency', 'p99Ms', 'p99 of the same, ms', 1],
    ['idle', 'sessionBytes', 'memory of an idle session, kB', 1000],
    ['idle', 'sessions', 'measured with sessions', 1],
  ];
  const chosen = others.filter(([name]) => names.includes(name));
  const lines = chosen.map(([name, figure, title, unit]) => [
    title,
    ...peers.map(peer => shown(get(name, peer, figure, unit))),
  ]);
  if (lines.length > 0) parts.push('Time and memory:', table(['', ...head], lines));
  return parts.join('\n\n');
}

export function growthTable({ columns, grows, points }: Series, results: Results, name: string): string {
  const rows = points
    .filter(point => results.has(`${name} ${point}`))
    .map(point => [
      point.toLocaleString('en'),
      ...Object.keys(columns).map(column => shown(median(results.get(`${name} ${point}`), column))),
    ]);
  return table([grows, ...Object.values(columns)], rows);
}

/** Where, with what and how it was measured. */
export function circumstances({ rounds, scale, failures, peers }: Run): string {
  const debian = /^PRETTY_NAME="(.*)"/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? 'unknown';
  const gigabytes = Math.round(totalmem() / 2 ** 30);
  const queued = peers.filter(({ answersFrom }) => answersFrom === 'queue').map(({ name }) => name);
  return [
    `${new Date().toISOString().slice(0, 10)}, ${rounds === 1 ? 'of one round' : `medians of ${rounds} interleaved rounds`}${scale === 1 ? '' : ` with ${scale} of the messages`}.`,
    ...(failures > 0 ? [`${failures} measurements failed and do not count.`] : []),
    `${cpus().length} × ${cpus()[0]?.model.trim()} (${arch()}), ${gigabytes} GiB, Linux ${release()}, ${debian}, Node ${process.version}.`,
    `${peers.map(({ version }) => version).join(', ')}.`,
    'One server at a time; it shares the processor cores with what sends. Mail lies on a journaled ext4 of its own: a loop device with direct I/O.',
    ...(queued.length > 0
      ? [
          `${queued.join(', ')} answer 250 when the mail is in the queue: their clock runs until it is in the Maildir. The others answer then, file and folder synced (those from npm with the Maildir of \`bench/peers\`).`,
        ]
      : []),
    'Each server has its own defaults, but for limits that would refuse the load. Ours: `SLIM_TRUSTED_NETWORKS=127.0.0.0/8 SLIM_MAX_SESSIONS=0',
    'SLIM_MAX_SESSIONS_PER_CLIENT=0 SLIM_MAX_SIZE=60M SLIM_RELAY_TLS=none`, an address for each Maildir, as an ordinary user, with the flags of the image.',
  ].join('\n');
}

/** Between `<!-- mark -->` and `<!-- /mark -->`; at the end of the document where these are missing. */
export function writeSection(folder: string, mark: string, text: string): void {
  const path = join(folder, 'performance.md');
  const before = existsSync(path) ? readFileSync(path, 'utf8') : '# Performance\n';
  const [start, end] = [`<!-- ${mark} -->`, `<!-- /${mark} -->`];
  const section = `${start}\n${text}\n${end}`;
  const [from, to] = [before.indexOf(start), before.indexOf(end)];
  const isThere = from >= 0 && to > from;
  writeFileSync(
    path,
    isThere ? before.slice(0, from) + section + before.slice(to + end.length) : `${before}\n${section}\n`,
  );
}

const label = (name: string): string => `${name}: ${workloads[name]?.title}`;

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map(row => row[i]?.length ?? 0)));
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, i) => (i ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!))).join(' | ')} |`;
  const rule = `|${widths.map((width, i) => `${'-'.repeat(width + 1)}${i ? ':' : '-'}`).join('|')}|`;
  return [line(head), rule, ...rows.map(line)].join('\n');
}

/** Three digits that count. */
export function shown(value: number): string {
  if (!Number.isFinite(value)) return '–';
  const digits = value === 0 ? 0 : Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits });
}
