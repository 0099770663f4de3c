// Mail from those who may send: logins over real TLS, senders, relaying, and what goes into the real queue. Doubles:
// the resolver, and the transport that would carry mail away.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, it } from 'node:test';
import type { SecureContext } from 'node:tls';
import { createTransport } from 'nodemailer';
import { createAuthenticator } from '../../src/auth/chain.ts';
import { stranger } from '../../src/inbound/peer.ts';
import { Gatherer } from '../../src/system/gather.ts';
import { type Policy, answerRecipient, answerSender } from '../../src/inbound/policy.ts';
import { CannotTell, type Authenticator, type Login } from '../../src/mail/ports.ts';
import type { Mailbox } from '../../src/mail/address.ts';
import type { Outcome, QueueEntry } from '../../src/mail/message.ts';
import type { Message, Route } from '../../src/mail/message.ts';
import type { Resolution, Storage } from '../../src/mail/ports.ts';
import type { MailQueue } from '../../src/queue/queue.ts';
import { parseAddress } from '../../src/smtp/address.ts';
import { replies } from '../../src/smtp/reply.ts';
import { systemClock as clock, systemRandom as random } from '../../src/system/world.ts';
import { mailbox } from '../contract/directory.ts';
import { queueInFolder } from '../contract/queue.ts';
import { octetsOf } from '../contract/storage.ts';
import { Client, type Running, makeContext, startServer } from './inbound.harness.ts';

const folder = mkdtempSync(join(tmpdir(), 'submission-'));
let secureContext: SecureContext;
before(async () => (secureContext = await makeContext()));
after(() => rmSync(folder, { recursive: true }));

const silent = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const hosted = async ({ local, domain }: Mailbox): Promise<Resolution> => {
  if (domain !== 'example.com') return { kind: 'elsewhere' };
  return local === 'unknown' ? { kind: 'unknown' } : { kind: 'local', routes: [server.route(local)] };
};

let server: Running;
let queue: MailQueue | undefined;
afterEach(async () => {
  await queue?.stop(0);
  await server.stop();
});

type Sent = { readonly entry: QueueEntry; readonly to: readonly string[]; readonly content: string };

/** A server with the login anton:secret, and a queue whose mail ends up in `sent`. */
async function start(options: Parameters<typeof startServer>[0] = {}) {
  const sent: Sent[] = [];
  const reported: { readonly entry: QueueEntry; readonly outcomes: readonly Outcome[] }[] = [];
  const queueFolder = mkdtempSync(join(folder, 'queue-'));
  const transport = {
    deliver: async (_: unknown, entry: QueueEntry, message: Message, to: QueueEntry['recipients']) => {
      const content = octetsOf(message).subarray(entry.returnPathBytes).toString('latin1');
      sent.push({ entry, to: to.map(({ address }) => address), content });
      return to.map(() => ({ kind: 'delivered' as const, status: '2.0.0', text: '250 ok' }));
    },
  };
  const users = [{ kind: 'inline' as const, name: 'anton', secret: 'secret' }];
  const throttle = { isShared: () => false, clientKey: (client: string) => client };
  const sources = { users, mainDomain: 'example.com', folder, steward: undefined, tablePasswords: undefined };
  const authenticator = await createAuthenticator({ ...throttle, ...sources, clock, random, log: silent });
  const times = { lifetimeMs: 3_600_000, retryMs: [60_000], delayNoticeMs: 3_600_000 };
  const transports = { here: transport, lmtp: transport, relay: transport, domain: transport };
  const report = async (entry: QueueEntry, _: unknown, outcomes: readonly Outcome[]) =>
    void reported.push({ entry, outcomes });
  queue = queueInFolder(queueFolder, {
    isRelayed: false,
    transports,
    report,
    ...times,
    clock,
    random,
    log: silent,
  });
  await queue.start();
  server = await startServer({ resolve: hosted, secureContext, authenticator, queue, report, ...options });
  return { sent, reported, queue };
}

const login = { auth: { user: 'anton', pass: 'secret' }, tls: { rejectUnauthorized: false } };

async function submit(envelope: { from: string; to: string[] }, raw: string, options: object = {}): Promise<string> {
  const transport = createTransport({ host: '127.0.0.1', port: server.port, secure: true, ...login, ...options });
  try {
    return (await transport.sendMail({ envelope, raw: Buffer.from(raw, 'latin1') })).response;
  } finally {
    transport.close();
  }
}

describe('mail from a login', () => {
  it('is delivered here at once and queued for elsewhere, its header completed and its Bcc gone', async () => {
    const { sent } = await start({ kind: 'submissions' });
    const raw = 'Subject: h\xe9llo\r\nBcc: secret@example.net\r\n\r\n.dot\r\nBcc: body\r\n';
    const response = await submit(
      { from: 'anton@example.com', to: ['berta@example.com', 'carla@example.net', 'dora@example.org'] },
      raw,
    );
    assert.match(response, /^250 2\.0\.0 Queued as \w+$/);
    const expected =
      /^Received: from .*\n\tby mx\.example\.com with ESMTPSA \(TLS.*\)\n\tid \w+; .*\nDate: .* \+0000\nMessage-ID: <\w+@mx\.example\.com>\nSubject: h\xe9llo\n\n\.dot\nBcc: body\n$/;
    assert.match(
      server.files('berta')[0] ?? '',
      new RegExp(`^Return-Path: <anton@example\\.com>\n${expected.source.slice(1)}`),
    );
    assert.deepEqual(sent.map(({ to }) => to).toSorted(), [['carla@example.net'], ['dora@example.org']]);
    for (const { entry, content } of sent) {
      assert.match(content, expected);
      assert.deepEqual([entry.from, entry.is8Bit], ['anton@example.com', true]);
      assert.ok(response.endsWith(entry.id), 'the id of the reply is that of the queue');
    }
  });

  it('works by STARTTLS on a submission socket, and on port 25 too', async () => {
    for (const kind of ['submission', 'smtp'] as const) {
      const { sent } = await start({ kind });
      const options = { secure: false, requireTLS: true };
      await submit({ from: 'anton@example.com', to: ['carla@example.net'] }, 'Subject: x\r\n\r\n', options);
      assert.match(sent[0]?.content ?? '', /with ESMTPSA .*\n\tid \w+\n\tfor <carla@example\.net>; .*\nDate: /);
      await queue?.stop(0);
      await server.stop();
    }
    await start();
  });

  it('is refused with a wrong password, and after three of them the session ends', async () => {
    const wrong: Authenticator = {
      mechanisms: ['PLAIN'],
      begin: () => ({ step: async () => replies.loginFailed, login: undefined }),
    };
    await start({ kind: 'submissions', authenticator: wrong });
    const attempt = submit({ from: 'anton@example.com', to: ['a@example.com'] }, '');
    await assert.rejects(attempt, /535 5\.7\.8/);
    const client = await Client.toTls(server);
    await client.ask('EHLO client.example.net');
    for (let i = 0; i < 2; i += 1) assert.match(await client.ask('AUTH PLAIN AGEAYg=='), /^535 /);
    client.say('AUTH PLAIN AGEAYg==\r\nNOOP\r\n');
    assert.match(await client.rest(), /^535 .*\r\n421 4\.7\.0 Too many failed logins\r\n$/);
  });

  it('leaves what it may not send as with 553, and what nobody here may with 530', async () => {
    await start({ kind: 'submissions', needsLogin: true });
    await assert.rejects(submit({ from: 'berta@example.com', to: ['a@example.net'] }, ''), /553 5\.7\.1/);
    const client = await Client.toTls(server);
    await client.ask('EHLO client.example.net');
    assert.match(await client.ask('MAIL FROM:<anton@example.com>'), /^530 5\.7\.0/);
  });
});

describe('mail for elsewhere', () => {
  it('is refused without login, and taken from a trusted network as from its author', async () => {
    const { sent } = await start();
    const foreigner = await Client.to(server);
    await foreigner.ask('EHLO client.example.net');
    await foreigner.ask('MAIL FROM:<anton@example.com>');
    assert.match(await foreigner.ask('RCPT TO:<carla@example.net>'), /^550 5\.7\.1/);
    assert.deepEqual(sent, []);
    await server.stop();
    const trusted = await start({ isTrusted: true });
    const client = await Client.to(server);
    await client.ask('EHLO client.example.net');
    await client.ask('MAIL FROM:<anyone@example.org>');
    assert.match(await client.ask('RCPT TO:<carla@example.net>'), /^250 /);
    await client.ask('DATA');
    assert.match(await client.ask('Bcc: x\r\nSubject: y\r\n\r\nhello\r\n.'), /^250 2\.0\.0 Queued as /);
    assert.match(
      trusted.sent[0]?.content ?? '',
      /with ESMTP\n[^]*\+0000\nDate: .*\nMessage-ID: <.*>\nSubject: y\n\nhello\n$/,
    );
    foreigner.socket.destroy();
  });
});

describe('a copy that cannot be made now', () => {
  const broken: Storage = { prepare: () => Promise.reject(new CannotTell('the steward does not answer')) };
  const home: Route = { kind: 'account', account: 'berta', folder: 'Maildir' };
  const resolve = async (to: Mailbox): Promise<Resolution> =>
    to.local === 'berta' ? { kind: 'local', routes: [home] } : hosted(to);

  it('waits in the queue, alone, while the others are delivered', async () => {
    const { sent } = await start({ resolve, account: broken });
    const client = await Client.to(server);
    await client.begin('anton', 'berta');
    assert.match(await client.ask('hello\r\n.'), /^250 2\.0\.0 Queued/);
    assert.equal(server.mail('anton').length, 1);
    assert.deepEqual(
      sent[0]?.entry.recipients.map(({ address, routes }) => [address, routes]),
      [['berta@example.com', [home]]],
    );
    assert.match(sent[0]?.content ?? '', /^Received: [^]*hello\n$/);
  });

  it('belongs to each recipient whose mail it carries, with the wish of each', async () => {
    const routes = async (): Promise<Resolution> => ({ kind: 'local', routes: [home], via: 'shared' });
    const there = async (to: Mailbox): Promise<Resolution> =>
      to.local === 'berta' || to.local === 'carla' ? routes() : hosted(to);
    const { sent, reported } = await start({ resolve: there, account: broken });
    const client = await Client.to(server);
    await client.ask('EHLO client.example.net');
    await client.ask('MAIL FROM:<me@example.net>');
    await client.ask('RCPT TO:<berta@example.com> NOTIFY=NEVER');
    await client.ask('RCPT TO:<carla@example.com> NOTIFY=SUCCESS,FAILURE');
    await client.ask('RCPT TO:<anton@example.com>');
    await client.ask('DATA');
    assert.match(await client.ask('hello\r\n.'), /^250 2\.0\.0 Queued/);
    const copy = { ...home, head: 'Delivered-To: berta@example.com\nDelivered-To: carla@example.com\n' };
    assert.deepEqual(
      sent[0]?.entry.recipients.map(({ address, routes: owed, notify, isShared }) => [address, owed, notify, isShared]),
      [
        ['berta@example.com', [copy], ['NEVER'], true],
        ['carla@example.com', [copy], ['SUCCESS', 'FAILURE'], true],
      ],
    );
    assert.deepEqual(
      reported.map(({ outcomes }) => outcomes.map(({ action, recipient }) => [action, recipient.address])),
      [[['expanded', 'carla@example.com']]],
    );
  });

  it('is 451 when it was the only one, and nothing is left', async () => {
    const { sent, queue: empty } = await start({ resolve, account: broken });
    const client = await Client.to(server);
    await client.begin('berta');
    assert.match(await client.ask('hello\r\n.'), /^451 4\.3\.0/);
    assert.deepEqual([sent, empty.size, server.spooled()], [[], 0, []]);
  });

  it('is 451 when the queue cannot be written either, and no other copy is left', async () => {
    const full = { prepare: () => Promise.reject(Object.assign(new Error('full'), { code: 'ENOSPC' })) };
    await start({ resolve, account: broken, queue: full });
    const client = await Client.to(server);
    await client.begin('anton', 'berta');
    assert.match(await client.ask('hello\r\n.'), /^451 4\.3\.0/);
    assert.deepEqual([server.mail('anton'), server.in('anton', 'tmp')], [[], []]);
  });
});

it('success is reported where it was asked for: delivered, or expanded for a shared mailbox', async () => {
  const resolve = async (to: Mailbox): Promise<Resolution> => {
    const found = await hosted(to);
    return found.kind === 'local' && to.local === 'social' ? { ...found, via: 'shared' } : found;
  };
  const { reported } = await start({ resolve });
  const client = await Client.to(server);
  await client.ask('EHLO client.example.net');
  await client.ask('MAIL FROM:<me@example.net> RET=HDRS ENVID=e1');
  for (const name of ['anton', 'social']) await client.ask(`RCPT TO:<${name}@example.com> NOTIFY=SUCCESS,FAILURE`);
  await client.ask('RCPT TO:<berta@example.com>');
  await client.ask('DATA');
  assert.match(await client.ask('hello\r\n.'), /^250 /);
  const [{ entry, outcomes } = assert.fail('no report')] = reported;
  assert.deepEqual(
    outcomes.map(({ action, recipient }) => [action, recipient.address]),
    [
      ['delivered', 'anton@example.com'],
      ['expanded', 'social@example.com'],
    ],
  );
  assert.deepEqual([reported.length, entry.from, entry.ret, entry.envelopeId], [1, 'me@example.net', 'HDRS', 'e1']);
});

describe('a sender', () => {
  const maildir = (path: string): Route => ({ kind: 'maildir', path, root: '/m' });
  const table: Record<string, Resolution> = {
    'anton@example.com': { kind: 'local', routes: [maildir('/m/anton')] },
    'a.n@example.com': { kind: 'local', routes: [maildir('/m/anton')] },
    'berta@example.com': { kind: 'local', routes: [maildir('/m/berta')] },
    'social@example.com': { kind: 'local', routes: [maildir('/m/berta'), maildir('/m/anton')], via: 'shared' },
    'others@example.com': { kind: 'local', routes: [maildir('/m/berta')], via: 'shared' },
    'any@example.com': { kind: 'local', routes: [maildir('/m/default')], via: 'catch-all' },
    'gone@example.com': { kind: 'local', routes: [maildir('/m/default')], via: 'catch-all' },
    // Both are forwarded to the same address, and one is kept where anton's mail is.
    'far@example.com': { kind: 'local', routes: [], forwards: [{ address: 'a@x', mailbox: mailbox('a@x') }] },
    'near@example.com': { kind: 'local', routes: [maildir('/m/anton')], own: [], via: 'alias' },
    'kept@example.com': {
      kind: 'local',
      routes: [maildir('/m/kept'), maildir('/m/anton')],
      own: [maildir('/m/kept')],
      via: 'alias',
    },
    'home@example.com': { kind: 'local', routes: [{ kind: 'account', account: 'anton', folder: 'Maildir' }] },
  };
  const policy = (senderCheck: Policy['senderCheck']): Policy => ({
    senderCheck,
    returnPaths: { forForward: async from => from },
    gatherer: new Gatherer(silent),
    resolve: async ({ local, domain }) => {
      if (local === 'later') throw new CannotTell('down');
      return domain === 'example.com' ? (table[`${local}@${domain}`] ?? { kind: 'unknown' }) : { kind: 'elsewhere' };
    },
  });
  const anton: Login = { name: 'anton', address: mailbox('anton@example.com') };
  const cases: readonly (readonly [Login, string, strict: number, domain: number])[] = [
    [anton, 'ANTON@Example.com', 250, 250],
    [anton, 'a.n@example.com', 250, 250],
    [anton, 'social@example.com', 250, 250],
    [anton, '', 250, 250],
    [anton, 'berta@example.com', 553, 250],
    [anton, 'others@example.com', 553, 250],
    [anton, 'any@example.com', 553, 250],
    [anton, 'far@example.com', 553, 250],
    [anton, 'near@example.com', 553, 250],
    [{ name: 'far', address: mailbox('far@example.com') }, 'near@example.com', 553, 250],
    [{ name: 'kept', address: mailbox('kept@example.com') }, 'anton@example.com', 553, 250],
    [anton, 'unknown@example.com', 553, 250],
    [anton, 'anton@example.net', 553, 553],
    [anton, 'anton@[192.0.2.1]', 553, 553],
    [anton, 'later@example.com', 451, 451],
    [anton, 'home@example.com', 553, 250],
    [{ ...anton, account: 'anton' }, 'home@example.com', 250, 250],
    // A login whose own address only the catch-all takes has that address, and nobody else's.
    [{ name: 'gone', address: mailbox('gone@example.com') }, 'gone@example.com', 250, 250],
    [{ name: 'gone', address: mailbox('gone@example.com') }, 'any@example.com', 553, 250],
    // The members of a shared mailbox are not its to write as.
    [{ name: 'social', address: mailbox('social@example.com') }, 'berta@example.com', 553, 250],
    [{ name: 'app', address: mailbox('app@elsewhere.example') }, 'app@elsewhere.example', 250, 250],
  ];
  for (const [who, text, strict, domain] of cases)
    it(`<${text}> of ${who.name}${who.account ? ' (Unix account)' : ''}: strict ${strict}, domain ${domain}, off 250`, async () => {
      const sender = text === '' ? '' : (parseAddress(text) ?? assert.fail(text));
      const codes = [];
      for (const check of ['strict', 'domain', 'off'] as const)
        codes.push((await answerSender({ ...stranger, login: who }, sender, policy(check))).code);
      assert.deepEqual(codes, [strict, domain, 250]);
    });

  it('no form of an address makes us relay for a stranger', async () => {
    for (const text of [
      'a%example.net@example.com',
      'example.net!a@example.com',
      '"a@example.net"@example.com',
      '@example.com:a@example.net',
      'a@[127.0.0.1]',
      'a@example.net',
      'a@example.com.example.net',
    ]) {
      const { reply, destination } = await answerRecipient(
        parseAddress(text) ?? assert.fail(text),
        stranger,
        '',
        policy('strict'),
      );
      assert.ok(reply.code >= 500 && destination === undefined, `${text}: ${reply.code}`);
    }
  });
});
