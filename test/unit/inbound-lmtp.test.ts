// Mail for a mailbox at an LMTP server, from RCPT to the queue, with the real server: what is refused at RCPT, what is
// queued, and how such a server is told what is junk. What becomes of it then: lmtp.test.ts.
import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import type { Check } from '../../src/inbound/checks.ts';
import { type Message, type QueueEntry, readMessage } from '../../src/mail/message.ts';
import { CannotTell, type Found, type Queue } from '../../src/mail/ports.ts';
import { replies } from '../../src/smtp/reply.ts';
import { Client, type Running, startServer } from './inbound.harness.ts';

const server = 'lmtp://dovecot:24';
let running: Running;
afterEach(() => running.stop());

async function start(checks: readonly Check[] = []) {
  const kept: { entry: QueueEntry; text: string }[] = [];
  const text = (message: Message): string => readMessage(message, 0, message.sizeBytes).toString('latin1');
  const queue: Queue = {
    prepare: async (entry, message) => {
      const whole = text(message);
      return { commit: async () => void kept.push({ entry, text: whole }), abort: async () => {} };
    },
  };
  const resolve = async ({ local }: { local: string }) => {
    if (local === 'later') throw new CannotTell('it is down');
    const lmtp = [{ server, address: `${local}@example.com` }];
    const found: Record<string, Found> = {
      full: { routes: [], refusal: '5.2.2' },
      both: { routes: [running.route('both')], lmtp },
      here: { routes: [running.route('here')] },
    };
    return { kind: 'local' as const, ...(found[local] ?? { routes: [], lmtp }) };
  };
  running = await startServer({ queue, resolve, checks });
  return { kept, client: await Client.to(running) };
}
const send = async (client: Client, ...to: string[]): Promise<string> => {
  await client.begin(...to);
  return client.ask('Subject: x\r\n\r\nhello\r\n.');
};

describe('at RCPT', () => {
  it('a lasting refusal is said at once, and what cannot be told is for later', async () => {
    const { client } = await start();
    await client.ask('EHLO client.example.net');
    await client.ask('MAIL FROM:<a@example.net>');
    assert.equal(await client.ask('RCPT TO:<full@example.com>'), '550 5.2.2 The mailbox does not take this message');
    assert.match(await client.ask('RCPT TO:<later@example.com>'), /^451 4\.3\.0 /);
    assert.match(await client.ask('RCPT TO:<anton@example.com>'), /^250 /);
  });
});

describe('after the final dot', () => {
  it('it is queued, each recipient with its mailbox, beside copies that are made here', async () => {
    const { client, kept } = await start();
    assert.match(await send(client, 'anton', 'both'), /^250 2\.0\.0 Queued/);
    assert.deepEqual(
      kept.map(({ entry }) => entry.recipients.map(({ address, lmtp, routes }) => [address, lmtp?.address, routes])),
      [
        [
          ['anton@example.com', 'anton@example.com', undefined],
          ['both@example.com', 'both@example.com', undefined],
        ],
      ],
    );
    assert.equal(running.mail('both').length, 1);
  });

  const junk = (lines: string): Check => ({
    name: 'junk',
    deadlineMs: 0,
    linesBytes: () => 0,
    judge: () => ({ lines, junk: replies.spam }),
  });
  const marks = (text: string): number => text.split('\n').filter(line => line === 'X-Spam: Yes').length;

  it('what would go to .Junk has X-Spam: Yes, once', async () => {
    for (const lines of ['', 'X-Spam: Yes\n']) {
      const { client, kept } = await start([junk(lines)]);
      assert.match(await send(client, 'anton'), /^250 /);
      const [{ entry, text } = assert.fail()] = kept;
      assert.equal(marks(text), 1);
      assert.ok(text.slice(entry.returnPathBytes).startsWith('X-Spam: Yes\nReceived: '), 'it goes along');
      await send(client, 'here');
      const [file = ''] = running.files('here/.Junk');
      assert.equal(marks(file), lines === '' ? 0 : 1, 'a mailbox here has the folder, and the line only of a check');
      await running.stop();
    }
    await start();
  });
});
