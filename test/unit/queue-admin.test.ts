// What an operator may order: to try at once, to hold, to release and to remove.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Delivery } from '../../src/mail/message.ts';
import { until } from '../contract/queue.ts';
import { delivered, failed, greylisted, hour, minute, open, unreachable } from './queue.harness.ts';

describe('an operator', () => {
  it('holds and releases, by domain, sender and id, also over a restart', async () => {
    const q = open();
    await q.queue.start();
    q.state.answer = () => greylisted;
    await q.add('a', ['x@one', 'y@two']);
    await q.add('b', ['x@one'], { from: 'Other@example.com' });
    await q.settled();
    assert.equal(await q.queue.act('hold', { domain: 'ONE' }), 2);
    assert.deepEqual(
      (await q.list()).map(({ isHeld }) => isHeld),
      [false, true],
    );
    q.tried();
    await q.queue.stop(1000);
    const again = open({ folder: q.folder });
    again.state.answer = () => greylisted;
    await again.queue.start();
    for (let step = 0; step < 42; step += 1) await again.pass(3 * hour);
    assert.deepEqual(new Set(again.tried()), new Set(['two: y@two']));
    assert.deepEqual(again.notices, ['delayed y@two 4.7.1', 'failed y@two 5.7.1']); // what is held does not expire
    assert.equal(await again.queue.act('release', { sender: 'other@EXAMPLE.com' }), 1);
    await again.settled();
    assert.deepEqual(again.tried(), ['one: x@one']);
    assert.equal(await again.queue.act('release', { id: 'nobody' }), 0);
    await until('it is gone', () => again.queue.size === 1);
    await again.queue.stop(0);
  });

  it('has mail tried at once, also where the destination backs off', async () => {
    const q = open();
    await q.queue.start();
    q.state.answer = () => unreachable;
    await q.add('a', ['x@dead']);
    await q.settled();
    await q.add('b', ['y@dead']);
    q.tried();
    q.state.answer = () => delivered;
    assert.equal(await q.queue.act('retry', {}), 2);
    await until('both are gone', () => q.queue.size === 0);
    await q.queue.stop(0);
  });

  it('holds what is being tried, or has company, and it neither expires nor goes along', async () => {
    const q = open({ isRelayed: true });
    await q.queue.start();
    const gate = Promise.withResolvers<Delivery>();
    q.state.answer = () => gate.promise;
    await q.add('a', ['x@one', 'y@two']);
    assert.equal(await q.queue.act('hold', { domain: 'one' }), 1);
    q.state.now += 200 * hour;
    q.state.answer = () => greylisted;
    gate.resolve(greylisted);
    await q.settled();
    assert.deepEqual(q.notices, ['delayed x@one 4.7.1, failed y@two 5.7.1']);
    await q.add('b', ['x@one', 'y@two']);
    await q.settled();
    await q.queue.act('hold', { domain: 'one' });
    q.tried();
    await q.pass(minute + 1000);
    assert.deepEqual(q.tried(), ['@relay: y@two']);
    await q.queue.stop(0);
  });

  it('removes, and nothing comes back, nor is anyone told', async () => {
    const q = open();
    await q.queue.start();
    const gate = Promise.withResolvers<Delivery>();
    q.state.answer = () => gate.promise;
    await q.add('a', ['x@one', 'y@two']);
    await q.add('b', ['x@one']);
    assert.equal(await q.queue.act('remove', { domain: 'one' }), 2);
    assert.deepEqual(
      (await q.list()).map(({ recipients }) => recipients.map(({ address }) => address)),
      [['y@two']],
    );
    gate.resolve(failed);
    await q.settled();
    assert.deepEqual(q.notices, ['failed y@two 5.1.1']);
    await until('nothing is left', () => q.files().length === 0);
    assert.equal(q.queue.size, 0);
    await q.queue.stop(0);
  });
});
