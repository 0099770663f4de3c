// The client's dialogue with a server that says anything at all: no throw, an outcome for each recipient, 'delivered'
// only on a 2xx to content that went out whole, commands that are well-formed and in order, no password in clear, one
// outcome however it is cut. An input: two octets that choose the terms and the mail, then what the server says; 0x1e
// ends what comes in one turn.
// RFC 5321 §4, RFC 2920, RFC 3207, RFC 4954.
import assert from 'node:assert/strict';
import type { Delivery, QueueRecipient } from '../../src/mail/message.ts';
import { type Terms, type Want, open } from '../../src/outbound/dialogue.ts';
import { ReplyReader, type ServerReply } from '../../src/outbound/replies.ts';
import { type Mail, type Sent, transact } from '../../src/outbound/transaction.ts';
import { dialogues, kept, octetsOf } from './corpus.ts';
import { type Random, type Target, cut } from './fuzzer.ts';

const turn = 0x1e;
const password = 'Geheimnis';
const credentials = { user: 'anton', password, nonce: 'nonce' };
const to = (...addresses: readonly string[]): QueueRecipient[] =>
  addresses.map(address => ({ address, domain: 'x.example' }));
const plain: Mail = {
  from: 'a@example.com',
  isUtf8: false,
  is8Bit: false,
  sizeBytes: 100,
  recipients: to('b@example.net'),
};
const mails: readonly Mail[] = [
  plain,
  { ...plain, from: '', recipients: to('b@example.net', 'c@example.net', 'd@example.net') },
  { ...plain, isUtf8: true, is8Bit: true, recipients: to('ä@example.net', 'b@exämple.net', 'c@example.net') },
  {
    ...plain,
    ret: 'HDRS',
    envelopeId: 'x+2B',
    recipients: [{ ...to('b+c=d@example.net')[0], notify: ['SUCCESS', 'DELAY'] } as QueueRecipient],
  },
  { ...plain, recipients: to(...Array.from({ length: 120 }, (_, at) => `b${at}@example.net`)) },
];
const startTls = ['offered', 'never', 'required'] as const;

/** Carries out what the dialogue wants, as the connection does, and judges it. */
class Peer {
  readonly said: string[] = []; // by us, and what became of it
  readonly #reader = new ReplyReader();
  readonly #turns: Buffer[][];
  readonly #fails: number;
  #now: Buffer[] = [];
  #output = '';
  isSecure: boolean;
  isPipelining = false;
  /** Whether content went out whole; and what was said to content that did, where that is taken. */
  isSent = false;
  readonly taken = new Set<string>();

  constructor(turns: Buffer[][], isSecure: boolean, fails: number) {
    this.#turns = turns;
    this.isSecure = isSecure;
    this.#fails = fails;
  }

  drive<T>(dialogue: Generator<Want, T, ServerReply>): T {
    let step = dialogue.next();
    for (let steps = 0; !step.done; steps += 1) {
      assert.ok(steps < 1000, 'no end');
      step = dialogue.next(this.#carryOut(step.value));
    }
    this.#flush();
    return step.value;
  }

  #flush(): void {
    const lines = this.#output.split('\r\n');
    assert.equal(lines.pop(), '', 'half a command');
    assert.ok(lines.length <= (this.isPipelining ? 100 : 1), `${lines.length} commands at once`);
    for (const line of lines) {
      assert.ok(!/\p{Cc}/u.test(line) && Buffer.byteLength(line) < 2000, `a malformed command: ${line}`);
      const hasSecret = [password, Buffer.from(password).toString('base64'), 'R2VoZWltbmlz'].some(secret =>
        line.includes(secret),
      );
      assert.ok(this.isSecure || !(hasSecret || line.startsWith('AUTH')), 'a password in clear');
      this.said.push(line);
    }
    this.#output = '';
  }

  /** Takes the next piece of this turn. */
  #hear(): boolean {
    if (this.#now.length === 0) this.#now = this.#turns.shift() ?? [];
    const piece = this.#now.shift();
    if (piece) this.#reader.receive(piece);
    return piece !== undefined;
  }

  #carryOut(want: Want): ServerReply {
    if (want.kind === 'send') {
      this.#output += want.text;
      return { code: 1, lines: [] };
    }
    if (want.kind === 'prove') return { code: want.challenge.length % 2, lines: ['PROOF', 'v=EXPECTED'] };
    this.#flush();
    const isQuiet = this.#reader.isEmpty && this.#now.length === 0;
    if (want.kind === 'secure') {
      assert.ok(!this.isSecure, 'TLS within TLS');
      if (!isQuiet) return { code: 0, status: '4.7.0', lines: ['an injection'] };
      if (this.#fails & 1) return { code: 0, lines: ['handshake failed'] };
      this.isSecure = true;
      this.said.push('TLS');
      return { code: 1, lines: [] };
    }
    if (want.kind === 'content') {
      this.said.push('CONTENT');
      this.isSent = isQuiet && !(this.#fails & 2);
      return this.isSent ? { code: 1, lines: [] } : { code: 0, status: '4.5.0', lines: ['lost'] };
    }
    let reply = this.#reader.next();
    while (reply === undefined && this.#hear()) reply = this.#reader.next();
    reply ??= { code: 0, lines: ['closed'] };
    if (want.wait === 'end' && this.isSent && reply.code >= 200 && reply.code < 300)
      this.taken.add(`${reply.code} ${reply.lines.join(' ').slice(0, 1000)}`.trim());
    return reply;
  }
}

function run(turns: Buffer[][], how: number, which: number): string {
  const isSecure = (how & 1) === 1;
  const terms: Terms = {
    hostname: 'mail.example.com',
    isSecure,
    startTls: startTls[(how >> 1) % 3] ?? 'never',
    ...(how & 8 && { credentials }),
  };
  const peer = new Peer(turns, isSecure, how >> 6);
  const offers = peer.drive(open(terms));
  if (!(offers instanceof Map)) {
    check([offers.delivery], peer);
    return [...peer.said, offers.because, JSON.stringify(offers.delivery)].join('\n');
  }
  assert.ok(peer.isSecure || terms.startTls !== 'required', 'no TLS');
  peer.isPipelining = offers.has('PIPELINING');
  for (let times = 0; times < 2; times += 1) {
    const mail = mails[(which + times) % mails.length] ?? plain;
    const begun = peer.said.length;
    peer.isSent = false;
    peer.taken.clear();
    const sent: Sent = peer.drive(transact(offers, mail, { recipients: 50, transactions: 20 }));
    assert.equal(sent.deliveries.length, mail.recipients.length);
    check(sent.deliveries, peer);
    order(peer.said.slice(begun), offers.has('SMTPUTF8') && mail.isUtf8);
    peer.said.push(JSON.stringify(sent));
    if (!sent.isReusable) break;
  }
  return peer.said.join('\n');
}

function check(deliveries: readonly Delivery[], { taken }: Peer): void {
  for (const { kind, status, text } of deliveries) {
    const digit = { delivered: '2', deferred: '4', failed: '5' }[kind];
    assert.ok(/^[245]\.\d{1,3}\.\d{1,3}$/.test(status) && status[0] === digit, `${kind} ${status}`);
    assert.ok(!/[\p{Cc}\u2028\u2029]/u.test(text) && text.length <= 1100, 'what is said is no line');
    assert.ok(kind !== 'delivered' || taken.has(text), 'delivered?');
  }
}

/** Transactions: MAIL, then RCPT, then DATA, then content or a lone dot; each but RCPT once. Or RSET. */
function order(said: readonly string[], isUtf8: boolean): void {
  const letters = said.map(line =>
    line === 'CONTENT'
      ? 'C'
      : line === '.'
        ? '.'
        : (/^(?:MAIL FROM:<|RCPT TO:<|DATA$|RSET$)/.exec(line)?.[0][0] ?? '?'),
  );
  assert.ok(/^(?:MR*(?:D(?:C|\.)?)?R?)*$/.test(letters.join('')), letters.join(''));
  for (const line of said) assert.ok(isUtf8 || /^[ -~]*$/.test(line), 'a command is not ASCII');
}

const words = [
  ...'220 a.example ESMTP\r\n|250 ok\r\n|250-a\r\n|250 STARTTLS\r\n|250-PIPELINING\r\n|250-SIZE 99\r\n|250-8BITMIME\r\n|250-SMTPUTF8\r\n|250-DSN\r\n'.split(
    '|',
  ),
  ...'250-AUTH PLAIN LOGIN SCRAM-SHA-256\r\n|334 \r\n|334 dj1FWFBFQ1RFRA==\r\n|235 ok\r\n|354 go\r\n|421 bye\r\n|450 4.2.0 later\r\n|550 5.1.1 no\r\n'.split(
    '|',
  ),
  ...'552 5.2.2 full\r\n|552 \r\n|452 4.5.3 too many\r\n|250-LIMITS RCPTMAX=2 MAILMAX=1\r\n|554 \r\n|\x1e|\r\n|\n|-| |5.1.1|4.7.0|2.1.0|999|mail.example.com|\0|\xff'.split(
    '|',
  ),
];

/** The server's part of the golden dialogues; a turn ends where we speak. */
function seeds(): Buffer[] {
  return dialogues('dialogues-client').map(lines => {
    const options = lines.filter(({ mark }) => mark === 'OPTION').map(({ text }) => text);
    const how =
      (options.some(text => text.startsWith('isSecure')) ? 1 : 0) +
      (options.includes('startTls=required') ? 4 : 0) +
      (options.some(text => text.startsWith('user')) ? 8 : 0);
    const octets = lines.map(line =>
      line.mark[0] === 'S' ? octetsOf(line) : Buffer.from(line.mark === 'OPTION' ? [] : [turn]),
    );
    return Buffer.concat([Buffer.from([how, 0]), ...octets]).subarray(0, 6000);
  });
}

export const client: Target = {
  name: 'client',
  maxOctets: 512,
  seeds: [...kept('client'), ...seeds()],
  words,
  run(input, random: Random, note) {
    const [how = 0, which = 0] = input;
    const turns: Buffer[] = [];
    for (let at = 2, end = 0; end < input.length; at = end + 1) {
      end = input.indexOf(turn, at);
      if (end < 0) end = input.length;
      if (end > at) turns.push(input.subarray(at, end));
    }
    const outcome = run(
      turns.map(octets => [octets]),
      how,
      which,
    );
    assert.equal(
      run(
        turns.map(octets => cut(octets, random)),
        how,
        which,
      ),
      outcome,
      'it depends on how it was cut',
    );
    const [last = ''] = outcome.split('\n').slice(-1);
    for (const [status] of last.matchAll(/"(?:kind|status|isReusable|isUntouched)":[^,}]+/g)) note(status);
    note(
      outcome
        .replaceAll(/^(\w{0,4}).*$/gm, '$1')
        .replaceAll('\n', ' ')
        .slice(0, 60),
    );
  },
};
