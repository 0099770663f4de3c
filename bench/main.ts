// How fast SlimSMTP and others are at the same work on this machine: `npm run bench -- [growth] [options]`.
// Promises: servers take turns, and the order turns with each round; a failed measurement is told, and the status is
// then 1; at the end, and at Ctrl-C, nothing is left running. Figures of different runs must not be compared: disks and
// neighbours vary by factors within minutes.
import { appendFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { growth } from './growth.ts';
import { type Peer, peers } from './peers.ts';
import { endAll } from './processes.ts';
import { type Group, barChart, lineChart } from './plot.ts';
import { type Results, circumstances, comparison, growthTable, median, shown, writeSection } from './report.ts';
import { type Place, closePlace, openPlace } from './setup.ts';
import { type Figures, workloads } from './workloads.ts';

const usage = `npm run bench -- [growth] [options]

  --rounds N     5
  --only A,B     ${Object.keys(workloads).join(',')}; of growth ${Object.keys(growth).join(',')}
  --peers A,B    ${Object.keys(peers).join(',')}; growth measures slimsmtp alone
  --scale X      send this part of the messages, to see whether it works
  --full         growth: a million messages in the queue, not 100,000
  --out FOLDER   write performance.md and its plots here; docs/, where all of it is measured (no --only, --peers, --scale)

BENCH_DIR: a folder of about 20 GB that is kept. Without it all is made anew, and deleted at the end.`;

const { values: options, positionals } = (() => {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        rounds: { type: 'string', default: '5' },
        only: { type: 'string' },
        peers: { type: 'string' },
        scale: { type: 'string', default: '1' },
        full: { type: 'boolean', default: false },
        out: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    });
  } catch (error) {
    return refuse(String(error));
  }
})();
const isGrowth = positionals[0] === 'growth';
if (options.help) refuse('', 0);
if (positionals.length > (isGrowth ? 1 : 0)) refuse(`'${positionals.at(-1)}' is not understood`);
const names = chosen(options.only, isGrowth ? growth : workloads);
const peerNames = isGrowth ? ['slimsmtp'] : chosen(options.peers, peers);
const [rounds, scale] = [Number(options.rounds), Number(options.scale)];
if (!(rounds >= 1) || !(scale > 0)) refuse('--rounds and --scale are positive numbers');
const isAll = !options.only && !options.peers && scale === 1;
const out = options.out ?? (isAll ? new URL('../docs', import.meta.url).pathname : undefined);

let failures = 0;
let isEnding = false;
const say = (text: string): void => console.error(text);
for (const [signal, status] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)
  process.once(signal, async () => {
    isEnding = true;
    say('Ending what was started.');
    await endAll();
    closePlace();
    process.exit(status);
  });
try {
  const place = await openPlace(say);
  const results: Results = new Map();
  const running: Peer[] = [];
  for (const name of peerNames) running.push(await peers[name]!(place));
  const text = isGrowth ? await growAll(place, running[0]!, results) : await compareAll(place, running, results);
  const circumstance = circumstances({ rounds, scale, failures, peers: running });
  console.log(`${circumstance}\n\n${text.shown}`);
  if (out) {
    mkdirSync(join(out, 'performance'), { recursive: true });
    for (const [name, svg] of Object.entries(text.plots)) writeFileSync(join(out, 'performance', `${name}.svg`), svg);
    writeSection(out, isGrowth ? 'growth' : 'measured', `${circumstance}\n\n${text.written}`);
  }
} catch (error) {
  if (!isEnding) throw error;
} finally {
  await endAll();
  closePlace();
}
process.exitCode = failures > 0 ? 1 : 0;

type Text = { shown: string; written: string; plots: Record<string, string> };

async function compareAll(where: Place, running: readonly Peer[], results: Results): Promise<Text> {
  for (let round = 0; round < rounds; round += 1)
    for (const name of names)
      for (const peer of turned(running, round).filter(({ cannot }) => !cannot.includes(name))) {
        const share = scale * (peer.share[name] ?? 1);
        await attempt(`${round + 1} ${name} ${peer.name}`, async () =>
          keep(where, results, `${name} ${peer.name}`, await workloads[name]!.measure(where, peer, share)),
        );
      }
  const text = comparison(results, names, running);
  const bars = (name: string): Group['bars'] =>
    running
      .map(peer => [peer.name, median(results.get(`${name} ${peer.name}`), 'perSecond')] as const)
      .filter(([, value]) => value > 0);
  const groups = names.map(name => ({ title: `${name}: ${workloads[name]!.title}`, bars: bars(name) }));
  const plot = barChart(
    'Messages per second, more is better',
    groups.filter(({ bars: found }) => found.length > 0),
  );
  const image = '![Messages per second of each server](performance/workloads.svg)';
  return { shown: text, written: `${image}\n\n${text}`, plots: { workloads: plot } };
}

async function growAll(where: Place, peer: Peer, results: Results): Promise<Text> {
  const parts: [shown: string, written: string][] = [];
  const plots: Text['plots'] = {};
  for (const name of names) {
    const series = growth[name]!;
    const points = series.points.filter(
      point => (name !== 'queue' || options.full || point <= 1e5) && point <= maximum(name),
    );
    for (let round = 0; round < rounds; round += 1)
      await attempt(`${round + 1} ${name}`, () =>
        series.round(where, peer, points, (point, figures) => {
          say(`${round + 1} ${name} ${point}: ${told(figures)}`);
          keep(where, results, `${name} ${point}`, figures);
        }),
      );
    const text = growthTable(series, results, name);
    const lines = series.lines.map(figure => ({
      title: series.columns[figure] ?? figure,
      points: points
        .map(point => [point, median(results.get(`${name} ${point}`), figure)] as const)
        .filter(([, value]) => !Number.isNaN(value)),
    }));
    plots[name] = lineChart(series.title, series.grows, 'ms', lines, series.isOwnWork);
    const image = `![${series.title}](performance/${name}.svg)`;
    parts.push([`${series.title}:\n\n${text}`, `### ${series.title}\n\n${image}\n\n${text}`]);
  }
  return {
    shown: parts.map(([part]) => part).join('\n\n'),
    written: parts.map(([, part]) => part).join('\n\n'),
    plots,
  };
}

/** A smoke run leaves out the points that take long. */
function maximum(name: string): number {
  const largest = Math.max(...growth[name]!.points);
  return scale < 1 ? largest * scale : largest;
}

async function attempt(title: string, measure: () => Promise<unknown>): Promise<void> {
  try {
    const figures = await measure();
    if (figures) say(`${title}: ${told(figures as Figures)}`);
  } catch (error) {
    // Half a run is not written down.
    if (isEnding) throw error;
    failures += 1;
    say(`${title}: FAILED: ${error instanceof Error ? error.message : error}`);
  }
}

function keep(where: Place, results: Results, key: string, figures: Figures): Figures {
  results.set(key, [...(results.get(key) ?? []), figures]);
  appendFileSync(join(where.folder, 'results.jsonl'), `${JSON.stringify({ at: new Date(), key, ...figures })}\n`);
  return figures;
}

function told(figures: Figures): string {
  const parts = Object.entries(figures).map(([name, value]) => `${name} ${shown(value)}`);
  return parts.join(', ');
}

function turned<T>(list: readonly T[], by: number): T[] {
  const first = by % list.length;
  return [...list.slice(first), ...list.slice(0, first)];
}

function chosen(wanted: string | undefined, known: object): string[] {
  const list = wanted?.split(',') ?? Object.keys(known);
  const unknown = list.find(name => !Object.hasOwn(known, name));
  return unknown === undefined ? list : refuse(`'${unknown}' is not among ${Object.keys(known).join(', ')}`);
}

function refuse(reason: string, status = 64): never {
  console.error(reason ? `${reason}\n\n${usage}` : usage);
  process.exit(status);
}
