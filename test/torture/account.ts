// The account of all mail: what was sent and what became of each copy, judged from outside alone: the Maildirs' new/,
// what the next hop took, and what `slimsmtp queue list --json` says. It knows nothing of how the server keeps its
// mail.
// Promises: a message that got 250 and is nowhere is `lost`; a file that is not, octet for octet, what was sent is
// `torn`.
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, readdirSync, utimesSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { text as whole } from 'node:stream/consumers';
import { setTimeout } from 'node:timers/promises';
import { type Client, dial } from '../integration/client.ts';
import type { Sink } from './crash-sink.ts';
import type { Place, Server } from './server.ts';

export type Letter = {
  readonly mark: string;
  readonly from: string;
  readonly to: readonly string[];
  /** Asks for a notice of success. */
  readonly isNotified: boolean;
  /** Lines end in CRLF. */
  readonly text: string;
  /** The lines that the server writes in front of it at that place, where they are not the usual ones. */
  readonly trace?: ((place: string) => RegExp) | undefined;
  /** To the final dot, or the refusal on the way there; unset: the session ended before. */
  reply?: string;
};

/** Maildirs of example.com: `anton` and `berta` have their own. `far` is forwarded; `both` is forwarded and kept. */
const mailboxes = ['anton', 'berta', 'default'] as const;
export const mailSettings = (place: Place): Record<string, string> => ({
  SLIM_STORAGES: [
    ...['anton', 'berta'].map(name => `${name}@example.com=${join(place.folder, 'mail', name)}`),
    'far@example.com=far@peer.example',
    'both@example.com=both@peer.example',
    `both@example.com=${join(place.folder, 'mail', 'default')}`,
    `default=${join(place.folder, 'mail', 'default')}`,
  ].join(' '),
  SLIM_TRUSTED_NETWORKS: '127.0.0.0/8',
  SLIM_RETRY: '1s',
});

/** `trace` as in `Letter`. */
export type Writing = {
  readonly octets?: number;
  readonly isNotified?: boolean;
  readonly sign?: (text: string) => string;
  readonly trace?: Letter['trace'];
};
/** Of mail that is neither judged nor signed, in a mailbox or at the next hop. */
const usualTrace = /^(?:Return-Path: <[^>]*>\n)?(?:Delivered-To: .*\n)*Received: from [^]*\sid \w+[^]*; .* \+0000\n$/;

export type Account = {
  /** Copies that were acknowledged, and are neither delivered nor queued. */
  readonly lost: readonly string[];
  /** Files that are not what was sent, or that nobody sent. */
  readonly torn: readonly string[];
  /** Copies that came more than once. */
  readonly twice: readonly string[];
  /** Messages that wait. */
  readonly queued: number;
  readonly acknowledged: number;
  /** Copies that were found. */
  readonly copies: number;
};

export class Ledger {
  readonly letters: Letter[] = [];
  readonly #place: Place;
  readonly #sink: Sink;
  #found = new Map<string, number>();
  #torn: string[] = [];
  #seen = new Set<string>();
  #taken = 0;

  constructor(place: Place, sink: Sink) {
    this.#place = place;
    this.#sink = sink;
  }

  /** Of `octets` or a little more. `sign`: gives a line to put in front of the text. */
  write(from: string, to: readonly string[], how: Writing = {}): Letter {
    const { octets = 400, isNotified = false, sign = () => '', trace } = how;
    const mark = `m${this.letters.length}-${to.length}`;
    const head = [
      `X-Mark: ${mark}`,
      `From: <${from}>`,
      'Date: Tue, 24 Nov 2026 12:00:00 +0000',
      `Message-ID: <${mark}@test.example.net>`,
    ];
    const lines: string[] = [...head, ''];
    for (let size = lines.join('\r\n').length, line = 0; size < octets; line += 1) {
      // Each line is another one, so that pages that were swapped or lost show; some begin with a dot.
      const text = `${line % 7 === 3 ? '.' : ''}${mark} ${line} ${createHash('md5').update(`${mark}${line}`).digest('base64')}`;
      lines.push(line % 50 === 49 ? text.repeat(20) : text);
      size += (lines.at(-1)?.length ?? 0) + 2;
    }
    const plain = `${lines.join('\r\n')}\r\nend of ${mark}\r\n`;
    const letter: Letter = { mark, from, to, isNotified, text: sign(plain) + plain, trace };
    this.letters.push(letter);
    return letter;
  }

  /** Everything is looked at anew, as after a restart. */
  forget(): void {
    this.#found = new Map();
    this.#torn = [];
    this.#seen = new Set();
    this.#taken = 0;
  }

  /** Copies that were acknowledged and have not been found; those of messages that wait are among them. */
  missing(): string[] {
    this.#look();
    return this.letters.filter(isKept).flatMap(letter => copiesOf(letter).filter(copy => !this.#found.has(copy)));
  }

  /** Copies of messages that were refused. */
  refusedYetFound(): string[] {
    this.#look();
    const refused = this.letters.filter(letter => !isKept(letter) && letter.reply !== undefined);
    return refused.flatMap(letter => copiesOf(letter).filter(copy => this.#found.has(copy)));
  }

  /** Copies that came more than once. */
  twice(): string[] {
    this.#look();
    return [...this.#found].filter(([, copies]) => copies > 1).map(([copy, copies]) => `${copy} (${copies} times)`);
  }

  async account(): Promise<Account> {
    const queue = await waiting(this.#place);
    const missing = this.missing();
    const queued = new Map(this.letters.map(letter => [letter.mark, queue.includes(idOf(letter))]));
    return {
      lost: missing.filter(copy => !queued.get(copy.split(' ', 1)[0] ?? '')),
      torn: this.#torn,
      twice: this.twice(),
      queued: queue.length,
      acknowledged: this.letters.filter(isKept).length,
      copies: [...this.#found.values()].reduce((sum, copies) => sum + copies, 0),
    };
  }

  #look(): void {
    for (const name of mailboxes) {
      const folder = join(this.#place.folder, 'mail', name, 'new');
      for (const file of existsSync(folder) ? readdirSync(folder) : [])
        if (!this.#seen.has(`${name}/${file}`)) {
          this.#seen.add(`${name}/${file}`);
          this.#read(name, `${name}/${file}`, readFileSync(join(folder, file), 'latin1'));
        }
    }
    const { taken } = this.#sink;
    for (; this.#taken < taken.length; this.#taken += 1) {
      const { to, content } = taken[this.#taken] ?? { to: '', content: Buffer.alloc(0) };
      this.#read(`<${to}>`, `next hop ${this.#taken}`, content.toString('latin1').replaceAll('\r\n', '\n'));
    }
  }

  /** One copy: whole, or torn. */
  #read(place: string, name: string, content: string): void {
    const letter = this.letters[Number(/^X-Mark: m(\d+)-/m.exec(content)?.[1] ?? -1)];
    const copies = letter === undefined ? [] : this.#judge(letter, place, content);
    if (copies.length === 0) this.#torn.push(`${name} (${content.length} octets)`);
    for (const copy of copies) this.#found.set(copy, (this.#found.get(copy) ?? 0) + 1);
  }

  #judge(letter: Letter, place: string, content: string): string[] {
    const boundary = /^From: Mail Delivery System[^]*\tboundary="([^"]*)"\n/m.exec(content)?.[1];
    if (boundary !== undefined) {
      if (!content.startsWith('Return-Path: <>\n') || !content.endsWith(`\n--${boundary}--\n`)) return [];
      const told = content.matchAll(/^Final-Recipient: rfc822; ?(\S+)\nAction: (\w+)\n/gm);
      return [...told].map(([, to, action]) => `${letter.mark} ${action} ${to}`);
    }
    const text = letter.text.replaceAll('\r\n', '\n');
    const trace = content.slice(0, content.length - text.length);
    const isOurs = letter.trace?.(place) ?? usualTrace;
    if (!isOurs.test(trace) || !content.endsWith(text)) return [];
    return [`${letter.mark} in ${place}`];
  }
}

/** What must come of a letter, each with a name. */
function copiesOf({ mark, to, isNotified }: Letter): string[] {
  const copies = to.flatMap(address => {
    const [local = '', domain] = address.split('@');
    if (domain === 'example.com') {
      const forwarded = local === 'far' || local === 'both' ? [`${mark} in <${local}@peer.example>`] : [];
      if (local === 'far') return forwarded;
      const mailbox = mailboxes.find(name => name === local) ?? 'default';
      return [...forwarded, `${mark} in ${mailbox}`, ...(isNotified ? [`${mark} delivered ${address}`] : [])];
    }
    return [local.startsWith('refused') ? `${mark} failed ${address}` : `${mark} in <${address}>`];
  });
  return [...new Set(copies)];
}

const isKept = ({ reply }: Letter): boolean => reply?.startsWith('250') === true;
const idOf = ({ reply = '' }: Letter): string => reply.split(' ').at(-1) ?? '';

/**
 * The ids of the messages that wait: what `slimsmtp queue list --json` asks, without a process of its own each time.
 */
export async function waiting(place: Place): Promise<string[]> {
  const socket = connect(join(place.folder, 'data', 'run', 'control'));
  socket.write(`${JSON.stringify({ verb: 'list', selector: {} })}\n`);
  const lines = (await whole(socket)).split('\n').filter(line => line !== '');
  const items = lines.map(line => JSON.parse(line) as { item?: { id: string }; isEnd?: boolean });
  if (!items.at(-1)?.isEnd) throw new Error('the server ended before it had answered');
  return items.flatMap(({ item }) => (item ? [item.id] : []));
}

/** Sends a letter; its reply is noted as it comes. False: the session has ended. */
export async function send(session: Client, letter: Letter): Promise<boolean> {
  const answers = [await session.say(`MAIL FROM:<${letter.from}>`)];
  for (const recipient of letter.to)
    answers.push(await session.say(`RCPT TO:<${recipient}>${letter.isNotified ? ' NOTIFY=SUCCESS,FAILURE' : ''}`));
  const refusal = answers.find(answer => !answer.startsWith('250'));
  if (refusal === undefined) {
    const answer = await session.say('DATA');
    if (answer.startsWith('354')) session.send(letter.text.replace(/^\./gm, '..'));
    const reply = answer.startsWith('354') ? await session.say('.') : answer;
    if (reply !== 'closed') letter.reply = reply;
    return reply !== 'closed';
  }
  if (refusal === 'closed') return false;
  letter.reply = refusal;
  return (await session.say('RSET')) !== 'closed';
}

/** A session of its own for the letter. */
export async function sendAlone(port: number, letter: Letter): Promise<void> {
  const session = await dial(port);
  await send(session, letter);
  session.socket.destroy();
}

/** Waits until nothing is missing or waits any more, or the time is over, or the server has ended; then the account. */
export async function settle(ledger: Ledger, place: Place, server: Server, withinMs = 20_000): Promise<Account> {
  const end = Date.now() + withinMs;
  while (!server.hasEnded() && Date.now() < end) {
    if (ledger.missing().length === 0 && (await waiting(place).catch(() => [''])).length === 0) break;
    await setTimeout(50);
  }
  return ledger.account();
}

/** A server that is ready, else its last words. */
export async function begin(place: Place, settings: Record<string, string>): Promise<Server> {
  const server = await place.start(settings, { isPatient: true });
  if (!server.log().includes('"ready"')) throw new Error(`the server did not start: ${server.log()}`);
  return server;
}

/** What a crash may leave in tmp/ is swept when it is 36 hours old: makes it so. */
export function age(place: Place): void {
  const then = Date.now() / 1000 - 37 * 3600;
  for (const path of temporary(place)) utimesSync(path, then, then);
}

/** The files in tmp/ of all Maildirs. */
function temporary(place: Place): string[] {
  return mailboxes.flatMap(name => list(join(place.folder, 'mail', name, 'tmp')));
}

/** What a server that has nothing to do leaves lying about. */
export function leftovers(place: Place): string[] {
  return [
    ...temporary(place),
    ...['queue', 'spool', 'journal'].flatMap(name => list(join(place.folder, 'data', name))),
  ];
}

const list = (folder: string): string[] =>
  existsSync(folder) ? readdirSync(folder).map(name => join(folder, name)) : [];
