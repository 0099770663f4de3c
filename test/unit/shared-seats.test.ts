// The parts of the queue in PostgreSQL that need no database: the seats that a replica keeps, how far a claim looks back,
// and what goes together in one statement.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import type { LeasedJob } from '../../src/mail/queue-store.ts';
import { Group } from '../../src/postgres/queue/group.ts';
import { LookBack } from '../../src/postgres/queue/look-back.ts';
import { type Seat, Seats, columnsOfSeats, without } from '../../src/postgres/queue/seats.ts';

const job = (destination: string, seat?: number): LeasedJob =>
  ({ destination, seat, record: {}, failures: 0, deaths: 0 }) as unknown as LeasedJob;
const numbers = (seats: readonly Seat[]): readonly number[] => seats.map(({ seat }) => seat);

describe('the seats that a replica keeps', () => {
  it('are handed out once, those of that destination, and no more than are wanted', () => {
    const seats = new Seats(() => undefined);
    for (const seat of [3, 4, 5]) assert.ok(seats.keep(job('a', seat)));
    assert.ok(seats.keep(job('b', 3)));
    assert.deepEqual(numbers(seats.take('a', 2)), [4, 5]);
    assert.deepEqual(numbers(seats.take('a', 2)), [3]);
    assert.deepEqual([seats.has('a'), seats.has('b'), seats.take('a', 1).length], [false, true, 0]);
    assert.deepEqual(numbers(seats.takeAll()), [3]);
    assert.deepEqual(seats.takeAll(), []);
    assert.equal(seats.keep(job('a')), false);
    seats.clear();
  });

  it('go to the jobs that wait, in their order', async () => {
    const seats = new Seats(() => undefined);
    const [first, second, elsewhere] = [job('a'), job('a'), job('b')];
    const all = [first, second, elsewhere].map(each => seats.wait(each));
    assert.ok(seats.keep(job('a', 7)));
    // At once, so that nobody takes it for a seat that is lost.
    assert.deepEqual([first.seat, second.seat, seats.has('a')], [7, undefined, false]);
    assert.ok(seats.keep(job('a', 8)));
    seats.clear();
    assert.deepEqual(await Promise.all(all), [true, true, false]);
    assert.equal(second.seat, 8);
    seats.keep(job('a', 9));
    const later = job('a');
    assert.equal(await seats.wait(later), true);
    assert.equal(later.seat, 9);
    // While a claim had it, and did not use it.
    seats.keep(job('a', 10));
    const kept = seats.takeAll();
    const last = seats.wait(job('a'));
    seats.restore(kept);
    assert.equal(await Promise.race([last, wait(100, 'still')]), true);
    seats.clear();
  });

  it('go back when nobody has used them for a second; and nobody waits for longer than that', async () => {
    const back: (readonly Seat[])[] = [];
    const seats = new Seats(unused => back.push(unused));
    seats.keep(job('a', 1));
    const waiting = seats.wait(job('b'));
    assert.equal(await Promise.race([waiting, wait(900, 'still')]), false);
    assert.deepEqual(back, []);
    // One that is handed out and comes back unused is not younger for that.
    seats.restore(seats.takeAll());
    seats.keep(job('a', 2));
    await wait(600);
    assert.deepEqual(back.map(numbers), [[1]]);
    await wait(900);
    assert.deepEqual(back.map(numbers), [[1], [2]]);
    assert.deepEqual(seats.all(), []);
  });

  it('are a thousand at most; and five hundred jobs wait at most', async () => {
    const seats = new Seats(() => undefined);
    for (let at = 0; at < 1000; at += 1) assert.ok(seats.keep(job(`d${at}`, 0)));
    assert.equal(seats.keep(job('one more', 0)), false);
    seats.clear();
    const waiting = Array.from({ length: 500 }, (_, at) => seats.wait(job(`d${at}`)));
    assert.equal(await Promise.race([seats.wait(job('one more')), wait(100, 'still')]), false);
    seats.clear();
    assert.ok((await Promise.all(waiting)).every(isSeated => !isSeated));
  });

  it('become the parameters of a statement', () => {
    const kept = [
      { destination: 'a', seat: 1, usedAt: 0 },
      { destination: 'b', seat: 1, usedAt: 0 },
    ];
    assert.deepEqual(columnsOfSeats([...kept, job('c')]), [
      ['a', 'b'],
      [1, 1],
    ]);
    assert.deepEqual(without(kept, [job('a', 1), job('b', 2)]), kept.slice(1));
  });
});

describe('how far a claim looks back', () => {
  it('is a second before what the last one has left, and everything every thirty seconds', () => {
    const back = new LookBack();
    assert.equal(back.seconds(1000), 1e9);
    // A claim that fails was none.
    assert.equal(back.seconds(2000), 1e9);
    back.hasLooked(2000, 0);
    assert.equal(back.seconds(2500), 1.5);
    // It has seen one that was due for four seconds, and may have left it.
    back.hasLooked(2500, 4);
    assert.equal(back.seconds(2600), 5.1);
    back.hasLooked(2600, 0);
    assert.equal(back.seconds(31_999), 30.399);
    assert.equal(back.seconds(32_000), 1e9);
    back.hasLooked(32_000, 0);
    assert.equal(back.seconds(32_100), 1.1);
  });
});

describe('a group', () => {
  it('takes along all who come while one is under way, and tells each his own result', async () => {
    const groups: (readonly number[])[] = [];
    const group = new Group<number, number>(3, 0, async items => {
      groups.push(items);
      await wait(20);
      return items.map(item => (item === 4 ? new Error('four') : item * 2));
    });
    const first = group.add(1);
    await wait(5);
    const others = [2, 3, 4, 5].map(item => group.add(item).catch((error: Error) => error.message));
    assert.deepEqual([await first, ...(await Promise.all(others))], [2, 4, 6, 'four', 10]);
    assert.deepEqual(groups, [[1], [2, 3, 4], [5]]);
  });

  it('begins at once after a pause, and waits for others under load; a full one waits for nobody', async () => {
    const begun: { at: number; items: readonly number[] }[] = [];
    const group = new Group<number, number>(2, 100, async items => {
      begun.push({ at: performance.now(), items });
      return items;
    });
    const startedAt = performance.now();
    await group.add(1);
    assert.ok(performance.now() - startedAt < 80);
    await Promise.all([group.add(2), group.add(3), wait(5).then(() => group.add(4))]);
    assert.deepEqual(
      begun.map(({ items }) => items),
      [[1], [2, 3], [4]],
    );
    const [one = 0, two = 0, three = 0] = begun.map(({ at }) => at);
    assert.ok(two - one >= 95 && three - two >= 95, `${two - one} ${three - two}`);
    await wait(120);
    await Promise.all([5, 6, 7, 8, 9].map(item => group.add(item)));
    const later = begun.slice(3);
    assert.deepEqual(
      later.map(({ items }) => items),
      [[5, 6], [7, 8], [9]],
    );
    const [four = 0, five = 0, six = 0] = later.map(({ at }) => at);
    assert.ok(five - four < 80 && six - five >= 95, `${five - four} ${six - five}`);
  });
});
