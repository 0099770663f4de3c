// What lost answers have left in the queue in PostgreSQL: when it is given back, with a double in place of the database
// and of the clock.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import type { Query } from '../../src/postgres/pool.ts';
import { Orphans } from '../../src/postgres/queue/orphans.ts';

function orphans() {
  const world = { now: 0, asked: [] as string[], fails: false };
  const query: Query = async ({ name }, values) => {
    const what = name.replace('slimsmtp_queue_', '');
    if (what !== 'clock') world.asked.push(`${what} ${JSON.stringify(values)}`);
    if (world.fails) throw new Error('away');
    return what === 'clock' ? [{ now: '1000' }] : what === 'unseat' ? [{}] : [];
  };
  const instance = new Orphans(
    query,
    () => ['known'],
    () => world.now,
  );
  const takes = (): Promise<string> => instance.taking(async () => 'taken');
  return { instance, world, takes };
}
const freed = 'orphans ["known","1000"]';

describe('orphans', () => {
  it('are freed ten seconds after the first doubt, and every minute without any', async () => {
    const { instance, world, takes } = orphans();
    instance.doubt();
    world.now = 9_000;
    instance.doubt();
    assert.equal(await takes(), 'taken');
    assert.deepEqual(world.asked, []);
    world.now = 10_000;
    await takes();
    await takes();
    assert.deepEqual(world.asked, [freed]);
    world.now = 69_999;
    await takes();
    assert.equal(world.asked.length, 1);
    world.now = 70_000;
    await takes();
    assert.deepEqual(world.asked, [freed, freed]);
  });

  it('are freed while nothing is taken, and nothing is taken meanwhile', async () => {
    const { instance, world, takes } = orphans();
    const gate = Promise.withResolvers<string>();
    const before = instance.taking(() => gate.promise);
    instance.doubt();
    world.now = 10_000;
    const later = takes();
    assert.equal(await Promise.race([later, wait(50, 'waits')]), 'waits');
    assert.deepEqual(world.asked, []);
    // A doubt that comes now is one of its own.
    gate.resolve('before');
    assert.equal(await before, 'before');
    assert.equal(await later, 'taken');
    assert.deepEqual(world.asked, [freed]);
  });

  it('are freed later where the database is away, and taking goes on', async () => {
    const { instance, world, takes } = orphans();
    instance.doubt();
    world.now = 10_000;
    world.fails = true;
    assert.equal(await takes(), 'taken');
    world.fails = false;
    world.now = 19_999;
    await takes();
    assert.equal(world.asked.length, 0);
    world.now = 20_000;
    await takes();
    assert.deepEqual(world.asked, [freed]);
  });

  it('are looked for when seats may not have gone back', async () => {
    const { instance, world, takes } = orphans();
    assert.equal(await instance.unseat('7', [{ destination: 'a', seat: 3 }]), true);
    assert.deepEqual(world.asked.splice(0), ['unseat ["7",["a"],[3],"1000"]']);
    world.fails = true;
    assert.equal(await instance.unseat('7', [{ destination: 'a', seat: 3 }]), false);
    world.fails = false;
    world.now = 10_000;
    await takes();
    assert.equal(world.asked.at(-1), freed);
  });
});
