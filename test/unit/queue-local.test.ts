// Mail that stays here and could not be delivered at once: a copy that recipients share is made once and belongs to
// each of them, one full mailbox holds up no other, and what is made is remembered over attempts. Doubles: storages,
// resolver, remote transport.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createForward } from '../../src/queue/forward.ts';
import { localTransport } from '../../src/queue/local.ts';
import { freePlace } from '../../src/queue/places.ts';
import { CannotTell, type Resolution, type Storage, type Transport } from '../../src/mail/ports.ts';
import {
  type Delivery,
  type QueueEntry,
  type QueueRecipient,
  type Route,
  nextHopKey,
  routeKey,
} from '../../src/mail/message.ts';
import { mailbox as toMailbox } from '../contract/directory.ts';
import { queueEntry, until } from '../contract/queue.ts';
import { memory } from '../contract/storage.ts';
import { systemRandom } from '../../src/system/world.ts';
import { hour, minute, open as openQueue } from './queue.harness.ts';

const maildir = (name: string): Route => ({ kind: 'maildir', path: `/mail/${name}`, root: '/mail' });
const to = (local: string, ...routes: Route[]): QueueRecipient => ({
  address: `${local}@example.com`,
  domain: 'example.com',
  routes,
});
const message = memory('Subject: x\n\nx\n');

/** A forward, and the entries that it puts into the queue. */
function openForward() {
  const kept: QueueEntry[] = [];
  const forward = createForward({
    returnPaths: { forForward: async from => `SRS0=${from}` },
    queue: () => ({
      prepare: async entry => ({ commit: async () => void kept.push(entry), abort: async () => undefined }),
    }),
    clock: { now: () => 1 },
    random: systemRandom,
  });
  return { kept, forward };
}

/** What the storages made, and what comes of an attempt. */
function open(found: Resolution | (() => Promise<Resolution>) = { kind: 'unknown' }, isRelayed = false) {
  const made: string[] = [];
  const broken = new Set<string>();
  const storage: Storage = {
    async prepare(routes) {
      for (const route of routes) if (broken.has(routeKey(route))) throw new CannotTell('full', { status: '4.2.2' });
      const names = routes.map(route => `${routeKey(route)}${route.head ? ` ${route.head.trim()}` : ''}`);
      return { commit: async () => void made.push(...names), abort: async () => undefined };
    },
  };
  const remote: Transport = {
    async deliver(hop, _entry, _message, recipients) {
      return recipients.map(() => ({ kind: 'delivered', status: '2.0.0', text: nextHopKey(hop), remote: 'mx' }));
    },
  };
  const storages = { maildir: storage, account: storage };
  const transport = localTransport({
    storages,
    resolve: async () => (typeof found === 'function' ? found() : found),
    remote,
    isRelayed,
    forward: async (_entry, _message, recipient, { forwards = [], lmtp = [] }) => {
      if (broken.has('forward')) throw new CannotTell('full', { status: '4.3.1' });
      const led = [...forwards.map(({ address }) => address), ...lmtp.map(({ server }) => server)];
      made.push(`${recipient.address} to ${led.join()}`);
    },
  });
  const attempt = (
    recipients: readonly QueueRecipient[],
    madeCopies: readonly string[] = [],
  ): Promise<readonly Delivery[]> =>
    transport.deliver({ kind: 'here' }, queueEntry('a', { recipients, madeCopies }), message, recipients, freePlace());
  return { made, broken, attempt, transport };
}
const kinds = (deliveries: readonly Delivery[]): string[] => deliveries.map(({ kind, status }) => `${kind} ${status}`);
const [one, two] = [maildir('one'), maildir('two')];

describe('a copy that recipients share', () => {
  it('is made once, and each of them is delivered', async () => {
    const here = open();
    assert.deepEqual(kinds(await here.attempt([to('a', one), to('b', one)])), ['delivered 2.0.0', 'delivered 2.0.0']);
    assert.deepEqual(here.made, [routeKey(one)]);
  });

  it('that cannot be made defers each of them', async () => {
    const here = open();
    here.broken.add(routeKey(one));
    assert.deepEqual(kinds(await here.attempt([to('a', one), to('b', one)])), ['deferred 4.2.2', 'deferred 4.2.2']);
  });

  it('is not made again for a recipient that waits for another copy', async () => {
    const here = open();
    here.broken.add(routeKey(two));
    const first = await here.attempt([to('a', one), to('list', one, two)]);
    assert.deepEqual(kinds(first), ['delivered 2.0.0', 'deferred 4.2.2']);
    assert.deepEqual(first[1]?.copies, [routeKey(one)]);
    here.broken.clear();
    const next = await here.attempt([to('list', one, two)], first[1]?.copies);
    assert.deepEqual(kinds(next), ['delivered 2.0.0']);
    assert.deepEqual(here.made, [routeKey(one), routeKey(two)]);
  });
});

describe('where mail goes', () => {
  it('is looked up only where it could not be told before', async () => {
    const here = open({ kind: 'local', routes: [two] });
    await here.attempt([to('a', one), to('b')]);
    assert.deepEqual(here.made, [routeKey(one), routeKey(two)]);
  });

  it('may turn out to be nowhere, or elsewhere: by the relay or by MX', async () => {
    assert.deepEqual(kinds(await open().attempt([to('a')])), ['failed 5.1.1']);
    for (const [isRelayed, hop] of [
      [false, 'example.com'],
      [true, '@relay'],
    ] as const)
      assert.deepEqual((await open({ kind: 'elsewhere' }, isRelayed).attempt([to('a')]))[0]?.text, hop);
  });

  it('is deferred while it cannot be told, and an address that cannot be read is nobody', async () => {
    const down = async (): Promise<Resolution> => {
      throw new CannotTell('database down', { status: '4.4.3' });
    };
    assert.deepEqual(kinds(await open(down).attempt([to('a')])), ['deferred 4.4.3']);
    assert.deepEqual(kinds(await open().attempt([{ ...to('a'), address: 'no address' }])), ['failed 5.1.1']);
  });

  it('is never delivered by making no copy', async () => {
    for (const forwards of [undefined, []])
      assert.deepEqual(
        kinds(await open({ kind: 'local', routes: [], ...(forwards && { forwards }) }).attempt([to('a')])),
        ['deferred 4.3.0'],
      );
  });

  it('may be another server alone: it is forwarded, and then it is delivered', async () => {
    const far = { address: 'b@z.example', mailbox: toMailbox('b@z.example') };
    const here = open({ kind: 'local', routes: [], forwards: [far] });
    assert.deepEqual(kinds(await here.attempt([to('a')])), ['delivered 2.0.0']);
    assert.deepEqual(here.made, ['a@example.com to b@z.example']);
  });
});

describe('mail whose recipient is looked up late', () => {
  const far = { address: 'a@peer.example', mailbox: toMailbox('a@peer.example') };
  const recipient: QueueRecipient = { address: 'postmaster', domain: '', routes: [] };

  it('is forwarded, once, and kept as well where that is to be', async () => {
    const here = open({ kind: 'local', routes: [one], forwards: [far] });
    const [delivery] = await here.attempt([recipient]);
    assert.deepEqual(here.made, [routeKey(one), 'postmaster to a@peer.example']);
    assert.deepEqual([delivery?.kind, delivery?.copies], ['delivered', [routeKey(one), 'forward:postmaster']]);
    await here.attempt([recipient], delivery?.copies);
    assert.equal(here.made.length, 2);
  });

  it('waits for what could not be done alone', async () => {
    const here = open({ kind: 'local', routes: [one], forwards: [far] });
    here.broken.add('forward');
    const [first] = await here.attempt([recipient]);
    assert.deepEqual([first?.kind, first?.status, first?.copies], ['deferred', '4.3.1', [routeKey(one)]]);
    here.broken.delete('forward');
    here.broken.add(routeKey(one));
    const [second] = await here.attempt([recipient]);
    assert.deepEqual([second?.kind, second?.copies], ['deferred', ['forward:postmaster']]);
  });

  it('becomes an entry of its own, with a reverse-path and a line of its own', async () => {
    const { kept, forward } = openForward();
    const entry = queueEntry('a', { from: 'x@example.net', isOurs: true, madeCopies: ['x'] });
    await forward(entry, message, { ...recipient, address: 'info@example.com' }, { forwards: [far] });
    const { id, ...rest } = kept[0] ?? assert.fail();
    const { id: old, madeCopies: _, recipients: __, ...before } = entry;
    assert.notEqual(id, old);
    assert.deepEqual(rest, {
      ...before,
      sentAs: 'SRS0=x@example.net',
      head: 'Delivered-To: info@example.com\n',
      recipients: [{ address: 'a@peer.example', domain: 'peer.example', originalRecipient: 'rfc822;info@example.com' }],
    });
  });
});

describe('mail whose mailbox turns out to be at an LMTP server', () => {
  const mailbox = { server: 'lmtp://dovecot:24', address: 'anton@example.com' };

  it('is passed on, once, besides the copies that stay here', async () => {
    const here = open({ kind: 'local', routes: [one], lmtp: [mailbox] });
    const [first] = await here.attempt([to('a')]);
    assert.deepEqual([first?.kind, here.made], ['delivered', [routeKey(one), 'a@example.com to lmtp://dovecot:24']]);
    await here.attempt([to('a')], first?.copies);
    assert.equal(here.made.length, 2);
  });

  it('fails where the server refuses it for good', async () => {
    const here = open({ kind: 'local', routes: [], refusal: '5.2.2' });
    assert.deepEqual(kinds(await here.attempt([to('a')])), ['failed 5.2.2']);
  });

  it('becomes an entry of its own, beside that of a forward', async () => {
    const { kept, forward } = openForward();
    const recipient: QueueRecipient = { ...to('a'), notify: ['SUCCESS'] };
    const far = { address: 'x@peer.example', mailbox: toMailbox('x@peer.example') };
    await forward(queueEntry('a', { from: 'x@example.net' }), message, recipient, { lmtp: [mailbox], forwards: [far] });
    assert.deepEqual(
      kept.map(({ sentAs, recipients }) => [sentAs, recipients.map(({ address, lmtp }) => [address, lmtp?.address])]),
      [
        [undefined, [['a@example.com', 'anton@example.com']]],
        ['SRS0=x@example.net', [['x@peer.example', undefined]]],
      ],
    );
    assert.equal(kept[0]?.recipients[0]?.routes, undefined);
    assert.deepEqual(kept[0]?.recipients[0]?.notify, ['SUCCESS']);
    assert.notEqual(kept[0]?.id, kept[1]?.id);
  });
});

it('an attempt that must end makes no more copies', async () => {
  const here = open();
  const recipients = [to('a', one)];
  const storages = { prepare: () => assert.fail('a copy was made') };
  const transport = localTransport({
    storages: { maildir: storages, account: storages },
    resolve: async () => ({ kind: 'unknown' }),
    remote: { deliver: async () => [] },
    isRelayed: false,
    forward: async () => assert.fail('nothing is forwarded'),
  });
  const place = { ...freePlace(), isEnded: true };
  const deliveries = await transport.deliver(
    { kind: 'here' },
    queueEntry('a', { recipients }),
    message,
    recipients,
    place,
  );
  assert.deepEqual([kinds(deliveries), here.made], [['deferred 4.3.0'], []]);
});

describe('the addresses that led to a copy', () => {
  const head = 'Delivered-To: x@example.com';
  it('go along with a copy that was queued', async () => {
    const here = open();
    await here.attempt([{ ...to('a'), routes: [{ ...one, head: `${head}\n` }, two] }]);
    assert.deepEqual(here.made, [`${routeKey(one)} ${head}`, routeKey(two)]);
  });

  it('are told where it is only found out now that the address is not the own one of the mailbox', async () => {
    for (const via of [undefined, 'catch-all'] as const) {
      const here = open({ kind: 'local', routes: [one], ...(via && { via }) });
      await here.attempt([to('x')]);
      assert.deepEqual(here.made, [via ? `${routeKey(one)} ${head}` : routeKey(one)]);
    }
  });
});

it('two recipients share a Maildir that cannot be written: each hears what it wished for, and nobody is told "delivered" too early', async () => {
  const here = open();
  here.broken.add(routeKey(one));
  const q = openQueue({
    transports: { here: here.transport, lmtp: here.transport, relay: here.transport, domain: here.transport },
  });
  await q.queue.start();
  const shared = [
    { ...to('never', one), notify: ['NEVER' as const] },
    { ...to('asks', one), notify: ['SUCCESS' as const, 'FAILURE' as const] },
  ];
  await q.add('given', shared, { receivedAt: q.state.now });
  await q.settled();
  assert.deepEqual(q.notices, []);
  for (let day = 0; day < 6; day += 1) await q.pass(24 * hour);
  const [late, end] = q.notices;
  assert.deepEqual(
    [late, end],
    [
      'delayed never@example.com 4.2.2, delayed asks@example.com 4.2.2',
      'failed never@example.com 5.2.2, failed asks@example.com 5.2.2',
    ],
  );
  q.notices.splice(0);
  here.broken.clear();
  await q.add('made', shared, { receivedAt: q.state.now });
  await q.settled();
  assert.deepEqual([q.notices, here.made], [['delivered asks@example.com 2.0.0'], [routeKey(one)]]);
  await q.queue.stop(0);
});

it('what was made is remembered over attempts and restarts, for the recipients that wait for other copies', async () => {
  const here = open();
  here.broken.add(routeKey(two));
  const transports = { here: here.transport, lmtp: here.transport, relay: here.transport, domain: here.transport };
  const q = openQueue({ transports });
  await q.queue.start();
  await q.add('a', [to('one', one), to('list', one, two)]);
  await q.settled();
  await q.queue.stop(1000);
  const again = openQueue({ transports, folder: q.folder });
  again.state.now = q.state.now;
  await again.queue.start();
  here.broken.clear();
  await again.pass(2 * minute);
  await until('it is gone', () => again.queue.size === 0);
  assert.deepEqual(here.made, [routeKey(one), routeKey(two)]);
  await again.queue.stop(0);
});
