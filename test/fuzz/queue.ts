// The queue's folder: an envelope that cannot be read is left alone and logged, and the mail beside it goes out all the
// same. Whatever stands in the file, the server starts, answers questions about its queue, and nothing is delivered to
// whom it does not name. An input: a <id>.json. Files of a real folder; transports and clock are doubles.
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import type { QueueRecipient } from '../../src/mail/message.ts';
import type { Transport } from '../../src/mail/ports.ts';
import { queueInFolder } from '../contract/queue.ts';
import { kept } from './corpus.ts';
import type { Target } from './fuzzer.ts';

const base = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'queue-'));
process.on('exit', () => rmSync(base, { recursive: true, force: true }));
const now = 1_800_000_000_000;
const entry = {
  id: 'odd',
  from: 'a@example.com',
  isUtf8: false,
  is8Bit: false,
  receivedAt: now,
  skipBytes: 0,
  sizeBytes: 3,
};
const recipient = { address: 'b@example.net', domain: 'example.net', attempts: 0, nextAt: now };
const good = JSON.stringify({
  ...entry,
  id: 'good',
  recipients: [{ ...recipient, address: 'good@example.org', domain: 'example.org' }],
});
const last = { kind: 'deferred', status: '4.4.1', text: 'refused' };
const log = { debug() {}, info() {}, warn() {}, error() {} };

export const queue: Target = {
  name: 'queue',
  maxOctets: 500,
  isSlow: true,
  seeds: [
    ...kept('queue'),
    ...[
      { ...entry, recipients: [recipient] },
      {
        ...entry,
        recipients: [
          { ...recipient, attempts: 3, nextAt: now + 60_000, last, isHeld: true },
          { ...recipient, isDone: true },
        ],
      },
      {
        ...entry,
        ret: 'FULL',
        envelopeId: 'x',
        recipients: [{ ...recipient, notify: ['NEVER'], routes: [{ kind: 'maildir', path: '/x', root: '/x' }] }],
      },
    ].map(each => Buffer.from(JSON.stringify(each))),
  ],
  words: [
    '"',
    ':',
    ',',
    '{',
    '}',
    '[',
    ']',
    'null',
    'true',
    '[null]',
    '{}',
    '[]',
    '""',
    '1e400',
    '-1',
    '"isDone":true',
    '"routes":[]',
    '"recipients":',
    '"nextAt":',
    '"attempts":"',
    '"domain":1',
    '"last":null',
    '"receivedAt":""',
    '"id":"odd"',
  ],
  async run(input, _cuts, note) {
    rmSync(base, { recursive: true, force: true });
    mkdirSync(base);
    for (const id of ['odd', 'good']) writeFileSync(join(base, id), 'abc');
    writeFileSync(join(base, 'odd.json'), input);
    writeFileSync(join(base, 'good.json'), good);
    const delivered: string[] = [];
    const transport: Transport = {
      async deliver(_destination, _entry, _message, recipients: readonly QueueRecipient[]) {
        delivered.push(...recipients.flatMap(({ address }) => (typeof address === 'string' ? [address] : [])));
        return recipients.map(() => ({ kind: 'delivered', status: '2.0.0', text: 'ok' }));
      },
    };
    const times = { lifetimeMs: 86_400_000, retryMs: [60_000], delayNoticeMs: 3_600_000 };
    const random = { hex: () => 'ab', below: () => 0 };
    const system = { clock: { now: () => now }, random, log };
    const own = queueInFolder(base, {
      isRelayed: false,
      transports: { here: transport, lmtp: transport, relay: transport, domain: transport },
      report: async () => {},
      ...times,
      ...system,
    });
    await own.start();
    const patience = performance.now() + 5000; // the machine may be busy
    while (!delivered.includes('good@example.org') && performance.now() < patience) await setImmediate();
    const items: object[] = [];
    for await (const item of own.list({})) items.push(item);
    for await (const item of own.list({ id: 'odd' })) items.push(item);
    await own.stop(100);
    assert.ok(delivered.includes('good@example.org'), 'good mail waits');
    const text = input.toString();
    for (const address of delivered)
      assert.ok(
        address === 'good@example.org' || text.includes(JSON.stringify(address).slice(1, -1)) || text.includes('\\'),
        address,
      );
    note(`${delivered.length} ${items.length}`);
  },
};
