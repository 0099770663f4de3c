// What is held in memory is what is counted: octets that are kept keep no buffer of others alive, however they came.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Spool } from '../../src/inbound/spool.ts';
import { Collector, collect, prepend, slice } from '../../src/mail/octets.ts';
import { inMemory, readMessage } from '../../src/mail/message.ts';

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;
const mebi = 1024 * 1024;

/** What buffers keep outside of V8's heap. */
async function external(): Promise<number> {
  for (let round = 0; round < 3; round += 1) {
    await turn();
    collectGarbage();
  }
  return process.memoryUsage().arrayBuffers;
}

/** Part of a read of 64 KiB. */
const cut = (length: number, at = 100): Buffer =>
  Buffer.allocUnsafeSlow(65_536)
    .fill('x')
    .subarray(at, at + length);
const text = (octets: Iterable<Buffer>): string => Buffer.concat([...octets]).toString('latin1');

describe('octets', () => {
  it('of a small share of their buffer are copied, also those from the pool of Node', () => {
    const { pieces, heldBytes } = collect([cut(1), Buffer.from('y'), cut(1), cut(30_000)]);
    assert.equal(text(pieces), `xyx${'x'.repeat(30_000)}`);
    const buffers = new Set(pieces.map(({ buffer }) => buffer));
    const kept = [...buffers].reduce((sum, { byteLength }) => sum + byteLength, 0);
    assert.ok(kept <= heldBytes && heldBytes < 35_000, `${kept} octets are kept, ${heldBytes} counted`);
  });

  it('that fill most of their buffer are not copied', () => {
    const whole = Buffer.allocUnsafeSlow(4096);
    const most = cut(60_000);
    const { pieces, heldBytes } = collect([whole, most]);
    assert.deepEqual([pieces[0] === whole, pieces[1] === most, pieces.length], [true, true, 2]);
    assert.ok(heldBytes >= 4096 + 65_536);
  });

  it('keep their order, whatever the sizes of the pieces', () => {
    for (let seed = 1; seed < 200; seed += 1) {
      const lengths = Array.from(
        { length: 12 },
        (_, at) => [0, 1, 3, 700, 2047, 2048, 5000, 40_000][(seed * (at + 3) * 7919) % 8] ?? 0,
      );
      const parts = lengths.map((length, at) => Buffer.alloc(length, 97 + at));
      const octets = collect(parts);
      const whole = text(parts);
      assert.ok(text(octets.pieces) === whole && octets.sizeBytes === whole.length, String(lengths));
      for (const [start, length] of [
        [0, 10],
        [1, 5000],
        [seed * 31, 3000],
        [0, whole.length + 9],
        [whole.length, 1],
      ] as const)
        assert.ok(text([slice(octets, start, length)]) === whole.slice(start, start + length), `${start} ${length}`);
      assert.ok(text(prepend(Buffer.from('head\n'), octets).pieces) === `head\n${whole}`);
    }
  });

  it('that were taken are not changed by what comes later', () => {
    const collector = new Collector();
    collector.add(Buffer.from('a'));
    const first = collector.take();
    collector.add(Buffer.from('b'));
    assert.deepEqual([text(first.pieces), text(collector.take().pieces), collector.heldBytes], ['a', 'b', 0]);
  });

  it('of a message are read from any place', () => {
    const message = inMemory(Buffer.from('Return-Path: <>\n'), Buffer.from('Subject: x\n\ny\n'));
    assert.equal(readMessage(message, 16, 10).toString(), 'Subject: x');
    assert.equal(readMessage(message, 12, 8).toString(), ' <>\nSubj'.slice(0, 8));
  });
});

describe('fifty messages that come octet by octet, each octet in a read of its own', () => {
  it('keep no more memory than the budget of all messages', async () => {
    const before = await external();
    const spools = Array.from(
      { length: 50 },
      (_, at) => new Spool(() => `/nowhere/${at}`, { returnPath: '', trace: '' }),
    );
    // Without a copy each of these kept 64 KiB: 1.6 GB in all, counted as 12 MB.
    for (let octet = 0; octet < 500; octet += 1)
      for (const spool of spools) assert.equal(spool.write(cut(1)), undefined);
    const kept = (await external()) - before;
    assert.ok(kept < 16 * mebi, `${Math.round(kept / mebi)} MiB are kept`);
    for (const spool of spools) await spool.release();
  });
});
