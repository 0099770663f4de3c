// One run of a crash: a server in a new folder, the scenario, its end at one point, a restart, the account of all mail.
// Promises: what got 250 is delivered or queued; each file is whole; what lies in a Maildir came once; all that was
// queued is delivered in the end; nothing is left but what the server says that it leaves (files in tmp/, swept when
// they are 36 hours old).
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { eventually } from '../integration/client.ts';
import { type Account, Ledger, age, begin, leftovers, settle } from './account.ts';
import { type Point, type Series, killAt, pointsOf, watch } from './crash-points.ts';
import type { Play } from './crash-scenario.ts';
import { Sink } from './crash-sink.ts';
import { type Place, user } from './server.ts';

/** `npm test` takes a sample; TORTURE=all takes everything. */
export const isAll = process.env['TORTURE'] === 'all';
/** `2/5`: the second fifth of the points. */
const [part = 1, parts = 1] = process.env['TORTURE_PART']?.split('/').map(Number) ?? [];
const wanted = new RegExp(process.env['TORTURE_CALLS'] ?? '');
/** Calls are counted for each thread. */
export const oneThread = { UV_THREADPOOL_SIZE: '1' };

type Sum = { runs: number; kills: number; acknowledged: number; copies: number; twice: number };
export const nothing = (): Sum => ({ runs: 0, kills: 0, acknowledged: 0, copies: 0, twice: 0 });

/** What the server does in the scenario, undisturbed. TORTURE_CALLS (`fsync|MainThread write`): of that alone. */
export async function findSeries(play: Play, place: Place): Promise<Series[]> {
  const sink = await Sink.make();
  const ledger = new Ledger(place, sink);
  const server = await begin(place, { ...oneThread, ...play.settings(place, sink) });
  const watched = await watch(server);
  assert.ok(await play.run(ledger, place, sink, server), server.log());
  const series = await watched.stop();
  sink.down();
  assert.equal(await server.ended, 0, server.log());
  assert.deepEqual([ledger.twice(), leftovers(place)], [[], []], 'undisturbed');
  await play.check?.(place, sink);
  for (const call of ['fsync', 'write', 'rename'])
    assert.ok(
      series.some(each => each.call === call),
      `no ${call} was seen`,
    );
  return series.filter(({ thread, call }) => wanted.test(`${thread} ${call}`));
}

export function judge({ lost, torn, twice }: Account, where: string): void {
  assert.deepEqual({ lost, torn }, { lost: [], torn: [] }, where);
  // Between the next hop's reply and our record of it nobody can know (RFC 1047). What lies in a Maildir came once.
  assert.deepEqual(
    twice.filter(copy => / in \w/.test(copy)),
    [],
    where,
  );
}

/** Where memory is the disk: what is killed, and loses no power, is tested faster so. */
export function scratch(undo: (undo: () => Promise<void>) => void): string {
  const folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'slimsmtp-crash-'));
  chmodSync(folder, 0o755);
  undo(async () => rmSync(folder, { recursive: true, force: true }));
  return join(folder, 'own');
}

/**
 * A folder beside that of `place`, with nothing in it but a certificate and keys that sign, which take time to make.
 */
export function fresh(place: Place, name: string, folder = join(dirname(place.folder), name)): Place {
  rmSync(join(folder, 'mail'), { recursive: true, force: true });
  rmSync(join(folder, 'data'), { recursive: true, force: true });
  const made = place.another(folder);
  execFileSync('mkdir', [join(folder, 'data')]);
  for (const keys of ['tls', 'dkim']) {
    const kept = join(place.folder, 'data', keys);
    if (existsSync(kept)) execFileSync('cp', ['-a', kept, join(folder, 'data')]);
  }
  if (user.uid !== undefined) execFileSync('chown', [`${user.uid}:${user.gid}`, join(folder, 'data')]);
  return made;
}

/** `onEnd`: what else happens before the restart. Whether the server was ended at that point. */
export async function crash(
  play: Play,
  where: Place,
  point: Point,
  sum: Sum,
  onEnd?: () => Promise<void>,
): Promise<boolean> {
  const sink = await Sink.make();
  const ledger = new Ledger(where, sink);
  const settings = play.settings(where, sink);
  const server = await begin(where, { ...oneThread, ...settings });
  const trace = await killAt(server, point);
  await play.run(ledger, where, sink, server);
  await trace.detach();
  const isHit = server.process.signalCode === 'SIGKILL';
  await server.kill();
  await onEnd?.();
  await sink.up();
  await recover(ledger, where, settings, `SIGKILL at ${point.call} ${point.at} of ${point.thread}`, sum);
  await play.check?.(where, sink);
  sink.down();
  if (isHit) sum.kills += 1;
  return isHit;
}

/** A restart that gets everything delivered. */
export async function recover(
  ledger: Ledger,
  where: Place,
  settings: Record<string, string>,
  at: string,
  sum: Sum,
  withinMs = 30_000,
): Promise<Account> {
  age(where);
  ledger.forget();
  const server = await begin(where, settings);
  const account = await settle(ledger, where, server, withinMs);
  judge(account, `${at}\n${server.log()}`);
  assert.doesNotMatch(server.log(), /cannot be read/, at);
  assert.equal(account.queued, 0, `${at}\n${server.log()}`);
  await server.stop();
  if (leftovers(where).length > 0) {
    // The sweep leaves alone what was read of late, and a link in new/ may have been, by the account.
    age(where);
    const next = await begin(where, settings);
    await eventually(`${at}: ${String(leftovers(where))} is gone`, async () => leftovers(where).length === 0, 10_000);
    await next.stop();
  }
  sum.runs += 1;
  sum.acknowledged += account.acknowledged;
  sum.copies += account.copies;
  sum.twice += account.twice.length;
  return account;
}

/** Runs at every point (or a sample of about `take`), several side by side: a run waits more than it works. */
export async function crashEverywhere(
  series: readonly Series[],
  take: number,
  lanes: number,
  at: (lane: number, point: Point) => Promise<boolean>,
): Promise<void> {
  const all = pointsOf(series, isAll ? Infinity : take);
  const points = all.filter((_, index) => index % parts === part - 1).values();
  const rest = isAll && part === parts ? [...series] : [];
  const work = async (lane: number): Promise<void> => {
    for (const point of points) await at(lane, point);
    // Other runs may make more of a call than the first has made: on, until one ends without a kill.
    for (let each = rest.shift(); each; each = rest.shift())
      for (let next = each.count + 1; await at(lane, { ...each, at: next }); next += 1);
  };
  await Promise.all(Array.from({ length: lanes }, (_, lane) => work(lane)));
}
