// A clock that jumps by days, forwards and back, under the queue: its clock is the test's. Nothing is ever lost or told
// too often; no wait grows beyond SLIM_RETRY. A jump beyond the lifetime ends what waits as time itself would: one more
// attempt, and then the notice.
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { memory } from '../contract/storage.ts';
import { queueEntry, queueInFolder } from '../contract/queue.ts';
import type { Delivery } from '../../src/mail/message.ts';
import type { MailQueue } from '../../src/queue/queue.ts';

const [minute, day] = [60_000, 24 * 3600_000];
const base = mkdtempSync(join(tmpdir(), 'clock-'));
after(() => rmSync(base, { recursive: true }));
const answers = {
  takes: { kind: 'delivered', status: '2.0.0', text: 'ok', remote: 'mx.example' },
  defers: { kind: 'deferred', status: '4.7.1', text: 'later', remote: 'mx.example' },
  'is down': { kind: 'deferred', status: '4.4.1', text: 'refused', isUnreachable: true },
} as const satisfies Record<string, Delivery>;

/** Five days of life, a notice after four hours, waits of 1, 5 and 15 minutes, a jitter of none. */
async function open(peer: keyof typeof answers) {
  const folder = mkdtempSync(join(base, 'q-'));
  const now = { ms: 1_800_000_000_000 };
  const seen = { peer, attempts: 0, delivered: 0, notices: [] as string[] };
  const transport = {
    async deliver(): Promise<readonly Delivery[]> {
      seen.attempts += 1;
      if (seen.peer === 'takes') seen.delivered += 1;
      return [answers[seen.peer]];
    },
  };
  const make = (): MailQueue =>
    queueInFolder(folder, {
      isRelayed: false,
      transports: { here: transport, lmtp: transport, relay: transport, domain: transport },
      report: async (_entry, _message, outcomes) => void seen.notices.push(...outcomes.map(({ action }) => action)),
      lifetimeMs: 5 * day,
      retryMs: [minute, 5 * minute, 15 * minute],
      delayNoticeMs: 4 * 60 * minute,
      clock: { now: () => now.ms },
      random: { hex: octets => '0'.repeat(octets * 2), below: () => 100 },
      log: { debug() {}, info() {}, warn() {}, error() {} },
    });
  let queue = make();
  await queue.start();
  /** Until nothing is under way. */
  const settle = async (): Promise<void> => {
    for (let quiet = 0; quiet < 4; quiet += 1) {
      await setImmediate();
      for await (const item of queue.list({})) if (JSON.stringify(item).includes('"sending"')) quiet = -1;
    }
  };
  const entry = queueEntry('a', {
    receivedAt: now.ms,
    recipients: [{ address: 'x@peer.example', domain: 'peer.example' }],
  });
  await (await queue.prepare(entry, memory('Subject: x\n\nx\n'))).commit();
  await settle();
  return {
    seen,
    /** The clock jumps, and a second later it is looked at. */
    async jump(ms: number): Promise<void> {
      now.ms += ms;
      queue.tick();
      await settle();
    },
    /** Time goes by. */
    async pass(minutes: number, stepMinutes = 1): Promise<void> {
      for (let at = 0; at < minutes; at += stepMinutes) {
        now.ms += stepMinutes * minute;
        queue.tick();
        await settle();
      }
    },
    async restart(): Promise<void> {
      await queue.stop(1000);
      queue = make();
      await queue.start();
      await settle();
    },
    waits: (): boolean => queue.size > 0,
    /** Nothing is left of what does not wait. */
    async stop(): Promise<void> {
      await queue.stop(1000);
      assert.equal(readdirSync(folder).length, queue.size * 2);
    },
  };
}

for (const peer of ['defers', 'is down'] as const) {
  describe(`a peer that ${peer}`, () => {
    it('forward by three days: tried at once, told once that it is late, nothing bounces, delivered when the peer is back', async () => {
      const q = await open(peer);
      await q.jump(3 * day);
      assert.deepEqual([q.seen.attempts, q.seen.notices, q.waits()], [2, ['delayed'], true]);
      q.seen.peer = 'takes';
      await q.pass(20);
      assert.deepEqual([q.seen.delivered, q.seen.notices, q.waits()], [1, ['delayed'], false]);
      await q.stop();
    });

    it('forward beyond its life: one more attempt, which counts; only then its sender is told, once', async () => {
      const [lucky, other] = [await open(peer), await open(peer)];
      lucky.seen.peer = 'takes';
      for (const q of [lucky, other]) await q.jump(400 * day);
      assert.deepEqual(
        [lucky.seen.attempts, lucky.seen.delivered, lucky.seen.notices, lucky.waits()],
        [2, 1, [], false],
      );
      assert.deepEqual([other.seen.attempts, other.seen.notices, other.waits()], [2, ['failed'], false]);
      for (const q of [lucky, other]) await q.stop();
    });

    for (const isRestarted of [false, true]) {
      const how = isRestarted ? ', and a restart' : '';
      it(`back by three days${how}: tried again when SLIM_RETRY says, not days later`, async () => {
        const q = await open(peer);
        await q.jump(-3 * day);
        if (isRestarted) await q.restart();
        assert.deepEqual([q.seen.notices, q.waits()], [[], true]);
        q.seen.peer = 'takes';
        await q.pass(20);
        assert.deepEqual([q.seen.delivered, q.seen.notices, q.waits()], [1, [], false]);
        await q.stop();
      });

      it(`three days ahead for a moment, and back${how}: tried again when SLIM_RETRY says, and lives its five days`, async () => {
        const q = await open(peer);
        await q.jump(3 * day);
        await q.jump(-3 * day);
        if (isRestarted) await q.restart();
        const { attempts } = q.seen;
        await q.pass(20);
        assert.ok(q.seen.attempts > attempts, 'it was tried again');
        await q.pass(4 * 24 * 60, 30);
        assert.deepEqual([q.seen.notices, q.waits()], [['delayed'], true]);
        q.seen.peer = 'takes';
        await q.pass(20);
        assert.deepEqual([q.seen.delivered, q.seen.notices, q.waits()], [1, ['delayed'], false]);
        await q.stop();
      });
    }
  });
}
