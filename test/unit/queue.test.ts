// The queue on files: what it promises to every caller (the contract), each recipient's own outcome and notice, and
// start and stop.
import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import type { Delivery, QueueRecipient } from '../../src/mail/message.ts';
import { CannotTell } from '../../src/mail/ports.ts';
import { NullStore } from '../contract/null-store.ts';
import { queueContract, queueEntry, until } from '../contract/queue.ts';
import { delivered, failed, greylisted } from '../contract/deliveries.ts';
import { base, hour, minute, open } from './queue.harness.ts';

queueContract('MailQueue on files', async () => {
  const folder = mkdtempSync(join(base, 'c-'));
  mkdirSync(`${folder}/queue`);
  let openings = 0;
  return {
    spool: folder,
    open: async transport => {
      const transports = { here: transport, lmtp: transport, relay: transport, domain: transport };
      const now = Date.now() + (openings += 1) * hour;
      const { queue } = open({ folder: `${folder}/queue`, transports, clock: { now: () => now } });
      await queue.start();
      return { queue, close: () => queue.stop(1000) };
    },
    leftovers: async () => readdirSync(`${folder}/queue`).length,
    dispose: async () => {},
  };
});

queueContract('MailQueue on the null store', async () => {
  const spool = mkdtempSync(join(base, 'n-'));
  const store = new NullStore();
  let openings = 0;
  return {
    spool,
    open: async transport => {
      const transports = { here: transport, lmtp: transport, relay: transport, domain: transport };
      const now = Date.now() + (openings += 1) * hour;
      const { queue } = open({ store, transports, clock: { now: () => now } });
      await queue.start();
      return { queue, close: () => queue.stop(1000) };
    },
    leftovers: async () => store.rows.size,
    dispose: async () => {},
  };
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

it('a message to 1,000 domains costs little time, and is not written 1,000 times', async () => {
  const store = new NullStore();
  const q = open({ store, maxSessions: 20 });
  let updates = 0;
  const update = store.update.bind(store);
  store.update = record => ((updates += 1), update(record));
  await q.queue.start();
  const startedAt = process.cpuUsage();
  await q.add(
    'wide',
    Array.from({ length: 1000 }, (_, at) => `x@d${at}.example`),
  );
  await until('it has left', () => q.queue.size === 0);
  const { user, system } = process.cpuUsage(startedAt);
  assert.equal(q.attempts.length, 1000);
  assert.ok(updates < 100, `${updates} writes`);
  assert.ok(user + system < 3_000_000, `${(user + system) / 1000} ms`);
  await q.queue.stop(0);
});

it('a record is on the disk as it has been since the first version, and is read from there', async () => {
  const q = open();
  await q.queue.start();
  q.state.answer = () => greylisted;
  await q.add('a', ['x@x'], { returnPathBytes: 7 });
  await q.settled();
  const stored = JSON.parse(readFileSync(`${q.folder}/a.json`, 'utf8')) as Record<string, unknown>;
  assert.deepEqual([stored['skipBytes'], stored['returnPathBytes']], [7, undefined]);
  assert.equal((await q.store.read('a')).returnPathBytes, 7);
  await q.queue.stop(0);
});
