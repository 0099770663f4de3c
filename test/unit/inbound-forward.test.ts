// Forwards as a client sees them, and what the queue gets of them: real sessions and Maildirs; doubles for resolver and
// queue.
import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import type { Check } from '../../src/inbound/checks.ts';
import { type Found, type Queue, type Resolution } from '../../src/mail/ports.ts';
import type { Message, QueueEntry } from '../../src/mail/message.ts';
import { replies } from '../../src/smtp/reply.ts';
import { mailbox } from '../contract/directory.ts';
import { Client, type Running, startServer } from './inbound.harness.ts';

const to = (address: string) => ({ address, mailbox: mailbox(address) });
let server: Running;
afterEach(() => server.stop());

type Kept = { readonly entry: QueueEntry; readonly message: Message };
async function start(
  found: (local: string) => Omit<Found, 'routes'> & { readonly routes?: readonly string[] },
  { isBroken = false, ...options }: Parameters<typeof startServer>[0] & { readonly isBroken?: boolean } = {},
) {
  const kept: Kept[] = [];
  const queue: Queue = {
    prepare: async (entry, message) => {
      if (isBroken) throw new Error('the disk is full');
      return { commit: async () => void kept.push({ entry, message }), abort: async () => undefined };
    },
  };
  server = await startServer({
    ...options,
    queue,
    resolve: async ({ local }): Promise<Resolution> => {
      const { routes = [], ...rest } = found(local);
      return { kind: 'local', ...rest, routes: routes.map(server.route) };
    },
    returnPaths: { forForward: async from => (from.endsWith('@example.net') ? 'SRS0=x@example.com' : from) },
  });
  const client = await Client.to(server);
  await client.ask('EHLO client.example.net');
  return { kept, client };
}
async function send(client: Client, from: string, recipients: readonly string[], content = 'hello'): Promise<string> {
  assert.match(await client.ask(`MAIL FROM:<${from}>`), /^250/);
  for (const each of recipients) {
    const reply = await client.ask(`RCPT TO:<${each}@example.com>`);
    if (!reply.startsWith('250')) return reply;
  }
  assert.match(await client.ask('DATA'), /^354/);
  return client.ask(`${content}\r\n.`);
}

describe('a forward', () => {
  it('is an envelope of its own, with the reverse-path of SRS and the line that ends loops; the copy here has none', async () => {
    const { kept, client } = await start(() => ({
      routes: ['anton'],
      forwards: [to('a@peer.example'), to('b@peer.example')],
    }));
    assert.match(await send(client, 'x@example.net', ['anton']), /^250 2\.0\.0 Queued/);
    const [{ entry }] = kept as [Kept];
    assert.equal(kept.length, 1);
    assert.deepEqual(
      [entry.from, entry.sentAs, entry.head],
      ['x@example.net', 'SRS0=x@example.com', 'Delivered-To: anton@example.com\n'],
    );
    const wishes = { originalRecipient: 'rfc822;anton@example.com' };
    assert.deepEqual(entry.recipients, [
      { address: 'a@peer.example', domain: 'peer.example', ...wishes },
      { address: 'b@peer.example', domain: 'peer.example', ...wishes },
    ]);
    assert.equal(server.mail('anton').length, 1);
    assert.doesNotMatch(server.files('anton')[0] ?? '', /Delivered-To/);
  });

  it('of two addresses to the same one is two mails, each with its own line; a sender of ours and the null one stay', async () => {
    const { kept, client } = await start(() => ({ forwards: [to('a@peer.example')] }));
    for (const from of ['me@example.com', '']) {
      kept.length = 0;
      assert.match(await send(client, from, ['one', 'two']), /^250/);
      assert.deepEqual(
        kept.map(({ entry }) => [entry.from, entry.sentAs, entry.head]),
        [
          [from, undefined, 'Delivered-To: one@example.com\n'],
          [from, undefined, 'Delivered-To: two@example.com\n'],
        ],
      );
      assert.equal(new Set(kept.map(({ entry }) => entry.id)).size, 2);
    }
  });

  it('that cannot be kept is 4xx, and no copy is left here', async () => {
    const { client } = await start(() => ({ routes: ['anton'], forwards: [to('a@peer.example')] }), { isBroken: true });
    assert.match(await send(client, 'x@example.net', ['anton']), /^45/);
    assert.deepEqual(server.mail('anton'), []);
  });

  for (const line of [
    'Delivered-To: anton@example.com',
    'delivered-to:<ANTON@Example.Com>',
    'X: y\r\nDelivered-To: "anton"@example.com',
  ])
    it(`that comes back to its address is 5.4.6: ${line}`, async () => {
      const { kept, client } = await start(() => ({ forwards: [to('a@peer.example')] }));
      assert.match(await send(client, 'x@example.net', ['anton'], `${line}\r\n\r\nhello`), /^554 5\.4\.6 /);
      // There is one reply for the whole message.
      assert.match(await send(client, 'x@example.net', ['berta', 'anton'], `${line}\r\n\r\nhello`), /^554 5\.4\.6 /);
      assert.match(await send(client, 'x@example.net', ['berta'], `${line}\r\n\r\nhello`), /^250/);
      assert.match(await send(client, 'x@example.net', ['anton'], `X: y\r\n\r\n${line}\r\n`), /^250/);
      assert.equal(kept.length, 2);
    });

  it('has a bound for one message, beyond what its first recipient leads to', async () => {
    const many = Array.from({ length: 600 }, (_, at) => to(`x${at}@peer.example`));
    const { client } = await start(local => ({ forwards: local === 'none' ? [to('a@peer.example')] : many }));
    assert.match(await send(client, 'x@example.net', ['one', 'two']), /^452 4\.5\.3 /);
    await client.ask('RSET');
    assert.match(await send(client, 'x@example.net', ['one', 'none']), /^250/);
    assert.match(await send(client, 'x@example.net', ['two']), /^250/);
  });
});

it('what fails DMARC is not forwarded: it goes to .Junk where there is one, else it is refused', async () => {
  const junk: Check = {
    name: 'junk',
    deadlineMs: 0,
    linesBytes: () => 0,
    judge: () => ({ lines: '', junk: replies.notTheAuthors }),
  };
  const { kept, client } = await start(
    local => ({ ...(local === 'both' && { routes: ['both'] }), forwards: [to('a@peer.example')] }),
    { checks: [junk] },
  );
  assert.match(await send(client, 'x@example.net', ['both']), /^250 2\.0\.0 Delivered/);
  assert.equal(server.in('both/.Junk', 'new').length, 1);
  assert.match(await send(client, 'x@example.net', ['far']), /^550 5\.7\.26 /);
  assert.match(await send(client, 'x@example.net', ['both', 'far']), /^550 5\.7\.26 /);
  assert.deepEqual([kept.length, server.in('both/.Junk', 'new').length], [0, 1]);
});

it('an address for bounces takes them from the null reverse-path, and nothing else', async () => {
  const { kept, client } = await start(() => ({ forwards: [to('anna@peer.example')], isForBounces: true }));
  for (const from of ['x@example.net', 'anna@peer.example', 'me@example.com']) {
    assert.match(await send(client, from, ['SRS0=x']), /^550 5\.1\.1 /);
    await client.ask('RSET');
  }
  assert.match(await send(client, '', ['SRS0=x']), /^250/);
  assert.deepEqual(
    kept.map(({ entry }) => [entry.from, entry.recipients.map(({ address }) => address)]),
    [['', ['anna@peer.example']]],
  );
});
