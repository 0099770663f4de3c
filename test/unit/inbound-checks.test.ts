// The checks between the end of a message and its copies: refusals, lines, deadlines; and how Received lines are
// counted.
import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import { type Arrived, type Check, loopCheck, runChecks } from '../../src/inbound/checks.ts';
import { stranger } from '../../src/inbound/peer.ts';
import { replies } from '../../src/smtp/reply.ts';
import { Client, type Running, startServer } from './inbound.harness.ts';

const check = (judge: Check['judge'], linesBytes = 0, deadlineMs = 5000): Check => ({
  name: 'test',
  deadlineMs,
  linesBytes: () => linesBytes,
  judge,
});
const arrived: Arrived = {
  id: 'x',
  envelope: {} as never,
  peer: stranger,
  receivedAt: 0,
  receivedLines: 0,
  header: async () => '',
  fields: async () => ({ fields: [], headerOctets: 0 }),
  content: () => assert.fail('nobody asks for it'),
  overwrite: () => assert.fail('nobody asks for it'),
};

describe('checks', () => {
  it('give their lines together, in their order', async () => {
    const checks = [
      check(() => ({ lines: 'A: 1\n' })),
      check(() => undefined),
      check(async () => ({ lines: 'B: 2\n' })),
    ];
    assert.deepEqual(await runChecks(checks, arrived), { lines: 'A: 1\nB: 2\n' });
  });

  it('end with the first refusal', async () => {
    const never = check(() => assert.fail('it was asked'));
    assert.equal(await runChecks([check(() => replies.noValidRecipients), never], arrived), replies.noValidRecipients);
  });

  it('that are late are no answer', async () => {
    const late = check(() => new Promise(() => {}), 0, 50);
    await assert.rejects(runChecks([late], arrived), /the check 'test' did not answer in time/);
  });
});

describe('a message', () => {
  let server: Running;
  afterEach(() => server.stop());

  for (const size of [10, 400_000])
    it(`of ${size} octets has the lines of its checks behind Return-Path; a check sees its header`, async () => {
      const seen: string[] = [];
      const checks = [
        loopCheck,
        check(async ({ header }) => {
          seen.push(await header());
          return { lines: 'X-Checked: yes\n' };
        }, 100),
      ];
      server = await startServer({ checks });
      const client = await Client.to(server);
      await client.begin('anton');
      assert.match(await client.ask(`Subject: x\r\n\r\n${'y'.repeat(size)}\r\n.`), /^250 /);
      assert.deepEqual(seen, ['Subject: x']);
      const [file = ''] = server.files('anton');
      assert.match(file, /^Return-Path: <me@example\.net>\nX-Checked: yes *\nReceived: /);
      assert.ok(file.endsWith(`\nSubject: x\n\n${'y'.repeat(size)}\n`));
    });

  it('is 451 when a check fails, and nothing of it is left', async () => {
    server = await startServer({ checks: [check(() => Promise.reject(new Error('broken')))] });
    const client = await Client.to(server);
    await client.begin('anton');
    assert.match(await client.ask('hello\r\n.'), /^451 4\.3\.0 /);
    assert.deepEqual(server.in('anton', 'new'), []);
  });
});
