// Whatever the moment at which the server is ended, no mail that got 250 is lost, and none is torn.
// `npm test` takes a sample of the points; TORTURE=all takes every one (TORTURE_CALLS='fsync|MainThread write': of
// these alone). TORTURE_MESSAGES, TORTURE_KILLS and TORTURE_SEED are about the load. Wants strace.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';
import { after, before, test } from 'node:test';
import { eventually } from '../integration/client.ts';
import { Ledger, age, begin, mailSettings, settle, waiting } from './account.ts';
import { chance, load } from './crash-load.ts';
import type { Series } from './crash-points.ts';
import { crash, crashEverywhere, findSeries, fresh, isAll, nothing, oneThread, recover, scratch } from './crash-run.ts';
import { mail, receive } from './crash-scenario.ts';
import { Sink } from './crash-sink.ts';
import { type Place, openPlace, undoing } from './server.ts';

const timeout = 7200_000;
const undo = undoing(after);
let place: Place;
let series: Series[];

before(async () => {
  place = await openPlace(undo, scratch(undo));
  series = await findSeries(mail, place);
});

test('SIGKILL at each call that changes files or tells somebody', { timeout }, async t => {
  const sum = nothing();
  await crashEverywhere(series, 10, 5, (lane, point) => crash(mail, fresh(place, `lane${lane}`), point, sum));
  t.diagnostic(series.map(({ thread, call, count }) => `${thread} ${call} ${count}`).join(', '));
  t.diagnostic(JSON.stringify(sum));
  assert.ok(sum.kills >= sum.runs * 0.7, 'most points are still reached');
});

test('SIGKILL again, while it recovers from SIGKILL', { timeout }, async t => {
  const [where, sink, sum] = [fresh(place, 'recovery'), await Sink.make(), nothing()];
  const ledger = new Ledger(where, sink);
  const settings = { ...mailSettings(where), ...sink.settings };
  const first = await begin(where, settings);
  await receive(ledger, first);
  const listed = (await where.slimsmtp('queue', 'list', '--json')).trim().split('\n');
  assert.deepEqual(
    listed.map(line => (JSON.parse(line) as { id: string }).id).toSorted(),
    (await waiting(where)).toSorted(),
  );
  const more = load(ledger, first.port, chance(1), 6);
  await setTimeout(100);
  await first.kill();
  await more.stop();
  age(where);
  const kept = `${where.folder}-kept`;
  execFileSync('cp', ['-a', '-T', where.folder, kept]);
  await sink.up();
  const calls = isAll
    ? series.map(({ call }) => call).filter(call => call !== 'write' && call !== 'openat')
    : ['fsync', 'unlink'];
  for (const call of new Set(calls))
    for (let at = 1, isHit = true; isHit; at += isAll ? 1 : 20) {
      rmSync(where.folder, { recursive: true });
      execFileSync('cp', ['-a', '-T', kept, where.folder]);
      sink.taken.splice(0);
      ledger.forget();
      const inject = ['-e', `trace=${call}`, '-e', `inject=${call}:signal=KILL:when=${at}`];
      // Not with --seccomp-bpf: strace 6.1 injects no signals then.
      const prefix = ['strace', '-f', '-qq', '-o', '/dev/null', ...inject];
      const second = await where.start({ ...settings, ...oneThread }, { prefix, isPatient: true });
      await settle(ledger, where, second).catch(() => undefined);
      isHit = second.process.signalCode === 'SIGKILL';
      await second.kill();
      await recover(ledger, where, settings, `SIGKILL at ${call} ${at} of a start`, sum);
      if (isHit) sum.kills += 1;
    }
  sink.down();
  t.diagnostic(JSON.stringify(sum));
  assert.ok(sum.kills > 1);
});

test('SIGKILL at random under load', { timeout }, async t => {
  const messages = Number(process.env['TORTURE_MESSAGES'] ?? (isAll ? 10_000 : 300));
  const kills = Number(process.env['TORTURE_KILLS'] ?? (isAll ? 100 : 3));
  const random = chance(Number(process.env['TORTURE_SEED'] ?? 4711));
  const [where, sink, sum] = [fresh(place, 'load'), await Sink.make(), nothing()];
  const ledger = new Ledger(where, sink);
  const settings = { ...mailSettings(where), ...sink.settings };
  await sink.up();
  const acknowledged = (): number => ledger.letters.filter(({ reply }) => reply).length;
  for (let round = 1; round <= kills; round += 1) {
    const server = await begin(where, settings);
    const running = load(ledger, server.port, random, 10);
    const share = (round * messages) / kills;
    await eventually(`${share} messages`, async () => acknowledged() >= share, 120_000);
    await setTimeout(random() * 20);
    await server.kill();
    await running.stop();
    age(where);
  }
  const { twice } = await recover(ledger, where, settings, 'the last of the kills', sum, 300_000);
  sink.down();
  t.diagnostic(JSON.stringify({ ...sum, kills, sent: ledger.letters.length }));
  assert.ok(
    ledger.letters.every(({ reply = '250' }) => reply.startsWith('250')),
    'a kill is no refusal',
  );
  assert.ok(twice.length <= kills * 20, 'no more than were under way to the one destination');
});
