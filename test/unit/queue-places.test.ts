// Places: how many attempts there may be at once, in all, for notices and with one address; and which of them must end
// for others.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Lane } from '../../src/mail/message.ts';
import { type Occupied, Places } from '../../src/queue/places.ts';

function open(maxPerAddress = 2) {
  const time = { now: 1_000_000 };
  const freed: string[] = [];
  const places = new Places<string>({ now: () => time.now }, maxPerAddress, waiting => freed.push(waiting));
  const take = (count: number, lane: Lane = 'mail'): Occupied[] =>
    Array.from({ length: count }, () => places.take(lane));
  /** Seconds go by. */
  const pass = (seconds: number): void => {
    for (let second = 0; second < seconds; second += 1) {
      time.now += 1000;
      places.tick();
    }
  };
  return { places, freed, take, pass };
}
const ended = (all: readonly Occupied[]): number[] => all.flatMap((place, at) => (place.isEnded ? [at] : []));

describe('in all', () => {
  it('500 are full; those that go on for 5 s leave room for others, up to 2,000', () => {
    const { places, take, pass } = open();
    take(499);
    assert.equal(places.isFull, false);
    take(1);
    assert.equal(places.isFull, true);
    pass(4);
    assert.equal(places.isFull, true);
    pass(1);
    for (const count of [500, 500, 499]) {
      take(count);
      if (count === 500) pass(5);
    }
    assert.deepEqual([places.size, places.isFull], [1999, false]);
    take(1);
    pass(60);
    assert.deepEqual([places.size, places.isFull], [2000, true]);
  });

  it('whoever leaves makes room, slow or not', () => {
    const { places, take, pass } = open();
    const all = take(500);
    all[0]?.leave();
    assert.equal(places.isFull, false);
    take(1);
    pass(5);
    for (const place of all.slice(1)) place.leave();
    assert.equal(places.size, 1);
    take(500);
    assert.equal(places.isFull, true);
  });
});

describe('where others wait for a place', () => {
  it('the attempt that has gone longest without progress ends, if that is 5 s or longer; one at a time', () => {
    const { places, take, pass } = open();
    const all = take(3);
    const others = [...take(497)];
    for (let round = 0; round < 3; round += 1) {
      pass(5);
      others.push(...take(500));
    }
    for (const place of [...all, ...others]) place.progressed();
    pass(4);
    for (const place of [...others, ...all.slice(0, 1)]) place.progressed();
    places.makeRoom();
    assert.deepEqual(ended(all), []);
    pass(1);
    places.makeRoom();
    places.makeRoom();
    assert.deepEqual(ended(all), [1]);
    all[1]?.leave();
    places.makeRoom();
    assert.deepEqual(ended(all), [1], 'there is room');
    take(1);
    places.makeRoom();
    assert.deepEqual(ended(all), [1, 2]);
    for (const place of others) place.progressed();
    pass(4);
    places.makeRoom();
    assert.deepEqual(ended(all), [0, 1, 2], 'not for ever behind one that does not end');
  });

  it('a clock that is put back makes nobody immortal', () => {
    const time = { now: 1_000_000 };
    const places = new Places<string>({ now: () => time.now }, 2, () => {});
    const place = places.take('notice');
    time.now = 5000;
    places.tick();
    time.now = 10_000;
    places.makeRoom('notice');
    assert.equal(place.isEnded, true);
  });
});

describe('notices to other servers', () => {
  it('have 50 places of their own', () => {
    const { places, take, freed } = open();
    const all = take(50, 'notice');
    assert.deepEqual([places.isNoticeLaneFull, places.isFull], [true, false]);
    places.waitForNoticeLane('a');
    places.waitForNoticeLane('b');
    assert.equal(places.waitsFor('a'), 'notices');
    all[0]?.leave();
    assert.deepEqual(freed, ['a']);
    assert.equal(places.isNoticeLaneFull, false);
  });

  it('that make no progress end for other notices, and leave mail alone', () => {
    const { places, take, pass } = open();
    const mail = take(1);
    const all = take(50, 'notice');
    pass(10);
    assert.deepEqual(ended(all), [], 'nobody waits');
    places.waitForNoticeLane('a');
    pass(1);
    assert.deepEqual([ended(mail), ended(all)], [[], [0]]);
  });
});

describe('with one address', () => {
  it('attempts are counted, whatever leads them there, and the next one waits for one to leave', () => {
    const { places, take, freed } = open();
    const [a, b, c] = take(3);
    assert.deepEqual([a?.enter('192.0.2.1'), b?.enter('192.0.2.1'), c?.enter('192.0.2.1')], [true, true, false]);
    assert.equal(c?.crowdedAt, '192.0.2.1');
    assert.equal(a?.enter('192.0.2.1'), true, 'again, for another session');
    c?.leave();
    places.waitForAddress('192.0.2.1', 'x');
    assert.deepEqual([freed, places.waitsFor('x')], [[], '192.0.2.1']);
    a?.leave();
    assert.deepEqual([freed, places.waitsFor('x')], [['x'], undefined]);
  });

  it('an attempt that turns to another address leaves the first', () => {
    const { places, take, freed } = open(1);
    const [a, b] = take(2);
    a?.enter('192.0.2.1');
    places.waitForAddress('192.0.2.1', 'x');
    a?.enter('192.0.2.2');
    assert.deepEqual(freed, ['x']);
    assert.equal(b?.enter('192.0.2.1'), true);
  });

  it('nobody waits for an address that has room, nor for ever', () => {
    const { places, take, pass, freed } = open(1);
    places.waitForAddress('192.0.2.1', 'x');
    assert.deepEqual(freed.splice(0), ['x']);
    const [a] = take(1);
    a?.enter('192.0.2.1');
    for (const each of ['x', 'y', 'z']) places.waitForAddress('192.0.2.1', each);
    places.forget('z');
    a?.leave(); // x goes on, and turns out to have another address
    assert.deepEqual(freed.splice(0), ['x']);
    pass(1);
    assert.deepEqual(freed, ['y']);
  });
});
