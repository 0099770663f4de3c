// What whoever listens hears of sessions and messages: real sessions, Maildirs and queue; doubles for resolver and next
// hops.
import assert from 'node:assert/strict';
import { type SecureContext } from 'node:tls';
import { join } from 'node:path';
import { afterEach, before, describe, it } from 'node:test';
import { type Check, loopCheck } from '../../src/inbound/checks.ts';
import type { Event } from '../../src/mail/event.ts';
import type { Authenticator, Queue } from '../../src/mail/ports.ts';
import { createReport } from '../../src/queue/report.ts';
import { replies } from '../../src/smtp/reply.ts';
import { systemClock as clock, systemRandom as random } from '../../src/system/world.ts';
import { mailbox } from '../contract/directory.ts';
import { queueEntry } from '../contract/queue.ts';
import { memory } from '../contract/storage.ts';
import { Client, type Running, makeContext, startServer, until } from './inbound.harness.ts';
import { delivered, failed, greylisted } from '../contract/deliveries.ts';
import { minute, open } from './queue.harness.ts';

const heard: Event[] = [];
const listen = (event: Event): void => void heard.push(event);
const kinds = (): string[] => heard.map(({ kind }) => kind);
function one<K extends Event['kind']>(kind: K): Extract<Event, { kind: K }> {
  const found = heard.filter(event => event.kind === kind);
  assert.equal(found.length, 1, `${kind} in ${JSON.stringify(heard)}`);
  return found[0] as Extract<Event, { kind: K }>;
}

let secureContext: SecureContext;
let server: Running | undefined;
before(async () => void (secureContext = await makeContext()));
afterEach(async () => {
  await server?.stop();
  server = undefined;
  heard.length = 0;
});

async function start(options: Parameters<typeof startServer>[0] = {}): Promise<Client> {
  server = await startServer({ listen, ...options });
  return Client.to(server);
}
const ended = (): Promise<void> => until(() => kinds().includes('session'), 'the end of the session');

describe('a session', () => {
  it('tells of a message that was kept, with its Message-ID, and of its own end', async () => {
    const client = await start();
    await client.begin('anton', 'berta');
    const reply = await client.ask('Subject: x\r\nmessage-id:\r\n <one@example.net>\r\n\r\nhello\r\n.');
    const { message, session, ms, ...told } = one('message');
    assert.equal(reply, `250 2.0.0 Delivered as ${message}`);
    assert.match(session, /^s\d+$/);
    assert.ok(ms >= 0);
    assert.deepEqual(told, {
      kind: 'message',
      result: 'delivered',
      reply: '250 2.0.0',
      client: '127.0.0.1',
      helo: 'client.example.net',
      protocol: 'ESMTP',
      tls: undefined,
      login: undefined,
      from: 'me@example.net',
      to: ['anton@example.com', 'berta@example.com'],
      recipients: 2,
      routes: ['anton', 'berta'].map(name => `maildir:${join(server?.folder ?? '', 'mail', name)}`),
      sizeBytes: 49,
      messageId: '<one@example.net>',
      verdicts: [],
    });
    await client.ask('QUIT');
    await ended();
    assert.deepEqual([one('session').listener, one('session').isProbe], ['smtp', false]);
  });

  it('tells of what was refused at MAIL and RCPT, by policy and by the protocol', async () => {
    const client = await start({ resolve: async () => ({ kind: 'unknown' }) });
    await client.ask('EHLO client.example.net');
    await client.ask('MAIL FROM:<me@>');
    await client.ask('MAIL FROM:<me@example.net>');
    await client.ask('RCPT TO:<anton@example.com>');
    await client.ask('RCPT TO:<too far@>');
    const refused = heard.filter(event => event.kind === 'refused');
    assert.deepEqual(
      refused.map(({ from, to, reply, helo, client: who }) => [from, to, reply.slice(0, 9), helo, who]),
      [
        ['me@', undefined, '501 5.1.7', 'client.example.net', '127.0.0.1'],
        ['me@example.net', 'anton@example.com', '550 5.1.1', 'client.example.net', '127.0.0.1'],
        ['me@example.net', 'too far@', '501 5.1.3', 'client.example.net', '127.0.0.1'],
      ],
    );
  });

  it('tells what each check has said, of a refusal as of .Junk, and where the message went', async () => {
    const results = ['spf=pass smtp.mailfrom=example.net', 'dmarc=fail header.from=example.net'];
    let verdict: Awaited<ReturnType<Check['judge']>>;
    const check: Check = { name: 'test', deadlineMs: 1000, linesBytes: () => 0, judge: () => verdict };
    const client = await start({ checks: [loopCheck, check] });
    verdict = { lines: '', junk: replies.notTheAuthors, why: 'it is forged', results };
    await client.begin('anton');
    await client.ask('Message-ID: <two@example.net>\r\n\r\nhello\r\n.');
    assert.deepEqual(one('message').verdicts, [{ check: 'test', result: 'junk', why: 'it is forged', results }]);
    assert.match(one('message').routes[0] ?? '', /\/anton\/\.Junk$/);
    heard.length = 0;
    verdict = { ...replies.notTheAuthors, why: 'it is forged' };
    await client.begin('anton');
    await client.ask('Message-ID: <three@example.net>\r\n\r\nhello\r\n.');
    const { result, reply, messageId, verdicts } = one('message');
    assert.deepEqual([result, reply?.slice(0, 10), messageId], ['refused', '550 5.7.26', '<three@example.net>']);
    assert.equal(verdicts[0]?.result, 'refused');
    heard.length = 0;
    verdict = { lines: 'A: 1\n' };
    await client.begin('anton');
    await client.ask('hello\r\n.');
    assert.deepEqual([one('message').verdicts[0]?.result, one('message').messageId], ['passed', undefined]);
  });

  it('tells of a message whose end never came, and of one that is refused while it comes', async () => {
    const client = await start({ maxSizeBytes: 100 });
    await client.begin('anton');
    await client.ask(`${'x'.repeat(200)}\r\n.`);
    assert.deepEqual([one('message').result, one('message').reply?.slice(0, 9)], ['refused', '552 5.3.4']);
    heard.length = 0;
    await client.begin('anton');
    client.socket.end('hello');
    await ended();
    assert.deepEqual([one('message').result, one('message').reply], ['abandoned', undefined]);
  });

  it('tells how each login went, by its end alone', async () => {
    let reply = replies.loginFailed;
    const authenticator: Authenticator = {
      mechanisms: ['PLAIN'],
      begin: () => ({
        name: 'anton',
        login: undefined,
        step: async response => (response === undefined ? replies.challenge('') : reply),
      }),
    };
    server = await startServer({ kind: 'submissions', secureContext, authenticator, listen });
    const client = await Client.toTls(server);
    await client.ask('EHLO x');
    await client.ask('AUTH PLAIN');
    assert.deepEqual(kinds(), []);
    await client.ask('AGEAYg==');
    reply = replies.cannotLogin;
    await client.ask('AUTH PLAIN AGEAYg==');
    reply = replies.loggedIn;
    await client.ask('AUTH PLAIN AGEAYg==');
    const logins = heard.filter(event => event.kind === 'login');
    assert.deepEqual(
      logins.map(({ name, result }) => [name, result]),
      [
        ['anton', 'failed'],
        ['anton', 'later'],
        ['anton', 'ok'],
      ],
    );
    assert.doesNotMatch(JSON.stringify(heard), /AGEAYg|hunter/);
  });

  it('that is not let in is told, and which limit it met', async () => {
    await start({ maxSessions: 1 });
    await new Client((await import('node:net')).connect(server?.port ?? 0, '127.0.0.1')).rest();
    assert.deepEqual(one('turned away'), { kind: 'turned away', client: '127.0.0.1', because: 'sessions' });
  });

  it('tells of each forward, with the id under which it leaves', async () => {
    const kept: string[] = [];
    const queue: Queue = {
      prepare: async ({ id }) => ({ commit: async () => void kept.push(id), abort: async () => undefined }),
    };
    const forwards = [{ address: 'a@peer.example', mailbox: mailbox('a@peer.example') }];
    const client = await start({
      queue,
      resolve: async ({ local }) => (local === 'far' ? { kind: 'elsewhere' } : { kind: 'local', routes: [], forwards }),
      isTrusted: true,
      returnPaths: { forForward: async () => 'SRS0=x@example.com' },
    });
    await client.begin('far', 'info');
    await client.ask('hello\r\n.');
    const { message } = one('message');
    assert.equal(one('message').result, 'queued');
    assert.deepEqual(kept, [message, `${message}1`]);
    const told = { kind: 'forward', message, as: `${message}1`, from: 'SRS0=x@example.com', to: ['a@peer.example'] };
    assert.deepEqual(one('forward'), told);
  });
});

describe('the queue', () => {
  it('tells what each attempt brought, in the other side’s words, and when the next one is', async () => {
    const q = open({ listen });
    await q.queue.start();
    q.state.answer = ({ address }) => (address === 'x@one' ? { ...greylisted, tls: 'TLSv1.3:X' } : failed);
    await q.add('a', ['x@one', 'y@one', 'z@one'], { from: 'me@example.com' });
    await q.settled();
    const attempts = heard.filter(event => event.kind === 'attempt');
    const common = { kind: 'attempt', message: 'a', from: 'me@example.com', hop: 'domain', destination: 'one', ms: 0 };
    assert.deepEqual(attempts, [
      {
        ...common,
        to: ['x@one'],
        recipients: 1,
        result: 'deferred',
        status: '4.7.1',
        text: 'come back',
        remote: 'mx.example',
        tls: 'TLSv1.3:X',
        attempts: 1,
        nextAt: q.state.now + minute,
        ageMs: 0,
      },
      {
        ...common,
        to: ['y@one', 'z@one'],
        recipients: 2,
        result: 'failed',
        status: '5.1.1',
        text: 'unknown',
        remote: 'mx.example',
        tls: undefined,
        attempts: 1,
        nextAt: undefined,
        ageMs: 0,
      },
    ]);
    heard.length = 0;
    q.state.answer = () => delivered;
    await q.pass(2 * minute);
    const { result, attempts: count, ageMs, text } = one('attempt');
    assert.deepEqual([result, count, ageMs, text], ['delivered', 2, 2 * minute, 'ok']);
    await q.queue.stop(0);
  });

  it('tells what an operator has ordered, of which message', async () => {
    const q = open({ listen });
    await q.queue.start();
    q.state.answer = () => greylisted;
    await q.add('a', ['x@one']);
    await q.settled();
    heard.length = 0;
    for (const action of ['hold', 'release', 'remove'] as const) await q.queue.act(action, { id: 'a' });
    const orders = heard.filter(event => event.kind === 'order');
    const order = { kind: 'order', message: 'a', by: 'operator', to: ['x@one'] };
    assert.deepEqual(
      orders,
      ['hold', 'release', 'remove'].map(action => ({ ...order, action })),
    );
    await q.queue.stop(0);
  });

  it('tells of a notice, with its id and what it says; also of one that has nobody to go to', async () => {
    let id = '';
    const report = createReport({
      hostname: 'mail.example.com',
      lifetimeMs: 1,
      resolve: async ({ local }) => (local === 'gone' ? { kind: 'unknown' } : { kind: 'elsewhere' }),
      queue: () => ({
        prepare: async entry => {
          id = entry.id;
          return { commit: async () => {}, abort: async () => {} };
        },
      }),
      listen,
      clock,
      random,
      log: { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} },
    });
    const recipient = { address: 'x@one', domain: 'one' };
    const outcomes = [{ action: 'failed' as const, recipient, delivery: failed }];
    await report(queueEntry('a', { from: 'me@example.net' }), memory('x\n'), outcomes);
    const told = { kind: 'notice', message: 'a', outcomes: [{ action: 'failed', to: 'x@one' }] };
    assert.deepEqual(one('notice'), { ...told, as: id, to: 'me@example.net' });
    heard.length = 0;
    await report(queueEntry('a', { from: 'gone@example.net' }), memory('x\n'), outcomes);
    assert.deepEqual(one('notice'), { ...told, to: 'gone@example.net' });
  });
});
