// What stands in the log: one line a message, one a session, one a refusal; and that no client can make it grow as it
// likes.
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { afterEach, before, describe, it } from 'node:test';
import type { SecureContext } from 'node:tls';
import { EnvelopeBudget, recipientBytes, senderBytes } from '../../src/inbound/envelopes.ts';
import { type Recipient, type Sender, parseRecipient, parseSender } from '../../src/smtp/envelope.ts';
import { type Authenticator, CannotTell, type Resolution } from '../../src/mail/ports.ts';
import { replies } from '../../src/smtp/reply.ts';
import { Client, type Line, type Running, makeContext, startServer, until } from './inbound.harness.ts';

let secureContext: SecureContext;
before(async () => (secureContext = await makeContext()));

let server: Running;
afterEach(() => server.stop());
const start = async (options: Parameters<typeof startServer>[0] = {}): Promise<Client> => {
  server = await startServer(options);
  return Client.to(server);
};
const linesOf = (text: string): Line[] => server.lines.filter(line => line.text === text);
const hosted = async ({ local, domain }: { local: string; domain: string }): Promise<Resolution> => {
  if (domain !== 'example.com') return { kind: 'elsewhere' };
  return local === 'unknown' ? { kind: 'unknown' } : { kind: 'local', routes: [server.route(local)] };
};
/** The fields of a line by which somebody finds out what became of a mail. */
const told = ({ client, helo, from, to, argument, reply }: Line): Record<string, unknown> =>
  JSON.parse(JSON.stringify({ client, helo, from, to, argument, reply })) as Record<string, unknown>;

describe('the log', () => {
  it('has one line a message and one a session, and text from the network only in fields', async () => {
    const client = await start();
    client.say(
      'EHLO client.example.net\r\nMAIL FROM:<"a\\"} b"@example.net>\r\nRCPT TO:<anton@example.com>\r\nDATA\r\n',
    );
    await client.hear(/^354 .*\r\n/m);
    await client.ask('secret body\r\n.');
    await client.ask('QUIT');
    await until(() => server.listeners.sessions === 0, 'the end of the session');
    assert.deepEqual(
      server.lines.map(({ text }) => text),
      ['message delivered', 'session ended'],
    );
    const [message = {}, session] = server.lines as Record<string, unknown>[];
    const wanted = {
      session: 's1',
      client: '127.0.0.1',
      helo: 'client.example.net',
      from: '"a\\"} b"@example.net',
      to: ['anton@example.com'],
      size: 12,
      reply: '250 2.0.0',
    };
    assert.deepEqual(Object.fromEntries(Object.keys(wanted).map(name => [name, message[name]])), wanted);
    assert.deepEqual([session?.['session'], session?.['messages']], ['s1', 1]);
    assert.doesNotMatch(JSON.stringify(server.lines), /secret/);
  });
});

describe('a refusal has a line, with who, what and why', () => {
  it('of an unknown recipient and of one elsewhere', async () => {
    const client = await start({ resolve: hosted });
    await client.ask('EHLO friend.example.org');
    await client.ask('MAIL FROM:<friend@example.org>');
    assert.match(await client.ask('RCPT TO:<unknown@example.com>'), /^550 5\.1\.1/);
    assert.match(await client.ask('RCPT TO:<a@example.net>'), /^550 5\.7\.1/);
    assert.match(await client.ask('RCPT TO:<no address>'), /^501 /);
    const who = { client: '127.0.0.1', helo: 'friend.example.org', from: 'friend@example.org' };
    assert.deepEqual(linesOf('recipient refused').map(told), [
      { ...who, to: 'unknown@example.com', reply: '550 5.1.1 No such mailbox' },
      { ...who, to: 'a@example.net', reply: '550 5.7.1 This server does not relay to other domains' },
    ]);
    assert.deepEqual(linesOf('RCPT refused').map(told), [
      { ...who, to: 'no address', argument: 'TO:<no address>', reply: '501 5.1.3 The recipient address is malformed' },
    ]);
  });

  it('of MAIL without TLS, and of a declared size that is too large', async () => {
    const client = await start({ kind: 'submission', needsTls: true });
    await client.ask('EHLO laptop');
    assert.match(await client.ask('MAIL FROM:<anton@example.com>'), /^530 /);
    const [line = assert.fail('no line')] = linesOf('MAIL refused');
    assert.deepEqual([line['from'], line['argument']], ['anton@example.com', 'FROM:<anton@example.com>']);
    assert.equal(line['reply'], '530 5.7.0 Send STARTTLS first');
    await server.stop();
    const other = await start({ maxSizeBytes: 1000 });
    await other.ask('EHLO x');
    assert.match(await other.ask('MAIL FROM:<a@example.net> SIZE=1001'), /^552 /);
    assert.equal(linesOf('MAIL refused')[0]?.['reply'], '552 5.3.4 The message exceeds the size limit');
  });

  it('of a message that turns out too large, or malformed', async () => {
    const client = await start({ maxSizeBytes: 100 });
    for (const [content, reply] of [
      ['x'.repeat(200), '552 5.3.4 The message exceeds the size limit'],
      ['a\nb', '550 5.6.11 The message has a bare CR or LF; lines must end in CRLF'],
    ]) {
      await client.begin('anton');
      await client.ask(`${content}\r\n.`);
      await client.ask('NOOP');
      const line = linesOf('message refused').at(-1) ?? assert.fail('no line');
      assert.deepEqual(told(line), {
        client: '127.0.0.1',
        helo: 'client.example.net',
        from: 'me@example.net',
        to: ['anton@example.com'],
        reply,
      });
    }
  });

  it('of a sender that the login may not use, and of a login: its name, cut, and never its password', async () => {
    const name = `${'n'.repeat(64)}`;
    const authenticator: Authenticator = {
      mechanisms: ['PLAIN'],
      begin: () => {
        const exchange = {
          login: undefined as { name: string; address: never } | undefined,
          name,
          step: async (response: Buffer | undefined) => {
            if (!response?.toString().endsWith('right')) return replies.loginFailed;
            exchange.login = { name: 'anton', address: { local: 'anton', domain: 'example.com' } as never };
            return replies.loggedIn;
          },
        };
        return exchange;
      },
    };
    server = await startServer({ kind: 'submissions', secureContext, authenticator, resolve: hosted });
    const client = await Client.toTls(server);
    await client.ask('EHLO laptop');
    const plain = (password: string): string => Buffer.from(`\0anton\0${password}`).toString('base64');
    await client.ask(`AUTH PLAIN ${plain('hunter2')}`);
    assert.deepEqual(
      linesOf('a login failed').map(line => [line['name'], line['reply']]),
      [[name, '535 5.7.8 Authentication failed']],
    );
    assert.match(await client.ask(`AUTH PLAIN ${plain('right')}`), /^235 /);
    assert.match(await client.ask('MAIL FROM:<berta@example.com>'), /^553 /);
    const [line = assert.fail('no line')] = linesOf('sender refused');
    assert.deepEqual(
      [line['from'], line['reply']],
      ['berta@example.com', '553 5.7.1 This login may not send from that address'],
    );
    assert.doesNotMatch(JSON.stringify(server.lines), /hunter2/);
  });
});

describe('a client cannot fill the log', () => {
  const cycle = 'MAIL FROM:<>\r\nRCPT TO:<anton@example.com>\r\nBDAT 0\r\nRSET\r\n';
  const end = (): Promise<void> => until(() => server.listeners.sessions === 0, 'the end of the session');

  it('with messages that begin and do not come: the session ends, and further sessions are only counted', async () => {
    const client = await start();
    client.say(`EHLO x\r\n${cycle.repeat(30)}`);
    assert.match(await client.rest(), /\r\n421 4\.7\.0 Too many discarded messages\r\n$/);
    for (let sessions = 0; sessions < 9; sessions += 1) {
      const next = await Client.to(server);
      next.say(`EHLO x\r\n${cycle.repeat(30)}`);
      await next.rest();
    }
    await end();
    server.gatherer.flush();
    const lines = linesOf('message not taken');
    assert.equal(lines.length, 61);
    assert.deepEqual([lines.at(-1)?.['who'], lines.at(-1)?.['more']], ['127.0.0.1', 10 * 21 - 60]);
  });

  it('with logins while it is shut out: three end the session', async () => {
    const authenticator: Authenticator = {
      mechanisms: ['PLAIN'],
      begin: () => ({ step: async () => replies.tooManyLogins, login: undefined }),
    };
    server = await startServer({ kind: 'submissions', secureContext, authenticator });
    const client = await Client.toTls(server);
    client.say(`EHLO x\r\n${'AUTH PLAIN AGEAYg==\r\n'.repeat(100)}`);
    assert.match(await client.rest(), /(?:454 .*\r\n){3}421 4\.7\.0 Too many failed logins\r\n$/);
    assert.equal(linesOf('a login failed').length, 3);
  });

  it('with recipients that cannot be looked up', async () => {
    const client = await start({ resolve: () => Promise.reject(new CannotTell('database down')) });
    client.say(`EHLO x\r\nMAIL FROM:<>\r\n${'RCPT TO:<anton@example.com>\r\n'.repeat(5000)}QUIT\r\n`);
    await client.rest();
    server.gatherer.flush();
    for (const text of ['an address could not be looked up; 4xx', 'recipient refused']) {
      const lines = linesOf(text);
      assert.deepEqual([lines.length, lines.at(-1)?.['more']], [61, 4940]);
    }
  });
});

describe('a probe', () => {
  for (const [what, said] of [
    ['says nothing', ''],
    ['says QUIT', 'quit\r\n'],
  ] as const)
    it(`that connects and ${what} is a line at debug`, async () => {
      server = await startServer();
      const client = new Client(connect(server.port, '127.0.0.1'));
      await client.hear(/^220 .*\r\n/);
      client.say(said);
      client.socket.end();
      await client.rest();
      await until(() => server.listeners.sessions === 0, 'the end of the session');
      assert.equal(linesOf('session ended')[0]?.level, 'debug');
    });

  it('of a TLS socket too; octets that are no TLS are no probe, nor is a command', async () => {
    server = await startServer({ kind: 'submissions', secureContext });
    connect(server.port, '127.0.0.1').end();
    await until(() => linesOf('session ended').length === 1, 'a session');
    connect(server.port, '127.0.0.1')
      .on('error', () => undefined)
      .end('GET / HTTP/1.1\r\n\r\n');
    await until(() => linesOf('session ended').length === 2, 'two sessions');
    await server.stop();
    const levels = linesOf('session ended').map(({ level }) => level);
    const client = await start();
    await client.ask('EHLO x');
    await client.ask('QUIT');
    await until(() => server.listeners.sessions === 0, 'the end of the session');
    assert.deepEqual([...levels, linesOf('session ended')[0]?.level], ['debug', 'info', 'info']);
  });
});

describe('the envelopes of all sessions', () => {
  it('cost what they say, every wish of MAIL and RCPT included', () => {
    const [mail, rcpt] = ['FROM:<a@b>', 'TO:<a@b>'];
    const wishes = {
      mail: ` RET=HDRS ENVID=${'x'.repeat(100)}`,
      rcpt: ` NOTIFY=DELAY ORCPT=rfc822;${'x'.repeat(400)}`,
    };
    const sender = (text: string) => parseSender(text, () => true) as Sender;
    const recipient = (text: string) => parseRecipient(text, () => true, false) as Recipient;
    assert.ok(senderBytes(sender(mail + wishes.mail)) - senderBytes(sender(mail)) >= 2 * 104);
    assert.ok(recipientBytes(recipient(rcpt + wishes.rcpt)) - recipientBytes(recipient(rcpt)) >= 2 * 412);
  });

  const long = (n: number): string =>
    `RCPT TO:<${String(n).padStart(64, 'a')}@${`${'b'.repeat(60)}.`.repeat(3)}com>\r\n`;

  it('have one budget: beyond it recipients hear 452, and a client that wants little is served', async () => {
    const envelopes = new EnvelopeBudget(1024 * 1024);
    const greedy = await start({ envelopes });
    const others = await Promise.all(Array.from({ length: 19 }, () => Client.to(server)));
    let accepted = 0;
    for (const each of [greedy, ...others]) {
      each.say(`EHLO x\r\nMAIL FROM:<>\r\n${Array.from({ length: 500 }, (_, n) => long(n)).join('')}NOOP\r\n`);
      const said = await each.hear(/\r\n250 2\.0\.0 OK\r\n/);
      accepted += said.match(/^250 2\.1\.5 /gm)?.length ?? 0;
      assert.match(said, /^452 4\.3\.1 /m);
    }
    assert.ok(accepted > 300, `${accepted} recipients accepted`);
    assert.ok(envelopes.usedBytes < 1024 * 1024, `${envelopes.usedBytes} octets`);
    const modest = await Client.to(server);
    await modest.begin('anton');
    assert.match(await modest.ask('hello\r\n.'), /^250 /);
    for (const each of [greedy, ...others]) await each.ask('RSET');
    await modest.ask('RSET');
    assert.equal(envelopes.usedBytes, 0, 'whatever was taken is given back');
  });
});
