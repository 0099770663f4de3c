// When mail is tried again, when its sender hears that it is late, and when it is given up.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { until } from '../contract/queue.ts';
import { greylisted } from '../contract/deliveries.ts';
import { hour, minute, noTls, open } from './queue.harness.ts';

describe('times', () => {
  it('are those of SLIM_RETRY, the last one repeated, with 10 % of jitter', async () => {
    const q = open();
    await q.queue.start();
    q.state.answer = () => greylisted;
    await q.add('a', ['x@peer.example']);
    await q.settled();
    const expected = [1, 5, 15, 60, 180, 180, 180].map(minutes => minutes * minute);
    for (const [index, wait] of expected.entries()) {
      const [next] = (await q.list())[0]?.recipients ?? [];
      assert.equal(next?.attempts, index + 1);
      assert.equal(
        Date.parse(next?.nextAttemptAt ?? '') - q.state.now,
        Math.round(wait * (0.9 + q.state.jitter / 1000)),
      );
      assert.equal(q.tried().length, 1);
      await q.pass(wait * 0.9 - 1000);
      assert.equal(q.tried().length, 0);
      q.state.jitter = [200, 0, 100, 37][index % 4] ?? 0;
      await q.pass(wait * 0.2 + 2000);
    }
    await q.queue.stop(0);
  });

  it('survive a restart', async () => {
    const q = open();
    await q.queue.start();
    q.state.answer = () => greylisted;
    await q.add('a', ['x@peer.example']);
    await q.settled();
    await q.queue.stop(1000);
    const again = open({ folder: q.folder });
    await again.queue.start();
    await again.pass(50_000);
    assert.deepEqual(again.tried(), []);
    await again.pass(11_000);
    assert.deepEqual(again.tried(), ['peer.example: x@peer.example']);
    assert.equal(again.queue.size, 0);
    await again.queue.stop(0);
  });

  it('end: one notice with the last reason, after a last attempt, and nothing is left', async () => {
    const q = open({ lifetimeMs: 10 * minute });
    await q.queue.start();
    q.state.answer = () => noTls;
    await q.add('a', ['x@peer.example']);
    for (let step = 0; step < 30; step += 1) await q.pass(30_000);
    assert.deepEqual(q.notices, ['delayed x@peer.example 4.7.4', 'failed x@peer.example 5.7.4']);
    assert.equal(q.tried().length, 4); // at 0, 1, 6 and 10 minutes
    await until('nothing is left', () => q.files().length === 0);
    assert.equal(q.queue.size, 0);
    assert.ok(q.lines.some(({ msg, reply }) => msg === 'mail has failed' && /no TLS.*given up/.test(String(reply))));
    await q.queue.stop(0);
  });

  it('of a delay: told once, when it is due and not at the next attempt', async () => {
    const q = open();
    await q.queue.start();
    q.state.answer = () => greylisted;
    await q.add('a', ['x@peer.example', 'y@other.example']);
    for (let step = 0; step < 10; step += 1) await q.pass(0.399 * hour);
    assert.deepEqual(q.notices, []);
    const before = q.tried().length;
    await q.pass(0.02 * hour);
    assert.deepEqual(q.notices.toSorted(), ['delayed x@peer.example 4.7.1', 'delayed y@other.example 4.7.1']);
    assert.equal(q.tried().length, 0, String(before));
    for (let step = 0; step < 10; step += 1) await q.pass(hour);
    assert.equal(q.notices.length, 2);
    await q.queue.stop(0);
  });

  it('of a delay later than the lifetime never come', async () => {
    const q = open({ delayNoticeMs: hour, lifetimeMs: hour });
    await q.queue.start();
    q.state.answer = () => greylisted;
    await q.add('a', ['x@peer.example']);
    for (let step = 0; step < 13; step += 1) await q.pass(5 * minute);
    assert.deepEqual(q.notices, ['failed x@peer.example 5.7.1']);
    await q.queue.stop(0);
  });
});
