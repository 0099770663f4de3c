// Golden dialogues of the client's side: every file of test/dialogues-client runs whole, octet by octet, and split in
// two at every index of each thing the server says, with the same outcome. The order of the lines is the order of
// events. C, S, `S>` and {x*9} as in CONTRIBUTING.md. TLS, CONTENT: it worked; `… failed`, `… lost`: it did not.
// MESSAGE: the next one, as JSON over a small default. R: how opening went, then a line for each recipient and what the
// session is good for. `(busy)`, `(untried)`, `(DSN)` are marks of a delivery. OPTION maxRecipients: of a transaction,
// for ours; isLmtp: the other server speaks LMTP.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { QueueRecipient } from '../../src/mail/message.ts';
import { type Terms, type Want, open } from '../../src/outbound/dialogue.ts';
import { type Offers, ReplyReader, type ServerReply } from '../../src/outbound/replies.ts';
import { type Mail, type Sent, limitOf, transact } from '../../src/outbound/transaction.ts';

const folder = join(import.meta.dirname, '..', 'dialogues-client');
type Line = { readonly mark: string; readonly text: string };
type Split = (octets: Buffer) => readonly Buffer[];

function unescape(text: string): Buffer {
  const parts = text.split(/(\\(?:r|n|0|x[0-9a-f]{2})|\{[^{}]\*\d+\})/);
  return Buffer.concat(
    parts.map(part => {
      const [, octet = '', times] = /^\{(.)\*(\d+)\}$/.exec(part) ?? [];
      if (times) return Buffer.from(octet.repeat(Number(times)));
      if (part.startsWith('\\x')) return Buffer.from(part.slice(2), 'hex');
      return Buffer.from({ '\\r': '\r', '\\n': '\n', '\\0': '\0' }[part] ?? part);
    }),
  );
}

function read(file: string): Line[] {
  const lines = readFileSync(join(folder, file), 'utf8').split('\n');
  return lines
    .filter(line => line !== '' && !line.startsWith('#'))
    .flatMap(line => {
      const [, mark = '', times = '1', text = ''] = /^(S>|\w+)(?:\*(\d+))?:? ?(.*)$/.exec(line) ?? [];
      return Array.from({ length: Number(times) }, () => ({ mark, text }));
    });
}

function run(script: readonly Line[], split: Split): string {
  const happened: string[] = [];
  const reader = new ReplyReader();
  let [at, output] = [0, ''];
  let pieces: Buffer[] = [];
  const options = new Map(
    script.filter(({ mark }) => mark === 'OPTION').map(({ text }) => text.split('=') as [string, string]),
  );
  const steps = script.filter(({ mark }) => mark !== 'OPTION');
  const next = (): Line => steps[at] ?? { mark: 'end', text: '' };
  const flush = (): void => {
    for (const line of output.split('\r\n').slice(0, -1)) {
      happened.push(`C: ${line}`);
      if (next().mark === 'C') at += 1;
    }
    output = '';
  };
  /** The next octets of the server, if it is its turn. */
  const hear = (): boolean => {
    if (pieces.length === 0) {
      const said: Buffer[] = [];
      for (; next().mark.startsWith('S'); at += 1) {
        happened.push(`${next().mark}: ${next().text}`);
        said.push(unescape(next().text + (next().mark === 'S' ? '\\r\\n' : '')));
      }
      pieces = split(Buffer.concat(said)).filter(piece => piece.length > 0);
    }
    const piece = pieces.shift();
    if (piece) reader.receive(piece);
    return piece !== undefined;
  };
  const happen = (mark: string): boolean => {
    happened.push(next().mark === mark ? `${mark}: ${next().text}` : mark);
    const isGood = next().mark === mark && next().text === '';
    if (next().mark === mark) at += 1;
    return isGood;
  };
  const carryOut = (want: Want): ServerReply => {
    if (want.kind === 'send') {
      output += want.text;
      return { code: 1, lines: [] };
    }
    if (want.kind === 'prove') return { code: 1, lines: ['PROOF', 'v=EXPECTED'] };
    flush();
    const isQuiet = reader.isEmpty && pieces.length === 0;
    if (want.kind === 'secure') {
      if (!isQuiet) return { code: 0, status: '4.7.0', lines: ['octets in clear came behind STARTTLS: an injection'] };
      return happen('TLS') ? { code: 1, lines: [] } : { code: 0, lines: ['handshake failed'] };
    }
    if (want.kind === 'content') {
      if (!isQuiet) return { code: 0, status: '4.5.0', lines: ['a reply came to what was not sent yet'] };
      return happen('CONTENT') ? { code: 1, lines: [] } : { code: 0, lines: ['closed'] };
    }
    let reply = reader.next();
    while (reply === undefined && hear()) reply = reader.next();
    return reply ?? { code: 0, lines: ['closed'] };
  };
  const drive = <T>(dialogue: Generator<Want, T, ServerReply>): T => {
    let step = dialogue.next();
    while (!step.done) step = dialogue.next(carryOut(step.value));
    flush();
    return step.value;
  };
  const say = (result: string): void => {
    happened.push(`R: ${result}`);
    if (next().mark === 'R') at += 1;
  };

  const [user, password = ''] = [options.get('user'), options.get('password')];
  const offers = drive(
    open({
      hostname: 'mail.example.com',
      isLmtp: options.has('isLmtp'),
      isSecure: options.has('isSecure'),
      startTls: (options.get('startTls') ?? 'offered') as Terms['startTls'],
      ...(user && { credentials: { user, password, nonce: 'nonce' } }),
    }),
  );
  if (!(offers instanceof Map)) {
    const { because, delivery } = offers as Exclude<typeof offers, Offers>;
    say(`refused ${because} ${delivery.kind} ${delivery.status} ${delivery.text}${delivery.isBusy ? ' (busy)' : ''}`);
    return happened.join('\n');
  }
  say(['open', ...Array.from(offers, ([name, value]) => (value ? `${name}=${value}` : name))].join(' '));
  let transactions = 0;
  while (next().mark === 'MESSAGE') {
    happened.push(`MESSAGE: ${next().text}`);
    const { to = ['b@example.net'], ...more } = JSON.parse(next().text) as Partial<Mail> & { to?: string[] };
    at += 1;
    const recipients = to.map((address): QueueRecipient => ({ address, domain: 'x.example' }));
    const mail = { from: 'anton@example.com', isUtf8: false, is8Bit: false, sizeBytes: 100, recipients, ...more };
    const limits = {
      recipients: Number(options.get('maxRecipients') ?? 100),
      transactions: limitOf(offers, 'MAILMAX'),
      isLmtp: options.has('isLmtp'),
    };
    const sent: Sent = drive(transact(offers, mail, { ...limits, transactions: limits.transactions - transactions }));
    transactions += sent.transactions;
    assert.equal(sent.deliveries.length, mail.recipients.length);
    for (const [index, { kind, status, text, isDsnPassedOn, isBusy }] of sent.deliveries.entries())
      say(
        [kind, status, text, isDsnPassedOn && '(DSN)', isBusy && '(busy)', sent.untried.includes(index) && '(untried)']
          .filter(Boolean)
          .join(' '),
      );
    say(sent.isReusable ? 'reusable' : 'over');
  }
  return happened.join('\n');
}

const whole: Split = octets => [octets];
/** Octet by octet; tens of thousands of them in pieces of 61. */
const single: Split = octets => {
  const size = octets.length > 20_000 ? 61 : 1;
  return Array.from({ length: Math.ceil(octets.length / size) }, (_, at) =>
    octets.subarray(at * size, (at + 1) * size),
  );
};

for (const file of readdirSync(folder)) {
  describe(`client dialogue ${file}`, () => {
    const script = read(file);
    const shown = script.filter(({ mark }) => mark !== 'OPTION');
    const expected = shown
      .map(({ mark, text }) => (text === '' && /^(?:TLS|CONTENT)$/.test(mark) ? `${mark}: ` : `${mark}: ${text}`))
      .join('\n');
    it('has the written outcome', () => assert.equal(run(script, whole), expected));
    it('has the same outcome octet by octet', () => assert.equal(run(script, single), expected));
    it('has the same outcome when split anywhere', () => {
      const length = Math.max(...script.map(({ text }) => unescape(text).length)) * 2 + 300;
      for (let at = 1; at < Math.min(length, 600); at += length > 5000 ? 97 : 1)
        assert.equal(
          run(script, octets => [octets.subarray(0, at), octets.subarray(at)]),
          expected,
          `split at ${at}`,
        );
    });
  });
}
