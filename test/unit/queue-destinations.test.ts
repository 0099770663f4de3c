// Destinations: those that are down back off and hold up no other, and each gets its share of the places.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import type { Delivery } from '../../src/mail/message.ts';
import { until } from '../contract/queue.ts';
import { delivered, greylisted, hour, minute, open, unreachable } from './queue.harness.ts';

describe('destinations', () => {
  it('that are down back off, probed by one at a time, and hold up no other', async () => {
    const q = open();
    await q.queue.start();
    q.state.answer = ({ domain }) => (domain === 'dead' ? unreachable : delivered);
    for (let index = 0; index < 30; index += 1) await q.add(`d${index}`, [`${index}@dead`]);
    await q.settled();
    const first = q.tried().length;
    assert.ok(first >= 1 && first <= 20, String(first));
    await q.add('e', ['x@alive', 'y@dead']);
    await q.settled();
    assert.deepEqual(q.tried(), ['alive: x@alive']);
    await q.pass(59_000);
    assert.deepEqual(q.tried(), []);
    await q.pass(2000);
    assert.equal(q.tried().length, 1);
    // Only what was tried has an attempt counted.
    const counts = (await q.list()).flatMap(({ recipients }) => recipients.map(({ attempts }) => attempts));
    assert.equal(
      counts.reduce((sum, count) => sum + count, 0),
      first + 1,
    );
    q.state.answer = () => delivered;
    await q.pass(6 * minute);
    await until('all are gone', () => q.queue.size === 0);
    await q.queue.stop(0);
  });

  it('hold nobody up for longer than its own wait', async () => {
    const q = open();
    await q.queue.start();
    q.state.answer = () => unreachable;
    await q.add('old', ['old@dead']);
    for (let step = 0; step < 12; step += 1) await q.pass(hour);
    assert.ok(q.tried().length >= 7);
    await q.add('new', ['new@dead']);
    await q.pass(minute + 1000);
    assert.deepEqual(q.tried(), ['dead: new@dead']);
    await q.pass(minute + 1000); // the wait after its first attempt
    assert.deepEqual(q.tried(), ['dead: new@dead']);
    await q.pass(4 * minute);
    assert.deepEqual(q.tried(), []);
    await q.queue.stop(0);
  });

  it('that are down let nobody miss a delay notice or the end', async () => {
    const q = open({ lifetimeMs: 6 * hour, retryMs: [5 * hour] });
    await q.queue.start();
    q.state.answer = () => unreachable;
    await q.add('a', ['a@dead']);
    await q.settled();
    q.tried();
    await q.add('b', ['b@dead']);
    await q.pass(4 * hour + 1000);
    assert.deepEqual(q.notices.toSorted(), ['delayed a@dead 4.4.1', 'delayed b@dead 4.4.1']);
    assert.deepEqual(q.tried(), []);
    await q.pass(hour); // a probe, and everything is blocked beyond the end
    assert.equal(q.tried().length, 1);
    await q.pass(hour);
    await q.pass(2000);
    assert.deepEqual(q.notices.slice(2).toSorted(), ['failed a@dead 5.4.1', 'failed b@dead 5.4.1']);
    assert.deepEqual(q.tried(), []);
    await until('nothing is left', () => q.files().length === 0);
    await q.queue.stop(0);
  });

  it('get 20 attempts at once, all of them 500, and each its share', async () => {
    const q = open();
    await q.queue.start();
    const gate = Promise.withResolvers<Delivery>();
    q.state.answer = () => gate.promise;
    for (let index = 0; index < 60; index += 1) await q.add(`a${index}`, [`${index}@busy`, `${index}@here.example`]);
    await setImmediate();
    assert.equal(q.attempts.filter(({ destination }) => destination === 'busy').length, 20);
    assert.equal(q.attempts.length, 40);
    await q.add(
      'wide',
      Array.from({ length: 500 }, (_, index) => `x@d${index}`),
    );
    await setImmediate();
    assert.equal(q.attempts.length, 500);
    gate.resolve(delivered);
    await until('all are gone', () => q.queue.size === 0);
    assert.equal(q.attempts.length, 60 * 2 + 500);
    await q.queue.stop(0);
  });

  it('that fail side by side have failed once', async () => {
    const q = open();
    await q.queue.start();
    q.state.answer = () => greylisted;
    for (const id of ['a', 'b', 'c']) await q.add(id, [`${id}@dead`]);
    await q.settled();
    for (let step = 0; step < 7; step += 1) await q.pass(minute);
    await q.add('later', ['later@dead']);
    await q.settled();
    for (let step = 0; step < 30; step += 1) await q.pass(minute); // four attempts each, the next after an hour
    q.state.answer = () => unreachable;
    q.tried();
    await q.pass(44 * minute); // the fifth of the three, side by side
    assert.deepEqual(q.tried().toSorted(), ['dead: a@dead', 'dead: b@dead', 'dead: c@dead']);
    for (let step = 0; step < 7; step += 1) await q.pass(minute);
    assert.deepEqual(q.tried(), ['dead: later@dead']);
    await q.queue.stop(0);
  });

  it('are one behind a relay, and local mail is another', async () => {
    const q = open({ isRelayed: true });
    await q.queue.start();
    await q.add('a', ['x@one', 'y@two', 'z@here.example']);
    await q.settled();
    assert.deepEqual(q.tried(), ['@relay: x@one y@two', '@local: z@here.example']);
    await q.queue.stop(0);
  });
});
