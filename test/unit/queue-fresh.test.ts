// New mail that the journal keeps: most leaves without ever having files, what waits gets them, and a crash at any time
// loses nothing.
import assert from 'node:assert/strict';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { Delivery } from '../../src/mail/message.ts';
import { DiskJournal } from '../../src/durable/journal.ts';
import { systemClock, systemRandom } from '../../src/system/world.ts';
import { queueContract, queueEntry, until } from '../contract/queue.ts';
import { memory } from '../contract/storage.ts';
import { delivered, greylisted } from '../contract/deliveries.ts';
import { base, hour, open } from './queue.harness.ts';

queueContract('MailQueue with a journal', async () => {
  const folder = mkdtempSync(join(base, 'j-'));
  for (const name of ['queue', 'journal']) mkdirSync(`${folder}/${name}`);
  let openings = 0;
  return {
    spool: folder,
    keepsPrepared: true,
    open: async transport => {
      const transports = { here: transport, lmtp: transport, relay: transport, domain: transport };
      const now = Date.now() + (openings += 1) * hour;
      const { queue, store, journal } = await held(folder, { transports, clock: { now: () => now } });
      const close = async (): Promise<void> => {
        await queue.stop(1000);
        await store.settle();
        await journal.close();
      };
      return { queue, close };
    },
    leftovers: async () => readdirSync(`${folder}/queue`).length,
    dispose: async () => {},
  };
});

/** A queue whose small messages are held in a journal, both in that folder. */
async function held(folder: string, options: Parameters<typeof open>[0] = {}) {
  const q = open({ folder: `${folder}/queue`, ...options });
  const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
  const journal = await DiskJournal.open(`${folder}/journal`, { clock: systemClock, random: systemRandom, log });
  assert.ok(journal);
  q.store.use(journal);
  await q.queue.start();
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
    options: Parameters<typeof open>[0] = {},
  ) => {
    cpSync(folder, `${folder}.left`, { recursive: true });
    await queue.stop(0);
    await journal.close();
    rmSync(folder, { recursive: true });
    cpSync(`${folder}.left`, folder, { recursive: true });
    return held(folder, options);
  };
  const never = new Promise<Delivery>(() => {});
  const end = async ({ queue, store, journal }: Awaited<ReturnType<typeof held>>): Promise<void> => {
    await queue.stop(1000);
    await store.settle();
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
    await q.add('a', ['x@peer.example'], { returnPathBytes: 3 });
    const next = await crash(folder, q);
    assert.equal(next.queue.size, 1);
    await until('it has left', () => next.queue.size === 0);
    assert.deepEqual(next.tried(), ['peer.example: x@peer.example']);
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
    q.store.tick();
    assert.deepEqual(q.files(), ['a', 'a.json'], 'not at the first tick');
    q.store.tick();
    await until('it has files', () => q.files().join() === 'a,a.json,b,b.json');
    await until('the journal lets go', async () => (await q.journal.checkpoint(), isDone(folder)));
    const silent = { deliver: () => new Promise<Delivery[]>(() => {}) };
    const next = await crash(folder, q, { transports: { here: silent, lmtp: silent, relay: silent, domain: silent } });
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
    await q.store.settle();
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
    q.store.tick();
    q.store.tick();
    const text = 'queued mail is in the journal alone: its files cannot be written';
    await until('it is told', () => q.lines.some(({ msg }) => msg === text));
    assert.deepEqual(
      q.lines.filter(({ msg }) => msg === text).map(({ messages }) => messages),
      [2],
    );
    await q.journal.checkpoint();
    assert.ok(!isDone(folder));
    renameSync(`${folder}/away`, `${folder}/queue`);
    q.store.tick();
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
    // All at once: after a second or two the first of them would get their files anyway.
    const names = Array.from({ length: 100 }, (_, at) => `m${at}`);
    await Promise.all(names.map(async id => (await q.queue.prepare(queueEntry(id), large)).commit()));
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
