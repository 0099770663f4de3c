// The figures in a few rows for people: what `slimsmtp status` and the status page show. Pure.
import type { Figures } from './figures.ts';

/** A row: what it is about, and its facts, each short. */
type Row = readonly [about: string, ...facts: string[]];

/** Gives the sum of all samples of a metric that have these labels; undefined: there is no such metric. */
type Find = (name: string, labels?: Readonly<Record<string, string>>) => number | undefined;
const finder =
  ({ metrics }: Figures): Find =>
  (name, labels = {}) =>
    metrics
      .find(metric => metric.name === name)
      ?.samples.filter(sample => Object.entries(labels).every(([label, value]) => sample.labels[label] === value))
      .reduce((sum, { value }) => sum + value, 0);

/** The few numbers that are looked at first: what it is, and its value. */
export function tilesOf(figures: Figures): readonly (readonly [string, string])[] {
  const find = finder(figures);
  const oldest = find('slimsmtp_queue_oldest_seconds') ?? 0;
  return [
    ['sessions open', number(find('slimsmtp_sessions') ?? 0)],
    ['messages in the queue', number(find('slimsmtp_queue_messages') ?? 0)],
    ['age of the oldest', oldest === 0 ? '–' : age(oldest)],
    ['next hops backing off', number(find('slimsmtp_destinations', { state: 'blocked' }) ?? 0)],
  ];
}

export function summarize(figures: Figures): readonly Row[] {
  const { now, startedAt, health } = figures;
  const search = finder(figures);
  const find: Find = (name, labels) => search(`slimsmtp_${name}`, labels);
  const get = (name: string, labels?: Readonly<Record<string, string>>): number => find(name, labels) ?? 0;
  const each = (name: string, label: string, words: readonly string[]): string[] =>
    words.map(word => `${number(get(name, { [label]: word }))} ${word}`);
  const isCounting = find('messages_total') !== undefined;
  const oldest = get('queue_oldest_seconds');
  const judged = ['dmarc', 'spf', 'dkim'].map(method => {
    const count = (result: string): string => number(get('authentication_total', { method, result }));
    return `${method} ${count('pass')} pass, ${count('fail')} fail`;
  });
  const free = (folder: string): string[] => {
    const bytes = find('free_bytes', { folder });
    return bytes === undefined ? [] : [`${size(bytes)} free for ${folder}`];
  };
  const database = find('database_up');
  const steward = find('steward_questions');
  const journal = find('journal_writable');
  const rows: readonly Row[] = [
    ['queue', ...each('queue_messages', 'state', ['waiting', 'sending', 'held']), `oldest ${age(oldest)}`],
    [
      'next hops',
      `${number(get('destinations'))} with mail`,
      `${number(get('destinations', { state: 'blocked' }))} backing off`,
    ],
    ['sessions', `${number(get('sessions'))} open`, ...(isCounting ? sessionsOf(get) : [])],
  ];
  const counted: readonly Row[] = [
    ['messages', ...each('messages_total', 'result', ['delivered', 'queued', 'refused', 'abandoned'])],
    [
      'refused',
      `${number(get('refused_total', { command: 'RCPT' }))} recipients`,
      `${number(get('refused_total', { command: 'MAIL' }))} senders`,
    ],
    ['checks', ...judged],
    ['logins', ...each('logins_total', 'result', ['ok', 'failed', 'later'])],
    ['sent', ...each('deliveries_total', 'result', ['delivered', 'deferred', 'failed'])],
    ['notices', `${number(get('notices_total'))} told`, `${number(get('forwards_total'))} forwards`],
    ['counted', `from 0, since the start ${age((now - startedAt) / 1000)} ago`],
  ];
  return [
    ...rows,
    ...(isCounting ? counted : []),
    [
      'parts',
      health === 'unhealthy' ? 'takes no mail' : 'takes mail',
      ...(database === undefined ? [] : [`database ${database === 1 ? 'up' : 'down'}`]),
      ...(journal === undefined ? [] : [`journal ${journal === 1 ? 'writable' : 'not writable'}`]),
      ...(steward === undefined ? [] : [`steward owes ${number(steward)} answers`]),
    ],
    ['disk', ...free('data'), ...free('mail')],
    ['certificate', until(get('certificate_expiry_timestamp_seconds') - now / 1000)],
    ['memory', ...memoryOf(figures)],
  ];
}

function sessionsOf(get: (name: string) => number): string[] {
  return [
    `${number(get('sessions_total'))} ended`,
    `${number(get('probes_total'))} probes`,
    `${number(get('turned_away_total'))} turned away`,
  ];
}

function memoryOf(figures: Figures): string[] {
  const find = finder(figures);
  const cpu = `${(find('process_cpu_seconds_total') ?? 0).toFixed(1)} s of processor time`;
  return [size(find('process_resident_memory_bytes') ?? 0), cpu];
}

/** With commas, as the docs write numbers. */
const number = (value: number): string => value.toLocaleString('en');

function size(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const at = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  const value = bytes / 1024 ** at;
  return `${value.toFixed(value < 10 && at > 0 ? 1 : 0)} ${units[at]}`;
}

/** A time span in one or two units. */
export function age(seconds: number): string {
  const units = [
    ['d', 86_400],
    ['h', 3600],
    ['min', 60],
  ] as const;
  for (const [unit, length] of units) if (seconds >= 2 * length) return `${Math.floor(seconds / length)} ${unit}`;
  return `${Math.floor(seconds)} s`;
}

const until = (seconds: number): string => (seconds > 0 ? `good for ${age(seconds)}` : 'has expired');
