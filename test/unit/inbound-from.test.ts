// The From field of a login, where mail is signed: it names only whom the login may send as. Real sessions; doubles are
// the resolver and who may log in.
import assert from 'node:assert/strict';
import { afterEach, before, describe, it } from 'node:test';
import type { SecureContext } from 'node:tls';
import { fromCheck } from '../../src/inbound/from-check.ts';
import type { Mailbox } from '../../src/mail/address.ts';
import type { QueueEntry } from '../../src/mail/message.ts';
import { type Authenticator, CannotTell, type Queue, type Resolution } from '../../src/mail/ports.ts';
import { replies } from '../../src/smtp/reply.ts';
import { Gatherer } from '../../src/system/gather.ts';
import { mailbox } from '../contract/directory.ts';
import { Client, type Running, makeContext, startServer } from './inbound.harness.ts';

let secureContext: SecureContext;
before(async () => (secureContext = await makeContext()));
let server: Running;
afterEach(() => server.stop());

const silent = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
/** anton and his alias shop share a mailbox; the database has lost its mind about `broken`. */
const resolve = async ({ local, domain }: Mailbox): Promise<Resolution> => {
  if (local === 'broken') throw new CannotTell('the database is down', { status: '4.3.0' });
  if (domain !== 'example.com') return { kind: 'elsewhere' };
  return { kind: 'local', routes: [server.route(local === 'shop' ? 'anton' : local)] };
};
const authenticator: Authenticator = {
  mechanisms: ['PLAIN'],
  begin: () => ({
    step: async () => replies.loggedIn,
    login: { name: 'anton', address: mailbox('anton@example.com') },
  }),
};
const kept: QueueEntry[] = [];
const queue: Queue = {
  prepare: async entry => ({ commit: async () => void kept.push(entry), abort: async () => undefined }),
};

async function start(senderCheck: 'strict' | 'domain', more: Parameters<typeof startServer>[0] = {}): Promise<void> {
  kept.length = 0;
  const gatherer = new Gatherer(silent);
  const checks = [fromCheck({ resolve, returnPaths: { forForward: async from => from }, senderCheck, gatherer })];
  server = await startServer({ resolve, senderCheck, checks, queue, ...more });
}
const logIn = async (): Promise<Client> => {
  const client = await Client.toTls(server);
  await client.ask('EHLO client.example.net');
  assert.match(await client.ask('AUTH PLAIN AGFudG9uAHNlY3JldA=='), /^235/);
  return client;
};
/** The reply to the final dot, for a header. */
async function send(header: string, client?: Client): Promise<string> {
  const session = client ?? (await logIn());
  session.say('MAIL FROM:<anton@example.com>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n');
  await session.hear(/^354 .*\r\n/m);
  return session.ask(`${header}Subject: x\r\n\r\nFrom: in the body\r\n.`);
}
const submissions = () => ({ kind: 'submissions', secureContext, authenticator }) as const;
const refusal = /^550 5\.7\.1 From must be/;

describe('From of a login', () => {
  it('under strict holds its own addresses alone, each of them', async () => {
    await start('strict', submissions());
    for (const from of ['anton@example.com', 'A <SHOP@example.com>, anton@example.com', 'T: anton@example.com;'])
      assert.match(await send(`From: ${from}\r\n`), /^250/, from);
    for (const from of ['berta@example.com', 'anton@example.com, berta@example.com', 'anton@example.net', '<>', 'T:;'])
      assert.match(await send(`From: ${from}\r\n`), refusal, from);
    assert.ok(kept.every(({ isOurs }) => isOurs));
    assert.equal(kept.length, 3);
  });

  it('under domain holds addresses of hosted domains', async () => {
    await start('domain', submissions());
    assert.match(await send('From: berta@example.com\r\n'), /^250/);
    assert.match(await send('From: berta@example.com, x@example.net\r\n'), refusal);
  });

  it('that cannot be read, or stands there twice, is refused, however it is hidden', async () => {
    await start('strict', submissions());
    const own = 'From: anton@example.com\r\n';
    for (const header of [
      'From: anton\r\n',
      `${own}From: berta@example.com\r\n`,
      `${own}FROM : berta@example.com\r\n`,
      `${own}no field\r\nFrom: berta@example.com\r\n`,
      'From: "anton@example.com\r\n',
      'From: anton@example.com <berta@example.com>\r\n',
      'From:\r\n berta@example.com\r\n',
      `From: ${'anton@example.com, '.repeat(20)}anton@example.com\r\n`,
      `X: ${'x'.repeat(900)}\r\n`.repeat(100) + own + own, // behind the first 64 KiB
    ])
      assert.match(await send(header), refusal, header.slice(0, 60));
  });

  it('that is not there is no reason to refuse', async () => {
    await start('strict', submissions());
    assert.match(await send(''), /^250/);
  });

  it('that cannot be looked up now is 451', async () => {
    await start('strict', submissions());
    assert.match(await send('From: broken@example.com\r\n'), /^451 4\.3\.0/);
  });
});

describe('mail of others', () => {
  it('from a trusted network is ours, and its From is not looked at', async () => {
    await start('strict', { isTrusted: true });
    const client = await Client.to(server);
    await client.ask('EHLO client.example.net');
    assert.match(await send('From: x@example.net\r\nFrom: y@example.net\r\n', client), /^250/);
    assert.equal(kept[0]?.isOurs, true);
  });

  it('from a stranger is not ours, also where a copy has to wait here', async () => {
    const route = { kind: 'account', account: 'anton', folder: 'Maildir' } as const;
    const account = { prepare: () => Promise.reject(new Error('later')) };
    const both = async (): Promise<Resolution> => ({ kind: 'local', routes: [route, server.route('b')] });
    await start('strict', { account, resolve: both });
    const client = await Client.to(server);
    await client.begin('anton');
    assert.match(await client.ask('From: x@example.net\r\n\r\nx\r\n.'), /^250/);
    assert.equal(kept.length, 1);
    assert.equal(kept[0]?.isOurs, undefined);
  });
});
