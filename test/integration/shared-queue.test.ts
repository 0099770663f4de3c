// The queue that replicas share, with a real PostgreSQL: the contract of every queue, and what holds for all replicas
// together.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, beforeEach, describe, it } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import { Client } from 'pg';
import type { Event } from '../../src/mail/event.ts';
import { type Message, inMemory } from '../../src/mail/message.ts';
import { FileStore } from '../../src/queue/files.ts';
import { moveQueue } from '../../src/wiring/sharing.ts';
import { expire } from '../../src/postgres/queue/lives.ts';
import { queueContract, queueEntry, until as untilIn } from '../contract/queue.ts';
import { memory } from '../contract/storage.ts';
import { Wire } from './wire.ts';
import { delivered, failed, greylisted, unreachable } from '../contract/deliveries.ts';
import { type Replica, base, clean, leftovers, minute, pass, replica, usePostgres } from './shared-queue.harness.ts';

const postgres = usePostgres();
/** With commits on a busy disk in between. */
const until: typeof untilIn = (what, condition, withinMs = 40_000) => untilIn(what, condition, withinMs);

queueContract('SharedQueue in PostgreSQL', async () => {
  await clean(postgres.admin);
  let spool: string | undefined;
  const first = await replica(postgres.url);
  spool = first.spoolFolder;
  await first.close();
  return {
    spool,
    open: async transport => {
      const { queue, close } = await replica(postgres.url, {}, transport);
      const isThere = await postgres.admin.query(`SELECT to_regclass('slimsmtp_job') AS there`);
      if (isThere.rows[0]?.there) await pass(postgres.admin, '1 hour');
      await queue.start();
      return { queue, close };
    },
    leftovers: () => leftovers(postgres.admin),
    dispose: async () => undefined,
  };
});

const wires: Wire[] = [];
after(() => wires.forEach(wire => wire.close()));

/** A wire to the database, and the URL of its near end. */
async function wireTo(to: string) {
  const far = new URL(to);
  const wire = await new Wire(() => ({ host: far.hostname, port: Number(far.port) })).listen();
  wires.push(wire);
  const near = new URL(to);
  near.host = `127.0.0.1:${wire.port}`;
  return Object.assign(wire, { url: near.href });
}

describe('replicas on one database', () => {
  const open: Replica[] = [];
  /** Started replicas. */
  const replicas = async (count: number, options: Parameters<typeof replica>[1] = {}): Promise<Replica[]> => {
    const all = await Promise.all(Array.from({ length: count }, () => replica(postgres.url, options)));
    open.push(...all);
    await Promise.all(all.map(begin));
    return all;
  };
  /** Starts a replica, and waits until it has begun: it goes on trying where the database is slow. */
  const begin = async ({ queue, lines }: Replica): Promise<void> => {
    const ids = async (): Promise<number> =>
      Number((await rows(`SELECT count(*) AS n FROM pg_tables WHERE tablename = 'slimsmtp_replica'`))[0]?.n) &&
      (await rows('SELECT FROM slimsmtp_replica')).length;
    const before = await ids();
    await queue.start();
    const isRefused = (): boolean => lines.some(({ msg }) => /newer SlimSMTP/.test(msg));
    await until('it has begun', async () => isRefused() || (await ids()) > before);
  };
  beforeEach(() => clean(postgres.admin));
  afterEach(async () => void (await Promise.all(open.splice(0).map(each => each.close()))));
  const rows = async (text: string, ...values: unknown[]) => (await postgres.admin.query(text, values)).rows;
  const settled = (): Promise<void> =>
    until('nothing is left', async () => (await leftovers(postgres.admin)) === 0, 30_000);

  it('make the tables once, however many start together', async () => {
    const all = await replicas(4);
    assert.equal(all.flatMap(({ lines }) => lines.filter(({ msg }) => /were made/.test(msg))).length > 0, true);
    assert.deepEqual(await rows('SELECT version, oldest FROM slimsmtp_schema'), [{ version: 3, oldest: 1 }]);
    await until('all have begun', async () => (await rows('SELECT FROM slimsmtp_replica')).length === 4);
  });

  it('never have more attempts with a destination than one may have, and try each message once', async () => {
    const all = await replicas(3, { maxSessions: 5 });
    let [running, most] = [0, 0];
    for (const { state } of all)
      state.answer = async () => {
        running += 1;
        most = Math.max(most, running);
        await wait(5);
        running -= 1;
        return delivered;
      };
    // A load balancer gives each of them a share of the mail.
    await Promise.all(Array.from({ length: 300 }, (_, at) => all[at % 3]?.add(`m${at}`, ['b@peer.example'])));
    await settled();
    assert.equal(most, 5);
    const tried = all.map(({ attempts }) => attempts.length);
    assert.equal(
      tried.reduce((sum, each) => sum + each),
      300,
    );
    assert.equal(new Set(all.flatMap(({ attempts }) => attempts.map(({ id }) => id))).size, 300);
  });

  it('keep a seat for a moment after its use, and send with it what another one could not', async () => {
    const [one, two] = (await replicas(2, { maxSessions: 1 })) as [Replica, Replica];
    await one.add('a', ['b@peer.example']);
    await until('it is gone', async () => (await rows('SELECT FROM slimsmtp_message')).length === 0);
    assert.equal((await rows('SELECT FROM slimsmtp_seat')).length, 1);
    await two.add('b', ['b@peer.example']);
    await settled();
    assert.deepEqual(
      [one, two].map(({ attempts }) => attempts.map(({ id }) => id)),
      [['a', 'b'], []],
    );
    // `settled` has seen that the seat is back: so the other one may have it.
    await two.add('c', ['b@peer.example']);
    await settled();
    assert.equal(two.attempts.length, 1);
  });

  it('find what was due while others had locked it, and take no seat for theirs that the database does not know', async t => {
    const [one] = (await replicas(1, { maxSessions: 2 })) as [Replica];
    one.state.answer = () => greylisted;
    await one.add('a', ['b@peer.example']);
    await until('it waits', async () => (await rows('SELECT FROM slimsmtp_job WHERE owner IS NULL')).length === 1);
    one.state.answer = () => delivered;
    const other = new Client({ connectionString: postgres.url });
    await other.connect();
    t.after(() => other.end());
    await other.query('BEGIN');
    await other.query('UPDATE slimsmtp_destination SET next_due = now(), first_at = now()');
    await other.query('UPDATE slimsmtp_job SET next_at = now()');
    await other.query('COMMIT');
    await other.query('BEGIN');
    await other.query('SELECT FROM slimsmtp_destination FOR UPDATE');
    await wait(3500);
    assert.equal(one.attempts.length, 1);
    await other.query('COMMIT');
    const freedAt = performance.now();
    await until('it is found', () => one.attempts.length === 2);
    assert.ok(performance.now() - freedAt < 10_000);
    await until('it is gone', async () => (await rows('SELECT FROM slimsmtp_message')).length === 0);
    // As after the failover to a database that has lost it.
    await other.query('DELETE FROM slimsmtp_seat');
    let release = (): void => undefined;
    one.state.answer = async () => (await new Promise<void>(resolve => (release = resolve)), delivered);
    await one.add('b', ['b@peer.example']);
    await until('it is tried', () => one.attempts.length === 3);
    assert.equal((await rows('SELECT FROM slimsmtp_seat')).length, 1);
    release();
    await settled();
  });

  it('share the seats of a destination that is full, whoever was given the mail', async () => {
    const [one, two] = (await replicas(2, { maxSessions: 4 })) as [Replica, Replica];
    let isSlow = true;
    for (const { state } of [one, two]) state.answer = () => (isSlow ? wait(400).then(() => delivered) : delivered);
    for (let at = 0; at < 60; at += 1) await one.add(`m${at}`, ['b@peer.example']);
    const seats = async (): Promise<string> =>
      (await rows('SELECT count(*) AS n FROM slimsmtp_seat GROUP BY owner ORDER BY 1')).map(({ n }) => n).join();
    await until('each has its share', async () => (await seats()) === '2,2');
    // It stays so while mail waits.
    await wait(1500);
    assert.equal(await seats(), '2,2');
    isSlow = false;
    await settled();
    assert.ok(two.attempts.length >= 6, `${two.attempts.length}`);
  });

  it('have new mail wait in memory for a seat of their own, for a moment', async () => {
    const [one] = (await replicas(1, { maxSessions: 2 })) as [Replica];
    const gates: (() => void)[] = [];
    one.state.answer = async () => (await new Promise<void>(resolve => gates.push(resolve)), delivered);
    for (const id of ['a', 'b', 'c']) await one.add(id, ['b@peer.example']);
    await until('two are tried', () => gates.length === 2);
    gates.shift()?.();
    await until('the third is tried', () => gates.length === 2);
    // It was never written as waiting: nothing has ever waited there.
    assert.deepEqual(await rows('SELECT FROM slimsmtp_destination'), []);
    await one.add('d', ['b@peer.example']);
    await until('it is given back', async () => (await rows('SELECT FROM slimsmtp_destination')).length === 1);
    assert.equal((await rows('SELECT FROM slimsmtp_job WHERE owner IS NULL')).length, 1);
    // What comes now does not overtake it.
    await one.add('e', ['b@peer.example']);
    for (const id of ['d', 'e']) {
      gates.shift()?.();
      await until('the next one is tried', () => one.attempts.at(-1)?.id === id);
    }
    gates.forEach(release => release());
    await settled();
    assert.deepEqual(one.state.most, 2);
  });

  it('begin nothing more once they are told to stop, and leave what waits in memory to others', async () => {
    const [one] = (await replicas(1, { maxSessions: 1 })) as [Replica];
    let release = (): void => undefined;
    one.state.answer = async () => (await new Promise<void>(resolve => (release = resolve)), delivered);
    await one.add('a', ['b@peer.example']);
    await one.add('b', ['b@peer.example']);
    await until('the first is tried', () => one.attempts.length === 1);
    // Mail whose commit is under way just then has its seat when it has ended.
    const recipients = [{ address: 'c@elsewhere.example', domain: 'elsewhere.example' }];
    const prepared = await one.queue.prepare(queueEntry('c', { recipients }), memory('x\n'));
    const adding = prepared.commit();
    const stopping = one.queue.stop(10_000);
    release();
    await adding;
    await stopping;
    assert.equal(one.attempts.length, 1);
    const left = [
      { message: 'b', owner: null },
      { message: 'c', owner: null },
    ];
    const jobs = (): Promise<unknown> => rows('SELECT message, owner FROM slimsmtp_job ORDER BY 1');
    await until('they are given back', async () => JSON.stringify(await jobs()) === JSON.stringify(left));
    const [two] = (await replicas(1)) as [Replica];
    await settled();
    assert.equal(one.attempts.length, 1);
    assert.deepEqual(two.attempts.map(({ id }) => id).toSorted(), ['b', 'c']);
  });

  it('each begin at once with the mail that they were given', async () => {
    const all = await replicas(3);
    await Promise.all(all.map((each, at) => each.add(`m${at}`, [`b@peer${at}.example`])));
    await settled();
    assert.deepEqual(
      all.map(({ attempts }) => attempts.map(({ id }) => id)),
      [['m0'], ['m1'], ['m2']],
    );
  });

  it('each tell how much waits in all, since when, and for how many next hops; and what an operator orders', async () => {
    const heard: Event[] = [];
    const listen = (event: Event): void => void heard.push(event);
    const [one, two] = (await replicas(2, { listen })) as [Replica, Replica];
    assert.deepEqual(await two.queue.count(), {
      waiting: 0,
      sending: 0,
      held: 0,
      oldestAt: undefined,
      destinations: { all: 0, blocked: 0 },
    });
    for (const { state } of [one, two])
      state.answer = ({ domain }) => (domain === 'down.example' ? unreachable : greylisted);
    const receivedAt = Date.now() - 60_000;
    await one.add('a', ['b@down.example'], { receivedAt });
    await one.add('b', ['b@peer.example'], { receivedAt: receivedAt + 1000 });
    await until('both wait', async () => {
      const { waiting, sending, destinations } = await two.queue.count();
      return waiting === 2 && sending === 0 && destinations.blocked === 1 && destinations.all === 2;
    });
    assert.equal((await two.queue.count()).oldestAt, receivedAt);
    assert.equal(await two.queue.act('hold', { id: 'a' }), 1);
    const { waiting, held } = await one.queue.count();
    assert.deepEqual([waiting, held], [1, 1]);
    const order = { kind: 'order', message: 'a', action: 'hold', by: 'operator', to: ['b@down.example'] };
    assert.deepEqual(
      heard.filter(({ kind }) => kind === 'order'),
      [order],
    );
    assert.equal(heard.filter(({ kind }) => kind === 'attempt').length, 2);
    // A message waits while one of its recipients does.
    await one.add('c', ['b@down.example', 'b@peer.example']);
    await until('it waits', async () => (await two.queue.count()).waiting === 2);
    await until(
      'it is held in part',
      async () => (await two.queue.act('hold', { id: 'c', domain: 'down.example' })) === 1,
    );
    const partly = await two.queue.count();
    assert.deepEqual([partly.waiting, partly.held], [2, 1]);
  });

  it('back off together, and one probe finds out for all', async () => {
    const [one, two] = (await replicas(2)) as [Replica, Replica];
    for (const { state } of [one, two]) state.answer = () => unreachable;
    await one.add('a', ['b@peer.example']);
    await until(
      'it was tried',
      async () => (await rows('SELECT FROM slimsmtp_destination WHERE failures = 1')).length === 1,
    );
    for (let at = 0; at < 10; at += 1) await two.add(`b${at}`, ['b@peer.example']);
    await wait(1500);
    assert.equal(one.attempts.length + two.attempts.length, 1);
    assert.match((await two.list({ id: 'b0' }))[0]?.recipients[0]?.reason ?? '', /waits for the probe.*refused/);
    // The probe is alone; its failure is the second round.
    let release = (): void => undefined;
    const held = new Promise<void>(resolve => (release = resolve));
    for (const { state } of [one, two]) state.answer = async () => (await held, unreachable);
    await pass(postgres.admin, '61 s');
    await until('the probe runs', () => one.attempts.length + two.attempts.length === 2);
    await wait(1500);
    assert.equal(one.attempts.length + two.attempts.length, 2);
    release();
    await until(
      'it has failed',
      async () => (await rows('SELECT FROM slimsmtp_destination WHERE failures = 2')).length === 1,
    );
    // It is back: all goes.
    for (const { state } of [one, two]) state.answer = () => delivered;
    await pass(postgres.admin, '10 min');
    await settled();
  });

  it('take over from one that is gone, which then changes nothing any more', async () => {
    const [one, two] = (await replicas(2)) as [Replica, Replica];
    let release = (): void => undefined;
    const held = new Promise<void>(resolve => (release = resolve));
    const confirmed: boolean[] = [];
    one.state.answer = async (_to, place) => {
      await held;
      confirmed.push((await place.confirm?.()) ?? true);
      return confirmed.at(-1) ? delivered : greylisted;
    };
    await one.add('a', ['b@peer.example']);
    await until('it is tried', () => one.attempts.length === 1);
    assert.match((await two.list({ id: 'a' }))[0]?.recipients[0]?.reason ?? '', /^it is being sent by .+ \(\d+\)$/);
    await rows(`UPDATE slimsmtp_replica SET lease_until = '-infinity' WHERE id = (SELECT owner FROM slimsmtp_job)`);
    await rows(expire.text);
    await until('another has sent it', () => two.attempts.length === 1);
    await settled();
    release();
    await until('the first has asked', () => confirmed.length === 1);
    assert.deepEqual(confirmed, [false]);
    await until('the first has a new life', () =>
      one.lines.some(({ msg }) => /lease of this replica has ended/.test(msg)),
    );
    await until('it is there', async () => (await rows('SELECT FROM slimsmtp_replica')).length === 2);
    assert.equal(await leftovers(postgres.admin), 0);
    await one.add('b', ['b@peer.example']);
    await settled();
  });

  it('hold, release and remove what another one is sending', async () => {
    const [one, two] = (await replicas(2)) as [Replica, Replica];
    let release = (): void => undefined;
    const gate = (): Promise<void> => new Promise(resolve => (release = resolve));
    let held = gate();
    one.state.answer = two.state.answer = async () => (await held, greylisted);
    await one.add('a', ['b@peer.example', 'c@peer.example']);
    await until('it is tried', () => one.attempts.length === 1);
    assert.equal(await two.queue.act('hold', { id: 'a' }), 1);
    release();
    await until(
      'it is held',
      async () =>
        (await two.list())[0]?.isHeld === true &&
        (await rows('SELECT FROM slimsmtp_job WHERE owner IS NULL')).length === 1,
    );
    assert.equal((await two.list())[0]?.recipients[0]?.attempts, 1);
    held = gate();
    assert.equal(await two.queue.act('release', { id: 'a' }), 1);
    await until('it is tried again', () => one.attempts.length + two.attempts.length === 2);
    assert.equal(await two.queue.act('remove', { id: 'a' }), 1);
    release();
    await settled();
    assert.equal(await one.queue.act('remove', {}), 0);
  });

  it('tell each recipient’s sender its own outcome, and go on with those that wait', async () => {
    const [one, two] = (await replicas(2)) as [Replica, Replica];
    one.state.answer = two.state.answer = ({ address }) =>
      address.startsWith('unknown') ? failed : address.startsWith('grey') ? greylisted : delivered;
    await one.add('a', ['good@x.example', 'unknown@x.example', 'grey@y.example', 'z@here.example']);
    await until(
      'two jobs are done',
      async () => (await rows(`SELECT FROM slimsmtp_job WHERE state = 'done'`)).length === 2,
    );
    assert.deepEqual([...one.notices, ...two.notices], ['failed unknown@x.example 5.1.1']);
    const [shown] = await two.list({ id: 'a' });
    const states = shown?.recipients.map(({ address, state }) => `${address} ${state}`).toSorted();
    await until(
      'the third is deferred',
      async () => (await rows('SELECT FROM slimsmtp_job WHERE owner IS NOT NULL')).length === 0,
    );
    assert.deepEqual(states, [
      'good@x.example delivered',
      'grey@y.example waiting',
      'unknown@x.example failed',
      'z@here.example delivered',
    ]);
    one.state.answer = two.state.answer = () => delivered;
    assert.equal(await two.queue.act('retry', { id: 'a' }), 1);
    await settled();
  });

  it('tell a sender that mail is late, and then that it is given up, while nothing can be tried', async () => {
    const lifetimes = { lifetimeMs: 600 * minute, delayNoticeMs: 60 * minute, retryMs: [100 * 60 * minute] };
    const [one] = (await replicas(1, lifetimes)) as [Replica];
    let ahead = 0;
    const queueClock = Date.now;
    one.state.answer = () => unreachable;
    await one.add('a', ['b@peer.example'], { receivedAt: queueClock() - 59.95 * minute });
    await until(
      'it was tried',
      async () => (await rows('SELECT FROM slimsmtp_destination WHERE failures = 1')).length === 1,
    );
    await until('it is late', () => one.notices.length === 1);
    assert.deepEqual(one.notices, ['delayed b@peer.example 4.4.1']);
    ahead += 1;
    await rows(
      `UPDATE slimsmtp_message SET envelope = jsonb_set(envelope::jsonb, '{receivedAt}', to_jsonb($1::float8))::json`,
      queueClock() - 600 * minute,
    );
    await rows(`UPDATE slimsmtp_job SET wake_at = now() - interval '6 s'`);
    await until('it is given up', () => one.notices.length === 2);
    assert.deepEqual(one.notices[1], 'failed b@peer.example 5.4.1');
    assert.equal(one.attempts.length, ahead);
    await settled();
  });

  it('carry large messages in chunks, whole, by a file that is gone afterwards', async () => {
    const [one] = (await replicas(1)) as [Replica];
    const content = Buffer.alloc(5 * 1024 * 1024 + 17, 'a line of a large message\n');
    const path = `${one.spoolFolder}/large`;
    writeFileSync(path, content);
    let seen = '';
    one.state.read = (message: Message) => {
      if (message.kind === 'file') seen = createHash('sha256').update(readFileSync(message.path)).digest('hex');
    };
    const prepared = await one.queue.prepare(queueEntry('a'), { kind: 'file', path, sizeBytes: content.length });
    await wait(1200);
    assert.equal(one.attempts.length, 0);
    await prepared.commit();
    await settled();
    assert.equal(seen, createHash('sha256').update(content).digest('hex'));
    await until('the spool is empty', () => readdirSync(one.spoolFolder).join() === 'large');
    // Between the two sizes: in the row, and read when it is tried.
    let octets = Buffer.alloc(0);
    one.state.read = (message: Message) => {
      if (message.kind === 'memory') octets = Buffer.concat(message.octets.pieces);
    };
    one.state.answer = () => (one.attempts.length === 2 ? greylisted : delivered);
    const medium = Buffer.alloc(200_000, 'm');
    await (await one.queue.prepare(queueEntry('b'), inMemory(Buffer.from(medium)))).commit();
    await until(
      'it is deferred',
      async () => (await rows('SELECT FROM slimsmtp_job WHERE owner IS NULL')).length === 1,
    );
    octets = Buffer.alloc(0);
    await one.queue.act('retry', {});
    await settled();
    assert.ok(octets.equals(medium));
  });

  it('hold a message that was in flight at five deaths', async () => {
    const [one] = (await replicas(1)) as [Replica];
    one.state.answer = () => greylisted;
    await one.add('a', ['b@peer.example']);
    await until(
      'it is deferred',
      async () => (await rows('SELECT FROM slimsmtp_job WHERE owner IS NULL')).length === 1,
    );
    await rows(`UPDATE slimsmtp_job SET deaths = 5, next_at = now()`);
    await pass(postgres.admin, '1 hour');
    await until('it is held', async () => (await rows(`SELECT FROM slimsmtp_job WHERE state = 'held'`)).length === 1);
    assert.deepEqual([one.killers, one.attempts.length], [['a'], 1]);
  });

  it('find out what became of new mail whose answer was lost, and give back what that has left', async () => {
    const wire = await wireTo(postgres.url);
    const one = await replica(wire.url);
    open.push(one);
    await begin(one);
    await one.add('a', ['b@peer.example']);
    await settled();
    wire.cut('answers');
    const adding = one.add('b', ['b@peer.example']);
    await until('it is there', async () => (await rows(`SELECT FROM slimsmtp_message WHERE id = 'b'`)).length === 1);
    wire.mend();
    await adding;
    // Its seat was given in the lost answer: it goes back, and the message by another one.
    await settled();
    assert.deepEqual(
      one.attempts.map(({ id }) => id),
      ['a', 'b'],
    );
    // An answer that stays lost: the client hears 451, and what is there goes.
    wire.cut('answers');
    await assert.rejects(one.add('c', ['c@peer.example']), /PostgreSQL cannot answer/);
    wire.mend();
    await until('it is forgotten', async () => (await leftovers(postgres.admin)) === 0, 60_000);
    assert.deepEqual(
      one.attempts.map(({ id }) => id),
      ['a', 'b'],
    );
  });

  it('refuse new mail while the database is away, and record what they had sent once it is back', async () => {
    const wire = await wireTo(postgres.url);
    const one = await replica(wire.url);
    open.push(one);
    await begin(one);
    let release = (): void => undefined;
    const held = new Promise<void>(resolve => (release = resolve));
    one.state.answer = async () => (await held, delivered);
    await one.add('a', ['b@peer.example']);
    await until('it is tried', () => one.attempts.length === 1);
    wire.cut();
    release();
    await assert.rejects(one.add('b', ['b@peer.example']));
    wire.mend();
    await settled();
    one.state.answer = () => delivered;
    await until('it takes mail again', () =>
      one.add('c', ['b@peer.example']).then(
        () => true,
        () => false,
      ),
    );
    await settled();
    assert.deepEqual(
      one.attempts.map(({ id }) => id),
      ['a', 'c'],
    );
  });

  it('take over a queue on the disk, also after a kill in between', async () => {
    const folder = mkdtempSync(join(base, 'disk-'));
    const [one] = (await replicas(1)) as [Replica];
    one.state.answer = () => greylisted;
    const files = new FileStore(folder, { debug() {}, info() {}, warn() {}, error() {} });
    const recipients = [
      { address: 'b@peer.example', domain: 'peer.example', attempts: 3, nextAt: Date.now() + 60 * minute },
      { address: 'c@peer.example', domain: 'peer.example', attempts: 1, nextAt: 0, isDone: true },
    ];
    for (const id of ['a', 'b'])
      await (await files.prepare({ ...queueEntry(id), sizeBytes: 2, recipients }, memory('x\n'))).commit();
    // As after a kill between COMMIT and unlink: the first one is in the database already.
    for await (const record of files.claim())
      if (record.id === 'a') await one.queue.adopt(record, await files.message(record));
    await moveQueue(files, one.queue, { debug() {}, info() {}, warn() {}, error() {} });
    assert.deepEqual(readdirSync(folder), []);
    await until(
      'nothing is leased',
      async () => (await rows('SELECT FROM slimsmtp_job WHERE owner IS NULL')).length === 2,
    );
    const shown = await one.list({ id: 'a' });
    assert.deepEqual(
      shown[0]?.recipients.map(({ address, attempts }) => [address, attempts]),
      [
        ['b@peer.example', 3],
        ['c@peer.example', 1],
      ],
    );
    assert.equal(one.attempts.length, 0);
    one.state.answer = () => delivered;
    await one.queue.act('retry', {});
    await settled();
    assert.deepEqual(
      one.attempts.map(({ to }) => to.join()),
      ['b@peer.example', 'b@peer.example'],
    );
  });

  it('run beside a newer version that says they may, and refuse tables that are too new', async () => {
    const [one] = (await replicas(1)) as [Replica];
    await rows('UPDATE slimsmtp_schema SET version = 4, oldest = 1');
    await one.add('a', ['b@peer.example']);
    const [two] = (await replicas(1)) as [Replica];
    await two.add('b', ['b@peer.example']);
    await settled();
    await rows('UPDATE slimsmtp_schema SET version = 5, oldest = 4');
    const [three] = (await replicas(1)) as [Replica];
    await assert.rejects(three.add('c', ['b@peer.example']), /cannot be reached/);
    assert.ok(three.lines.some(({ msg }) => /newer SlimSMTP/.test(msg)));
  });
});
