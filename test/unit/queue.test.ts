import type { QueuedMessage } from '../../src/mail/admin.ts';
import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { setImmediate, setTimeout } from 'node:timers/promises';
import { CannotTell } from '../../src/mail/ports.ts';
import {
  type Delivery,
  type NextHop,
  type Outcome,
  type QueueEntry,
  type QueueRecipient,
  nextHopKey,
} from '../../src/mail/message.ts';
import { DiskQueue, type QueueOptions } from '../../src/queue/queue.ts';
import { DiskJournal } from '../../src/durable/journal.ts';
import { systemClock, systemRandom } from '../../src/system/world.ts';
import { queueContract, queueEntry, until } from '../contract/queue.ts';
import { memory } from '../contract/storage.ts';

const minute = 60_000;
const hour = 60 * minute;
const base = mkdtempSync(join(tmpdir(), 'queue-'));
after(() => rmSync(base, { recursive: true }));

const delivered: Delivery = { kind: 'delivered', status: '2.0.0', text: 'ok', remote: 'mx.example' };
const failed: Delivery = { kind: 'failed', status: '5.1.1', text: 'unknown', remote: 'mx.example' };
const greylisted: Delivery = { kind: 'deferred', status: '4.7.1', text: 'come back', remote: 'mx.example' };
const unreachable: Delivery = { kind: 'deferred', status: '4.4.1', text: 'refused', isUnreachable: true };
const noTls: Delivery = { kind: 'deferred', status: '4.7.4', text: 'no TLS' };

/** A queue with a clock, peers and a mailbox for notices that the test moves. */
function open(options: Partial<QueueOptions> = {}) {
  const folder = options.folder ?? mkdtempSync(join(base, 'q-'));
  const state = {
    now: 1_800_000_000_000,
    jitter: 100,
    /** What becomes of a recipient, by its address. */
    answer: (_to: QueueRecipient): Delivery | Promise<Delivery> => delivered,
    report: async (_outcomes: readonly Outcome[]): Promise<void> => {},
  };
  const attempts: { destination: string; to: string[] }[] = [];
  const notices: string[] = [];
  const lines: Record<string, unknown>[] = [];
  const line = (fields: Record<string, unknown>, msg: string): unknown => lines.push({ ...fields, msg });
  const transport = {
    async deliver(hop: NextHop, _entry: QueueEntry, _message: unknown, recipients: readonly QueueRecipient[]) {
      attempts.push({ destination: nextHopKey(hop), to: recipients.map(({ address }) => address) });
      return Promise.all(recipients.map(to => state.answer(to)));
    },
  };
  const queue = new DiskQueue({
    folder,
    isRelayed: false,
    transports: { here: transport, relay: transport, domain: transport },
    report: async (_entry, _message, outcomes) => {
      await state.report(outcomes);
      notices.push(outcomes.map(o => `${o.action} ${o.recipient.address} ${o.delivery.status}`).join(', '));
    },
    lifetimeMs: 120 * hour,
    retryMs: [minute, 5 * minute, 15 * minute, hour, 3 * hour],
    delayNoticeMs: 4 * hour,
    clock: { now: () => state.now },
    random: { hex: octets => '0'.repeat(octets * 2), below: () => state.jitter },
    log: { debug: line, info: line, warn: line, error: line },
    ...options,
  });
  const list = async (selector = {}): Promise<QueuedMessage[]> => {
    const found: QueuedMessage[] = [];
    for await (const item of queue.list(selector)) found.push(item);
    return found.toSorted((a, b) => a.id.localeCompare(b.id));
  };
  const settled = async (): Promise<void> => {
    for (let quiet = 0; quiet < 4; quiet += 1) {
      await setImmediate();
      const isBusy = (await list()).some(({ recipients }) => recipients.some(({ state: now }) => now === 'sending'));
      if (isBusy) quiet = -1;
    }
  };
  return {
    queue,
    folder,
    state,
    attempts,
    notices,
    lines,
    list,
    settled,
    files: (): string[] => readdirSync(folder).toSorted(),
    /** Adds a message to these addresses; @here.example is ours. */
    add: async (
      id: string,
      to: readonly (string | QueueRecipient)[],
      more: Partial<QueueEntry> = {},
    ): Promise<void> => {
      const recipients = to.map(each => {
        if (typeof each !== 'string') return each;
        const domain = each.split('@')[1] ?? '';
        return { address: each, domain, ...(domain === 'here.example' && { routes: [] }) };
      });
      const entry = queueEntry(id, { receivedAt: state.now, ...more, recipients });
      await (await queue.prepare(entry, memory('Subject: x\n\nx\n'))).commit();
    },
    pass: async (ms: number): Promise<void> => {
      state.now += ms;
      queue.tick();
      await settled();
    },
    /** The attempts since the last call: how many, to whom. */
    tried: (): string[] => attempts.splice(0).map(({ destination, to }) => `${destination}: ${to.join(' ')}`),
  };
}

queueContract('DiskQueue', async () => {
  const folder = mkdtempSync(join(base, 'c-'));
  mkdirSync(`${folder}/queue`);
  let openings = 0;
  return {
    spool: folder,
    open: async transport => {
      const transports = { here: transport, relay: transport, domain: transport };
      const now = Date.now() + (openings += 1) * hour;
      const { queue } = open({ folder: `${folder}/queue`, transports, clock: { now: () => now } });
      await queue.start();
      return { queue, close: () => queue.stop(1000) };
    },
    leftovers: async () => readdirSync(`${folder}/queue`).length,
    dispose: async () => {},
  };
});

queueContract('DiskQueue with a journal', async () => {
  const folder = mkdtempSync(join(base, 'j-'));
  for (const name of ['queue', 'journal']) mkdirSync(`${folder}/${name}`);
  let openings = 0;
  return {
    spool: folder,
    keepsPrepared: true,
    open: async transport => {
      const transports = { here: transport, relay: transport, domain: transport };
      const now = Date.now() + (openings += 1) * hour;
      const { queue, journal } = await held(folder, { transports, clock: { now: () => now } });
      const close = async (): Promise<void> => {
        await queue.stop(1000);
        await queue.settle();
        await journal.close();
      };
      return { queue, close };
    },
    leftovers: async () => readdirSync(`${folder}/queue`).length,
    dispose: async () => {},
  };
});

/** A queue whose small messages are held in a journal, both in that folder. */
async function held(folder: string, options: Partial<QueueOptions> = {}) {
  const q = open({ folder: `${folder}/queue`, ...options });
  const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
  const journal = await DiskJournal.open(`${folder}/journal`, { clock: systemClock, random: systemRandom, log });
  assert.ok(journal);
  await q.queue.start(journal);
  return { ...q, journal };
}

describe('held in the journal', () => {
  const places = (): string => {
    const folder = mkdtempSync(join(base, 'h-'));
    for (const name of ['queue', 'journal']) mkdirSync(`${folder}/${name}`);
    return folder;
  };
  /** What is on the disk now is what a crash leaves. Attempts that go on then must never end. */
  const crash = async (
    folder: string,
    { queue, journal }: Awaited<ReturnType<typeof held>>,
    options: Partial<QueueOptions> = {},
  ) => {
    cpSync(folder, `${folder}.left`, { recursive: true });
    await queue.stop(0);
    await journal.close();
    rmSync(folder, { recursive: true });
    cpSync(`${folder}.left`, folder, { recursive: true });
    return held(folder, options);
  };
  const never = new Promise<Delivery>(() => {});
  const end = async ({ queue, journal }: Awaited<ReturnType<typeof held>>): Promise<void> => {
    await queue.stop(1000);
    await queue.settle();
    await journal.close();
  };

  it('mail that leaves at once has no files, and does not leave again after a crash', async () => {
    const folder = places();
    const q = await held(folder);
    const seen: string[][] = [];
    q.state.answer = () => (seen.push(q.files()), delivered);
    await q.add('a', ['x@peer.example']);
    await until('it has left', () => q.queue.size === 0);
    await until('and the journal knows', () => written(folder).endsWith(',""]]'));
    assert.deepEqual([seen, q.files()], [[[]], []]);
    const next = await crash(folder, q);
    assert.deepEqual([next.queue.size, next.files(), next.attempts], [0, [], []]);
    await end(next);
  });

  it('mail that was under way at a crash is there, and leaves', async () => {
    const folder = places();
    const q = await held(folder);
    q.state.answer = () => never;
    await q.add('a', ['x@peer.example'], { skipBytes: 3 });
    const next = await crash(folder, q);
    assert.deepEqual([next.queue.size, next.tried()], [1, ['peer.example: x@peer.example']]);
    await until('it has left', () => next.queue.size === 0);
    await until('and its files are gone', () => next.files().length === 0);
    await end(next);
  });

  it('mail that waits gets files, also while it is being sent, and is there once after a crash', async () => {
    const folder = places();
    const q = await held(folder);
    const on = (id: string): string => readFileSync(`${folder}/queue/${id}.json`, 'utf8');
    q.state.answer = to => (to.address.startsWith('slow') ? never : greylisted);
    await q.add('a', ['x@peer.example']);
    await until('deferred mail has files', () => q.files().join() === 'a,a.json' && on('a').includes('"attempts":1'));
    await q.add('b', ['slow@peer.example']);
    assert.deepEqual(q.files(), ['a', 'a.json']);
    q.queue.tick();
    assert.deepEqual(q.files(), ['a', 'a.json'], 'not at the first tick');
    q.queue.tick();
    await until('it has files', () => q.files().join() === 'a,a.json,b,b.json');
    await until('the journal lets go', async () => (await q.journal.checkpoint(), isDone(folder)));
    const silent = { deliver: () => new Promise<Delivery[]>(() => {}) };
    const next = await crash(folder, q, { transports: { here: silent, relay: silent, domain: silent } });
    assert.deepEqual(
      (await next.list()).map(({ id, recipients }) => [id, recipients[0]?.attempts]),
      [
        ['a', 1],
        ['b', 0],
      ],
    );
    await end(next);
  });

  it('an attempt that was recorded is not forgotten for what the journal says of it', async () => {
    const folder = places();
    const q = await held(folder);
    q.state.answer = to => (to.address.startsWith('x') ? delivered : greylisted);
    await q.add('a', ['x@peer.example', 'y@peer.example']);
    await until(
      'it is recorded',
      () => q.files().join() === 'a,a.json' && readFileSync(`${folder}/queue/a.json`, 'utf8').includes('"isDone":true'),
    );
    const next = await crash(folder, q);
    assert.deepEqual(
      (await next.list({ id: 'a' }))[0]?.recipients.map(to => to.state),
      ['delivered', 'waiting'],
    );
    await end(next);
  });

  it('the journal is held as long as mail has no files, and no longer', async () => {
    const folder = places();
    const q = await held(folder);
    const { promise, resolve } = Promise.withResolvers<Delivery>();
    q.state.answer = () => promise;
    await q.add('a', ['x@peer.example']);
    await q.journal.checkpoint();
    assert.ok(!isDone(folder));
    // What came later is not done before it: it may say what is gone.
    (await q.journal.append([{ files: [], parts: [] }]))();
    await q.journal.checkpoint();
    assert.deepEqual(salts(folder).map(Boolean), [true, true]);
    await q.queue.settle();
    await q.journal.checkpoint();
    assert.ok(isDone(folder));
    assert.deepEqual(q.files(), ['a', 'a.json']);
    resolve(delivered);
    await end(q);
  });

  it('where the files cannot be written mail is sent from the journal, and has them when they can', async () => {
    const folder = places();
    const q = await held(folder);
    q.state.answer = to => (to.address.startsWith('slow') ? never : delivered);
    renameSync(`${folder}/queue`, `${folder}/away`);
    await q.add('a', ['x@peer.example']);
    await until('it has left', () => q.queue.size === 0);
    await q.add('b', ['slow@peer.example']);
    await q.add('c', ['slow@other.example']);
    q.queue.tick();
    q.queue.tick();
    const text = 'queued mail is in the journal alone: its files cannot be written';
    await until('it is told', () => q.lines.some(({ msg }) => msg === text));
    assert.deepEqual(
      q.lines.filter(({ msg }) => msg === text).map(({ messages }) => messages),
      [2],
    );
    await q.journal.checkpoint();
    assert.ok(!isDone(folder));
    renameSync(`${folder}/away`, `${folder}/queue`);
    q.queue.tick();
    await until('they have files', () => q.files().join() === 'b,b.json,c,c.json');
    await end(q);
  });

  it('without a journal, or with one in trouble, mail has files at once', async () => {
    const folder = places();
    const q = await held(folder);
    await q.journal.close();
    rmSync(`${folder}/journal`, { recursive: true });
    const { promise, resolve } = Promise.withResolvers<Delivery>();
    q.state.answer = () => promise;
    await q.add('a', ['x@peer.example']);
    assert.deepEqual(q.files(), ['a', 'a.json']);
    resolve(delivered);
    await q.queue.stop(1000);
  });

  it('memory is bounded: beyond it mail has files at once', async () => {
    const folder = places();
    const q = await held(folder);
    const { promise, resolve } = Promise.withResolvers<Delivery>();
    q.state.answer = () => promise;
    const large = memory('x'.repeat(200_000));
    for (let at = 0; at < 100; at += 1) await (await q.queue.prepare(queueEntry(`m${at}`), large)).commit();
    assert.equal(q.files().length, 2 * (100 - Math.floor((16 * 1024 * 1024) / 200_000)));
    resolve(delivered);
    await until('all have left', () => q.queue.size === 0 && q.files().length === 0);
    q.state.answer = () => never;
    await (await q.queue.prepare(queueEntry('last'), large)).commit();
    assert.deepEqual(q.files(), [], 'and free again');
    await end(q);
  });
});

/** All of the journal, without the zeros at its end. */
const written = (folder: string): string =>
  readdirSync(`${folder}/journal`)
    .map(name => readFileSync(`${folder}/journal/${name}`, 'latin1').replace(/\0*$/, ''))
    .join('');
/** Of each segment; 0: there is nothing in it any more. */
const salts = (folder: string): number[] =>
  readdirSync(`${folder}/journal`).map(name => readFileSync(`${folder}/journal/${name}`).readUInt32LE(0));
const isDone = (folder: string): boolean => salts(folder).every(salt => salt === 0);

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

describe('each recipient', () => {
  it('has its own outcome, and one notice where due', async () => {
    const q = open();
    await q.queue.start();
    let isGrey = true;
    q.state.answer = ({ address }) =>
      address.startsWith('unknown') ? failed : address.startsWith('grey') && isGrey ? greylisted : delivered;
    await q.add('a', ['good@peer.example', 'unknown@peer.example', 'grey@peer.example', 'z@here.example']);
    await q.settled();
    assert.deepEqual(q.notices, ['failed unknown@peer.example 5.1.1']);
    assert.deepEqual(
      (await q.list()).map(({ recipients }) => recipients.map(({ address }) => address)),
      [['grey@peer.example']],
    );
    assert.deepEqual(
      (await q.list({ id: 'a' }))[0]?.recipients.map(({ state }) => state),
      ['delivered', 'failed', 'waiting', 'delivered'],
    );
    assert.equal(q.tried().length, 2);
    isGrey = false;
    await q.pass(minute + 1000);
    assert.deepEqual(q.tried(), ['peer.example: grey@peer.example']);
    assert.equal(q.notices.length, 1);
    await until('nothing is left', () => q.files().length === 0);
    await q.queue.stop(0);
  });

  it('is told of success where asked: delivered here, relayed elsewhere, silent where it was passed on', async () => {
    const q = open();
    await q.queue.start();
    q.state.answer = ({ address }) =>
      address.startsWith('l')
        ? { kind: 'delivered', status: '2.0.0', text: 'ok' }
        : { ...delivered, isDsnPassedOn: address.startsWith('p') };
    const asked = (local: string, more = {}): QueueRecipient => ({
      address: `${local}@x`,
      domain: 'x',
      notify: ['SUCCESS'],
      ...more,
    });
    await q.add('a', [asked('l', { routes: [] }), asked('r'), asked('p'), 'n@x']);
    await q.settled();
    assert.deepEqual(q.notices.toSorted(), ['delivered l@x 2.0.0', 'relayed r@x 2.0.0']);
    await q.queue.stop(0);
  });

  it('is kept until its notice is stable, and neither tried nor delivered again meanwhile', async () => {
    const q = open();
    await q.queue.start();
    q.state.answer = ({ address }) => (address === 'u@x' ? failed : delivered);
    q.state.report = async () => {
      throw new CannotTell('disk full');
    };
    await q.add('a', ['u@x', 'good@x', { address: 's@x', domain: 'x', notify: ['SUCCESS'] }]);
    await q.settled();
    await q.pass(10 * minute);
    assert.deepEqual(q.tried(), ['x: u@x good@x s@x']);
    assert.deepEqual(
      (await q.list())[0]?.recipients.map(({ address }) => address),
      ['u@x', 's@x'],
    );
    // Not forgotten by a restart either.
    await q.queue.stop(1000);
    const again = open({ folder: q.folder });
    again.state.now = q.state.now + hour;
    await again.queue.start();
    await again.settled();
    assert.deepEqual(again.notices, ['failed u@x 5.1.1, relayed s@x 2.0.0']);
    assert.deepEqual(again.tried(), []);
    assert.equal(again.queue.size, 0);
    await again.queue.stop(0);
  });

  it('loses no notice in a crash between notice and record', async () => {
    const q = open();
    const copy = mkdtempSync(join(base, 'copy-'));
    await q.queue.start();
    q.state.answer = () => failed;
    q.state.report = async () => cpSync(q.folder, copy, { recursive: true });
    await q.add('a', ['u@x']);
    await q.settled();
    const again = open({ folder: copy });
    again.state.answer = () => failed;
    await again.queue.start();
    await again.settled();
    assert.deepEqual([...q.notices, ...again.notices], ['failed u@x 5.1.1', 'failed u@x 5.1.1']);
    await until('nothing is left', () => readdirSync(copy).length === 0);
    await Promise.all([q.queue.stop(0), again.queue.stop(0)]);
  });

  it('is not sent twice because the disk does not take its record', async () => {
    const q = open();
    await q.queue.start();
    q.state.answer = ({ address }) => (address === 'good@x' ? delivered : greylisted);
    const added = q.add('a', ['good@x', 'grey@x']);
    q.state.answer = to => {
      mkdirSync(`${q.folder}/a.json.tmp`, { recursive: true }); // in the way of the next record
      return to.address === 'good@x' ? delivered : greylisted;
    };
    await added;
    await q.settled();
    await q.pass(2 * minute);
    assert.deepEqual(q.tried(), ['x: good@x grey@x', 'x: grey@x']);
    rmSync(`${q.folder}/a.json.tmp`, { recursive: true });
    q.state.answer = () => greylisted;
    await q.pass(10 * minute);
    await q.queue.stop(0);
    assert.deepEqual((await open({ folder: q.folder }).list()).length, 0); // not started: nothing loaded
    const again = open({ folder: q.folder });
    await again.queue.start();
    assert.deepEqual(
      (await again.list())[0]?.recipients.map(({ address }) => address),
      ['grey@x'],
    );
    await again.queue.stop(0);
  });

  it('is deferred when its transport throws, or answers too little', async () => {
    const q = open();
    await q.queue.start();
    q.state.answer = () => Promise.reject(new Error('a bug'));
    await q.add('a', ['x@x']);
    await q.settled();
    assert.deepEqual(
      (await q.list())[0]?.recipients.map(({ status, attempts }) => [status, attempts]),
      [['4.3.0', 1]],
    );
    assert.ok(q.lines.some(({ error }) => String(error).includes('a bug')));
    assert.deepEqual(q.notices, []);
    await q.queue.stop(0);
  });
});

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
    assert.equal(q.attempts.filter(({ destination }) => destination === 'busy').length, 20);
    assert.equal(q.attempts.length, 40);
    await q.add(
      'wide',
      Array.from({ length: 500 }, (_, index) => `x@d${index}`),
    );
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

it('a message whose envelope cannot be written leaves nothing', async () => {
  const q = open();
  await q.queue.start();
  mkdirSync(`${q.folder}/a.json.tmp`);
  await assert.rejects(q.add('a', ['x@x']), /EEXIST/);
  assert.deepEqual(q.files(), ['a.json.tmp']);
  await q.queue.stop(0);
});

describe('a start', () => {
  it('sweeps what a crash left, and leaves a broken entry alone', async () => {
    const q = open();
    await q.queue.start();
    q.state.answer = () => greylisted;
    await q.add('good', ['x@x']);
    await q.settled();
    await q.queue.stop(1000);
    for (const name of [
      'orphan',
      'orphan2.json.tmp',
      'good.json.tmp',
      'broken',
      'broken.json',
      'other.json',
      'notes.txt',
    ])
      writeFileSync(`${q.folder}/${name}`, name === 'other.json' ? '{"id":"else","recipients":[]}' : '{');
    const again = open({ folder: q.folder });
    await again.queue.start();
    assert.deepEqual(again.files(), ['broken', 'broken.json', 'good', 'good.json', 'notes.txt', 'other.json']);
    assert.deepEqual(
      again.lines
        .filter(({ file }) => file)
        .map(({ file }) => file)
        .toSorted(),
      ['broken.json', 'other.json'],
    );
    assert.equal(again.queue.size, 1);
    await again.queue.stop(0);
  });

  it('loads 1,000 messages, and the event loop goes on meanwhile', async () => {
    const folder = mkdtempSync(join(base, 'many-'));
    for (let index = 0; index < 1000; index += 1) {
      const state = { attempts: 3, nextAt: 1_900_000_000_000 + randomInt(1e7) };
      const recipients = [{ address: `x${index}@d`, domain: `d${index % 100}.example`, ...state }];
      writeFileSync(
        `${folder}/m${index}.json`,
        JSON.stringify({ ...queueEntry(`m${index}`), recipients, sizeBytes: 1 }),
      );
    }
    const q = open({ folder });
    let turns = 0;
    const timer = setInterval(() => (turns += 1), 1);
    await q.queue.start();
    clearInterval(timer);
    assert.equal(q.queue.size, 1000);
    assert.ok(turns > 3, String(turns));
    assert.deepEqual(q.tried(), []);
    assert.equal((await q.list({ domain: 'd7.example' })).length, 10);
    await q.queue.stop(0);
  });

  it('is undone by stop, which waits for what is under way, and begins nothing more', async () => {
    const q = open();
    await q.queue.start();
    const gate = Promise.withResolvers<Delivery>();
    q.state.answer = () => gate.promise;
    await q.add('a', ['x@x']);
    await q.queue.stop(20); // bounded
    const stopped = q.queue.stop(5000);
    await q.add('b', ['y@y']);
    await setTimeout(5);
    gate.resolve(delivered);
    await stopped;
    assert.deepEqual(q.tried(), ['x: x@x']);
    assert.deepEqual(
      (await q.list()).map(({ id }) => id),
      ['b'],
    );
    assert.deepEqual(q.files(), ['b', 'b.json']);
  });
});
