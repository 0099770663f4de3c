// LMTP servers that keep mailboxes of ours, over real sockets: what each recipient is told, what becomes of
// postmaster's mail, and the question at RCPT: asked once a minute, answered within ten seconds, 'cannot tell' where it
// cannot be told.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, describe, it } from 'node:test';
import { LmtpServers } from '../../src/outbound/lmtp.ts';
import { freePlace } from '../../src/queue/places.ts';
import { CannotTell } from '../../src/mail/ports.ts';
import type { Message, QueueRecipient } from '../../src/mail/message.ts';
import { type Clock, systemRandom } from '../../src/system/world.ts';
import { nullDns } from '../contract/null-dns.ts';
import { queueEntry } from '../contract/queue.ts';
import { memory } from '../contract/storage.ts';
import { until } from './inbound.harness.ts';
import { type Server, type ServerOptions, serve, words } from './outbound.harness.ts';

/** What its lines were, and an LMTP client for it. */
async function start(t: TestContext, options: ServerOptions = {}) {
  const server = await serve(t, options);
  return { server, ...open(t, `lmtp://dovecot:${server.port}`) };
}

function open(t: TestContext, name: string) {
  const time = { now: 1_700_000_000_000 };
  const clock: Clock = { now: () => time.now };
  const lines: string[] = [];
  const note = (fields: Record<string, unknown>, text: string) => void lines.push(`${text} ${JSON.stringify(fields)}`);
  const servers = new LmtpServers({
    hostname: 'mail.example.com',
    externalTls: 'required',
    port: 25,
    isSelf: () => true,
    maxRecipients: 100,
    dns: nullDns({ systemAddresses: async () => ['127.0.0.1'] }),
    clock,
    random: systemRandom,
    log: { debug: note, info: note, warn: note, error: note },
  });
  t.after(() => servers.close());
  const ask = (address: string) => servers.ask({ server: name, address });
  const kept: Message[] = [];
  const send = (...addresses: string[]) => {
    const to = addresses.map((address): QueueRecipient => ({
      address: `written+${address}`,
      domain: 'example.com',
      lmtp: { server: name, address },
    }));
    const keep = async (message: Message): Promise<void> => void kept.push(message);
    const entry = queueEntry('m', { recipients: to });
    return servers.deliver(keep, { kind: 'lmtp', server: name }, entry, memory('Subject: x\n\nx\n'), to, freePlace());
  };
  return { servers, ask, send, kept, time, lines };
}
const rcpts = (server: Server): string[] =>
  server.visits.flatMap(({ lines }) => lines.filter(line => line.startsWith('RCPT')));

/** An LMTP server of the harness: `answers` says what it says of a recipient, at RCPT and after the dot. */
const lmtp = (atRcpt: Record<string, string> = {}, atEnd: Record<string, string> = {}): ServerOptions => {
  const taken: string[] = [];
  return {
    answer: line => {
      const [, name = ''] = /^RCPT TO:<([^@]*)@/.exec(line) ?? [];
      if (line.startsWith('LHLO')) return '250-lmtp\r\n250-DSN\r\n250 PIPELINING';
      if (line.startsWith('MAIL')) taken.length = 0;
      if (line.startsWith('RCPT') && atRcpt[name] === undefined) taken.push(name);
      if (line.startsWith('RCPT')) return atRcpt[name];
      if (line !== 'CONTENT') return undefined;
      return taken.map(each => atEnd[each] ?? `250 2.0.0 <${each}> saved`).join('\r\n');
    },
  };
};

describe('mail', () => {
  it("has a result for each recipient, by the address that the server knows, in nobody else's name", async t => {
    const { send, server } = await start(t, lmtp({ gone: '550 5.1.1 no such user' }, { full: '452 4.2.2 over quota' }));
    assert.equal(
      words(await send('anton@example.com', 'full@example.com', 'gone@example.com')),
      'delivered 2.0.0 - 250 2.0.0 <anton> saved\ndeferred 4.2.2 - 452 4.2.2 over quota\nfailed 5.1.1 - 550 5.1.1 no such user',
    );
    assert.deepEqual(
      rcpts(server),
      ['anton', 'full', 'gone'].map(name => `RCPT TO:<${name}@example.com>`),
    );
    assert.equal(server.visits[0]?.messages.length, 1);
  });

  it('for the postmaster that is refused for good is kept here; what is refused for now waits', async t => {
    const { send, kept } = await start(t, lmtp({ postmaster: '550 5.1.1 no such user' }));
    assert.equal(words(await send('postmaster@example.com')), 'delivered 2.0.0 - delivered to its mailbox');
    assert.equal(kept.length, 1);
    const later = await start(t, lmtp({ postmaster: '451 4.3.0 later' }));
    assert.match(words(await later.send('postmaster@example.com')), /^deferred 4\.3\.0/);
    assert.equal(later.kept.length, 0);
  });

  it('waits, and is told to the operator, where the server is an SMTP server or is gone', async t => {
    const { send, lines } = await start(t);
    assert.match(
      words(await send('anton@example.com')),
      /^deferred 4\.5?\S* - unreachable|^deferred \S+ - unreachable 500 what/,
    );
    assert.match(lines.join('\n'), /an LMTP server cannot be used: see SLIM_STORAGES/);
    const gone = open(t, 'lmtp://127.0.0.1:1');
    assert.match(words(await gone.send('anton@example.com')), /^deferred 4\.4\.1 - unreachable/);
  });

  it('goes by a Unix socket', async t => {
    const { port } = await serve(t, lmtp());
    const folder = mkdtempSync(join(tmpdir(), 'lmtp-'));
    const path = join(folder, 'socket');
    const proxy = createServer(from => {
      const to = connect(port, '127.0.0.1').on('error', () => {});
      from
        .on('error', () => {})
        .pipe(to)
        .pipe(from);
    }).listen(path);
    t.after(() => {
      proxy.close();
      rmSync(folder, { recursive: true });
    });
    assert.equal(
      words(await open(t, `lmtp://${path}`).send('anton@example.com')),
      'delivered 2.0.0 - 250 2.0.0 <anton> saved',
    );
  });
});

describe('the question at RCPT', () => {
  it('is answered by what the server says to RCPT, and nothing is sent', async t => {
    const said = {
      anton: '250 ok',
      nobody: '550 5.1.1 no such user',
      bare: '550 what?',
      full: '552 5.2.2 full for good',
      old: '552 full',
      closed: '550 5.2.1 closed',
    };
    const { ask, server } = await start(t, lmtp(said));
    const answers = [];
    for (const name of Object.keys(said)) answers.push(await ask(`${name}@example.com`));
    assert.deepEqual(answers, [
      'taken',
      'unknown',
      'unknown',
      { refusal: '5.2.2' },
      { refusal: '5.0.0' },
      { refusal: '5.2.1' },
    ]);
    assert.equal(server.visits.length, 1, 'the session is used again');
    assert.ok(server.visits[0]?.lines.every(line => !line.startsWith('DATA')));
  });

  it('is good for a minute, for whoever asks the same', async t => {
    const { ask, server, time } = await start(t, lmtp());
    await Promise.all([ask('anton@example.com'), ask('anton@example.com')]);
    await ask('anton@example.com');
    assert.equal(rcpts(server).length, 1);
    time.now += 61_000;
    await ask('anton@example.com');
    assert.equal(rcpts(server).length, 2);
  });

  for (const [what, said] of Object.entries({
    'a temporary refusal': '451 4.3.0 later',
    'a refusal of ourselves': '530 5.7.0 log in first',
    nonsense: 'hello?',
    'a closed connection': 'drop',
  }))
    it(`cannot be told by ${what}, and is asked again`, async t => {
      let isWell = false;
      const { ask } = await start(t, {
        answer: line => {
          if (line.startsWith('LHLO')) return '250 lmtp';
          return line.startsWith('RCPT') && !isWell ? said : undefined;
        },
      });
      await assert.rejects(ask('anton@example.com'), CannotTell);
      isWell = true;
      assert.equal(await ask('anton@example.com'), 'taken');
    });

  it('ends after ten seconds where the server hangs, and holds up nobody else', async t => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const hangs = await start(t, {
      answer: line => (line.startsWith('RCPT') ? 'hang' : line.startsWith('LHLO') ? '250 lmtp' : undefined),
    });
    const asked = Array.from({ length: 20 }, (_, at) =>
      hangs.ask(`u${at}@example.com`).catch((error: unknown) => error),
    );
    await until(() => rcpts(hangs.server).length === 8, '8 of them are with it');
    const good = await start(t, lmtp());
    assert.equal(await good.ask('anton@example.com'), 'taken');
    t.mock.timers.tick(10_000);
    for (const each of asked) assert.ok((await each) instanceof CannotTell);
    assert.equal(rcpts(hangs.server).length, 8, 'who waited does not ask when it is late');
  });
});
