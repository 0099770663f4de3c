// Whatever the moment at which the server is ended or the power fails, with judging, signing and forwarding on: no mail
// that got 250 is lost, none is torn, none leaves without the signature or the seal that belongs to it, and each of
// these is right. `npm test` takes a sample of the points; TORTURE=all takes every one (TORTURE_CALLS, TORTURE_PART,
// TORTURE_KILLS, TORTURE_SEED as in crash.test.ts). Wants root, strace and loop devices.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { after, before, test } from 'node:test';
import { Ledger, age, begin } from './account.ts';
import { chance } from './crash-load.ts';
import type { Series } from './crash-points.ts';
import { crash, crashEverywhere, findSeries, fresh, isAll, nothing, recover, scratch } from './crash-run.ts';
import type { Play } from './crash-scenario.ts';
import { Sink } from './crash-sink.ts';
import { openDisk } from './power-disk.ts';
import { type Place, openPlace, undoing } from './server.ts';
import { makeKeys, openTrust, trustLoad } from './trust-scenario.ts';

const timeout = 7200_000;
const undo = undoing(after);
let place: Place;
let play: Play;
let series: Series[];

before(async () => {
  play = await openTrust(undo);
  place = await openPlace(undo, scratch(undo));
  await makeKeys(play, place, await Sink.make());
  series = await findSeries(play, place);
});

test('SIGKILL at each call that changes files or tells somebody', { timeout }, async t => {
  const sum = nothing();
  await crashEverywhere(series, 6, 3, (lane, point) => crash(play, fresh(place, `lane${lane}`), point, sum));
  t.diagnostic(JSON.stringify(sum));
  assert.ok(sum.kills >= sum.runs * 0.6, 'most points are still reached');
});

test('the power fails at each call that changes files or tells somebody', { timeout }, async t => {
  const sum = nothing();
  const disks = await Promise.all(
    [0, 1].map(() => openDisk(undo, mkdtempSync(join(tmpdir(), 'slimsmtp-power-')), 96 << 20)),
  );
  await crashEverywhere(series, 2, disks.length, async (lane, point) => {
    const disk = disks[lane] ?? assert.fail();
    await disk.wipe();
    const where = fresh(place, '', disk.folder);
    execFileSync('sync', ['-f', where.folder]);
    return crash(play, where, point, sum, disk.cut);
  });
  t.diagnostic(JSON.stringify(sum));
  assert.ok(sum.kills >= sum.runs * 0.6, 'most points are still reached');
});

test('SIGKILL at random under load', { timeout }, async t => {
  const kills = Number(process.env['TORTURE_KILLS'] ?? (isAll ? 30 : 2));
  const seed = Number(process.env['TORTURE_SEED'] ?? 4713);
  const random = chance(seed);
  const [where, sink, sum] = [fresh(place, 'load'), await Sink.make(), nothing()];
  const ledger = new Ledger(where, sink);
  const settings = play.settings(where, sink);
  await sink.up();
  for (let round = 0; round < kills; round += 1) {
    const server = await begin(where, settings);
    const running = trustLoad(ledger, server, seed + round, 8);
    await setTimeout(1500 + random() * 1000);
    await server.kill();
    await running.stop();
    age(where);
  }
  await recover(ledger, where, settings, 'the last of the kills', sum, 120_000);
  await play.check?.(where, sink);
  sink.down();
  t.diagnostic(JSON.stringify({ ...sum, kills, sent: ledger.letters.length }));
  assert.ok(sum.acknowledged > kills * 5, 'much was acknowledged');
});
