// Whatever the moment at which the power fails, no mail that got 250 is lost, and none is torn. Wants root, strace and
// loop devices. `npm test` takes a sample of the moments and points; TORTURE=all takes every point and TORTURE_CUTS
// (40) moments.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { after, before, test } from 'node:test';
import { eventually } from '../integration/client.ts';
import { Ledger, begin, mailSettings } from './account.ts';
import { chance, load } from './crash-load.ts';
import type { Series } from './crash-points.ts';
import { crash, crashEverywhere, findSeries, fresh, isAll, nothing, recover } from './crash-run.ts';
import { mail } from './crash-scenario.ts';
import { Sink } from './crash-sink.ts';
import { type Disk, openDisk } from './power-disk.ts';
import { type Place, openPlace, undoing } from './server.ts';

const timeout = 7200_000;
const undo = undoing(after);
const lanes = 4;
let place: Place;
let series: Series[];
const disks: Disk[] = [];

before(async () => {
  for (let lane = 0; lane < lanes; lane += 1)
    disks.push(await openDisk(undo, fs.mkdtempSync(join(tmpdir(), 'slimsmtp-power-')), 96 << 20));
  place = await openPlace(undo);
  series = await findSeries(mail, place);
});

const disk = (lane = 0): Disk => disks[lane] ?? assert.fail();
const onDisk = async (lane: number): Promise<Place> => {
  await disk(lane).wipe();
  const where = fresh(place, '', disk(lane).folder);
  execFileSync('sync', ['-f', where.folder]);
  return where;
};

test('the disk forgets what was not synced, and nothing else', async () => {
  const { folder, cut } = disk();
  const write = (name: string, isSynced: boolean): void => {
    const fd = fs.openSync(join(folder, `${name}.tmp`), 'w');
    fs.writeSync(fd, name);
    if (isSynced) fs.fsyncSync(fd);
    fs.closeSync(fd);
  };
  write('synced', true);
  fs.renameSync(join(folder, 'synced.tmp'), join(folder, 'renamed'));
  write('unsynced', false);
  await cut();
  assert.equal(fs.readFileSync(join(folder, 'synced.tmp'), 'utf8'), 'synced');
  assert.deepEqual(
    fs.readdirSync(folder).filter(name => /^(renamed|unsynced)/.test(name)),
    [],
  );
});

test('the power fails at each call that changes files or tells somebody', { timeout }, async t => {
  const sum = nothing();
  await crashEverywhere(series, 4, lanes, async (lane, point) =>
    crash(mail, await onDisk(lane), point, sum, disk(lane).cut),
  );
  t.diagnostic(JSON.stringify(sum));
  assert.ok(sum.kills >= sum.runs * 0.7, 'most points are still reached');
});

test('the power fails at random under load', { timeout }, async t => {
  const cuts = Number(process.env['TORTURE_CUTS'] ?? (isAll ? 40 : 1));
  const random = chance(Number(process.env['TORTURE_SEED'] ?? 4712));
  const sum = nothing();
  for (let round = 0; round < cuts; round += 1) {
    const [where, sink] = [await onDisk(0), await Sink.make()];
    const ledger = new Ledger(where, sink);
    const settings = { ...mailSettings(where), ...sink.settings };
    await sink.up();
    const server = await begin(where, settings);
    const running = load(ledger, server.port, random, 10);
    await setTimeout(100 + random() * 1500);
    // Stopped, not ended: what it has said until now is heard to the last octet.
    server.process.kill('SIGSTOP');
    await eventually('every thread stands still', async () => isStopped(server.process.pid ?? 0), 5000);
    await setTimeout(50);
    const heard = ledger.letters.filter(({ reply }) => reply?.startsWith('250')).length;
    await disk().keep();
    await server.kill();
    await running.stop();
    await disk().cut();
    const { acknowledged } = await recover(ledger, where, settings, `cut ${round}`, sum);
    assert.equal(acknowledged, heard, 'nothing was said after the cut');
    sink.down();
    sum.kills += 1;
  }
  t.diagnostic(JSON.stringify(sum));
});

function isStopped(pid: number): boolean {
  const states = fs.readdirSync(`/proc/${pid}/task`).map(id => fs.readFileSync(`/proc/${pid}/task/${id}/stat`, 'utf8'));
  return states.every(stat => stat.slice(stat.lastIndexOf(')') + 2).startsWith('T'));
}
