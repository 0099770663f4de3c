// What an operator sees of the queue, with a reason for each message, and what he may order: to try at once, to hold,
// to release and to remove; the last three also while no server runs.
import assert from 'node:assert/strict';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import type { Delivery } from '../../src/mail/message.ts';
import { orderWithoutServer } from '../../src/queue/admin.ts';
import { NullStore } from '../contract/null-store.ts';
import { until } from '../contract/queue.ts';
import { delivered, failed, greylisted, unreachable } from '../contract/deliveries.ts';
import { base, hour, minute, open } from './queue.harness.ts';

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

  it('is told how much waits, in which state, since when, and for how many next hops', async () => {
    const q = open();
    await q.queue.start();
    assert.deepEqual(await q.queue.count(), {
      waiting: 0,
      sending: 0,
      held: 0,
      oldestAt: undefined,
      destinations: { all: 0, blocked: 0 },
    });
    const hang = Promise.withResolvers<Delivery>();
    q.state.answer = ({ domain }) => {
      if (domain === 'slow') return hang.promise;
      return domain === 'down' ? unreachable : greylisted;
    };
    const came = q.state.now;
    await q.add('a', ['x@down']);
    await q.add('b', ['x@grey']);
    await q.settled();
    q.state.now += 1000;
    await q.add('c', ['x@slow']);
    await until('it is being sent', () => q.attempts.length === 3);
    await q.queue.act('hold', { id: 'b' });
    assert.deepEqual(await q.queue.count(), {
      waiting: 1,
      sending: 1,
      held: 1,
      oldestAt: came,
      destinations: { all: 2, blocked: 1 },
    });
    hang.resolve(delivered);
    await q.queue.stop(1000);
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

describe('the list has a reason for every message that waits', () => {
  const reasons = async (q: ReturnType<typeof open>): Promise<Record<string, string | undefined>> => {
    const found = await q.list();
    return Object.fromEntries(found.map(({ id, recipients }) => [id, recipients[0]?.reason]));
  };

  it('being sent, held, waiting for the probe or for its turn, not tried yet, or what the last attempt brought', async () => {
    const q = open({ store: new NullStore() });
    const gate = Promise.withResolvers<Delivery>();
    q.state.answer = ({ domain }) =>
      domain === 'dead' ? unreachable : domain === 'grey' ? greylisted : domain === 'slow' ? gate.promise : delivered;
    await q.queue.start();
    await q.add('dead1', ['x@dead']);
    await q.add('grey', ['x@grey']);
    for (let turn = 0; turn < 8; turn += 1) await setImmediate();
    await q.add('dead2', ['y@dead']);
    for (let at = 0; at < 21; at += 1) await q.add(`slow${String(at).padStart(2, '0')}`, [`${at}@slow`]);
    await q.add('held', ['x@held', 'y@held']);
    await q.queue.act('hold', { id: 'dead1' });
    for (let turn = 0; turn < 8; turn += 1) await setImmediate();
    const found = await reasons(q);
    assert.deepEqual(
      [found['dead1'], found['dead2'], found['grey'], found['slow00'], found['slow20']],
      [
        'it is held',
        'it waits for the probe of its destination: 4.4.1 refused',
        '4.7.1 come back',
        'it is being sent',
        'it waits for its turn',
      ],
    );
    assert.ok(Object.values(found).every(reason => reason !== undefined && reason !== ''));
    gate.resolve(delivered);
    await q.queue.stop(0);
  });

  it('too many sessions with its address, or too many notices under way', async () => {
    const q = open({ store: new NullStore(), maxSessions: 1 });
    const never = new Promise<Delivery>(() => {});
    const crowded: Delivery = { kind: 'deferred', status: '4.4.5', text: 'crowded', isCrowded: true };
    q.state.answer = ({ domain }, place) =>
      place.enter(domain.startsWith('n') ? domain : '192.0.2.1') ? never : crowded;
    await q.queue.start();
    for (const id of ['a', 'b']) await q.add(id, [`x@${id}`]);
    for (let at = 0; at < 51; at += 1) await q.add(`n${at}`, [`x@n${at}`], { from: '' });
    for (let turn = 0; turn < 8; turn += 1) await setImmediate();
    const found = await reasons(q);
    assert.equal(found['b'], 'it waits until fewer sessions with 192.0.2.1 are open');
    assert.equal(found['n50'], 'it waits until fewer notices are under way');
    await q.queue.stop(0);
  });

  it('in flight at a crash', async () => {
    const inFlight = join(mkdtempSync(join(base, 'crash-')), 'in-flight');
    writeFileSync(inFlight, 'in-flight 0 0 a\nin-flight 0 0 b\n');
    const before = new NullStore();
    const q = open({ store: before, inFlight });
    q.state.answer = () => new Promise<Delivery>(() => {});
    for (const id of ['a', 'b']) await q.add(id, [`x@${id}`]);
    const store = new NullStore(before.rows);
    const again = open({ store, inFlight });
    again.state.answer = () => new Promise<Delivery>(() => {});
    await again.queue.start();
    for (let turn = 0; turn < 8; turn += 1) await setImmediate();
    const found = Object.values(await reasons(again)).toSorted();
    assert.deepEqual(found, ['it is being sent', 'it was in flight when the server died: it waits to be tried alone']);
    await again.queue.stop(0);
  });
});

it('without a server an operator holds, releases and removes in the store, as the server would', async () => {
  const store = new NullStore();
  const q = open({ store });
  for (const id of ['a', 'b', 'c']) await q.add(id, [`x@${id}`, `y@${id}`], { from: `${id}@example.com` });
  assert.equal(await orderWithoutServer(store, 'hold', { domain: 'A' }, 0), 1);
  assert.equal(await orderWithoutServer(store, 'remove', { sender: 'B@example.com' }, 0), 1);
  assert.equal(await orderWithoutServer(store, 'remove', { id: 'nobody' }, 0), 0);
  const again = open({ store });
  again.state.answer = () => greylisted;
  await again.queue.start();
  for (let turn = 0; turn < 8; turn += 1) await setImmediate();
  assert.deepEqual([again.tried(), again.queue.size], [['c: x@c y@c'], 2]);
  await again.queue.stop(0);
  assert.equal(await orderWithoutServer(store, 'release', {}, 5), 1);
  assert.deepEqual(
    (await store.read('a')).recipients.map(({ isHeld, nextAt }) => [isHeld, nextAt]),
    [
      [false, 5],
      [false, 5],
    ],
  );
});
