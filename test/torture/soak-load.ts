// The soak's load and its books: messages of every kind at a steady rate, and what became of each.
// Promises: a message is in the books before its first octet is sent, and leaves them only when every copy that is due
// has arrived whole, where it should; what arrives twice, elsewhere, torn or unasked is a fault.
// Limits: no pipelining beyond one envelope, a login for every twenty messages; latency is from MAIL to the last reply.
import { randomInt } from 'node:crypto';
import { TlsClient } from './soak-client.ts';

/** `share`: of a hundred messages. `places`: where copies may arrive, `copies` of them, each place once. */
type Kind = {
  readonly name: string;
  readonly share: number;
  readonly to: string;
  readonly isLogin?: true;
  readonly places: readonly string[];
  readonly copies: number;
  readonly reply: RegExp;
  readonly octets?: number;
};
const kept = { copies: 1, reply: /^250 2\.0\.0 (?:Delivered|Queued) as / };
const kinds: readonly Kind[] = [
  { ...kept, name: 'account', share: 24, to: 'anton@example.com', places: ['anton'] },
  { ...kept, name: 'maildir', share: 20, to: 'box@example.com', places: ['box'] },
  { ...kept, name: 'shared', share: 10, to: 'facebook@example.com', places: ['anton', 'berta'], copies: 2 },
  { ...kept, name: 'catch-all', share: 10, to: 'nobody@example.com', places: ['default'] },
  // Its row changes all the time (soak.ts): a Maildir of its own, or berta.
  { ...kept, name: 'moving', share: 5, to: 'moving@example.com', places: ['moving', 'berta'] },
  { ...kept, name: 'large', share: 1, to: 'box@example.com', places: ['box'], octets: 400_000 },
  { name: 'refused', share: 2, to: 'x@elsewhere.example', places: [], copies: 0, reply: /^550 5\.7\.1 / },
  { ...kept, name: 'relayed', share: 20, to: 'x@peer.example', isLogin: true, places: ['peer'] },
  { ...kept, name: 'greylisted', share: 3, to: 'grey-*@peer.example', isLogin: true, places: ['peer'] },
  { ...kept, name: 'bounced', share: 5, to: 'unknown*@peer.example', isLogin: true, places: ['anton, a bounce'] },
];
const lots = kinds.flatMap(kind => Array<Kind>(kind.share).fill(kind));

type Target = { readonly smtp: number; readonly submissions: number; readonly password: string };
type Entry = { readonly kind: Kind; readonly sum: number; left: number; readonly seen: string[]; isKept: boolean };

export class Load {
  readonly #target: Target;
  readonly #books = new Map<string, Entry>();
  readonly #idle: Record<'stranger' | 'login', TlsClient[]> = { stranger: [], login: [] };
  readonly #active = new Set<Promise<void>>();
  /** Of each kind: acknowledged and at rest. */
  readonly counts = new Map<string, number>();
  readonly faults: string[] = [];
  /** Since the last time someone took them. */
  latencies: number[] = [];
  /** Certificates that handshakes have shown. */
  readonly certificates = new Set<string>();
  postponed = 0;
  #sent = 0;

  constructor(target: Target) {
    this.#target = target;
  }

  /** The marks of what has not come to rest. */
  get unaccounted(): readonly string[] {
    return [...this.#books.keys()];
  }

  /** Sends so many a second (Infinity: as many as `atOnce` allow) for so long; how many a second it has sent. */
  async run(perSecond: number, ms: number, atOnce: number): Promise<number> {
    const [startedAt, before] = [performance.now(), this.#sent];
    for (let begun = 0, now = startedAt; now < startedAt + ms; now = performance.now()) {
      while (this.#active.size < atOnce && begun < (perSecond * (now - startedAt + 1)) / 1000) {
        begun += 1;
        this.#begin();
      }
      // Behind, and no one free to send it: said, and made up for.
      if (this.#active.size >= atOnce && perSecond < Infinity) this.postponed += 1;
      if (perSecond === Infinity) await Promise.race(this.#active);
      else await new Promise(resolve => setTimeout(resolve, 10));
    }
    await Promise.all(this.#active);
    return ((this.#sent - before) * 1000) / (performance.now() - startedAt);
  }

  close(): void {
    for (const session of Object.values(this.#idle).flat()) session.close();
  }

  /** A message was found: where, its mark, the sum of the octets of its body. */
  arrived(place: string, mark: string, sum: number): void {
    const entry = this.#books.get(mark);
    if (!entry || entry.seen.includes(place)) return this.#fault(`${mark} has arrived in ${place} once too often`);
    if (!entry.kind.places.includes(place)) return this.#fault(`${mark} has arrived in ${place}`);
    // Of a bounce the body is another.
    if (!place.endsWith('bounce') && sum !== entry.sum) this.#fault(`${mark} is not what was sent, in ${place}`);
    entry.seen.push(place);
    entry.left -= 1;
    this.#settle(mark, entry);
  }

  #begin(): void {
    const work = this.#send().catch(error => this.#fault(String(error)));
    this.#active.add(work);
    void work.finally(() => this.#active.delete(work));
  }

  async #send(): Promise<void> {
    const kind = lots[randomInt(lots.length)] ?? (kinds[0] as Kind);
    const mark = `soak-${(this.#sent += 1)}-${kind.name}`;
    const body = `${mark}\n`.repeat(Math.ceil((kind.octets ?? randomInt(200, 8000)) / (mark.length + 1)));
    const entry: Entry = { kind, sum: sumOf(body), left: kind.copies, seen: [], isKept: false };
    this.#books.set(mark, entry);
    const pool = this.#idle[kind.isLogin ? 'login' : 'stranger'];
    const session = pool.pop() ?? (await this.#open(kind.isLogin === true));
    const startedAt = performance.now();
    const from = kind.isLogin ? 'anton@example.com' : 'stranger@example.net';
    const message = `From: <${from}>\r\nDate: Tue, 24 Nov 2026 06:00:00 +0000\r\nMessage-ID: <${mark}@client.example>\r\nSubject: ${mark}\r\n\r\n`;
    const to = kind.to.replace('*', `${this.#sent}`);
    const reply = await session.send(from, to, message + body.replaceAll('\n', '\r\n'));
    this.latencies.push(performance.now() - startedAt);
    if (!kind.reply.test(reply)) this.#fault(`${mark}: ${reply}`);
    entry.isKept = reply.startsWith('250');
    if (!entry.isKept && kind.copies > 0) this.#books.delete(mark);
    else this.#settle(mark, entry);
    if (session.sent < 20 && reply !== 'closed') pool.push(session);
    else session.close();
  }

  async #open(isLogin: boolean): Promise<TlsClient> {
    const { smtp, submissions, password } = this.#target;
    const session = await TlsClient.open(isLogin ? submissions : smtp, { isImplicit: isLogin });
    this.certificates.add(session.certificate);
    if (!isLogin) return session;
    const token = Buffer.from(`\0anton\0${password}`).toString('base64');
    const reply = await session.say(`AUTH PLAIN ${token}`);
    if (!reply.startsWith('235')) throw new Error(`a login: ${reply}`);
    return session;
  }

  /** Off the books once it has its reply and all its copies. */
  #settle(mark: string, entry: Entry): void {
    if (entry.left > 0 || (!entry.isKept && entry.kind.copies > 0)) return;
    this.#books.delete(mark);
    this.counts.set(entry.kind.name, (this.counts.get(entry.kind.name) ?? 0) + 1);
  }

  #fault(text: string): void {
    if (this.faults.length < 100) this.faults.push(text);
  }
}

/** As Perl's unpack("%32C*") has it. */
function sumOf(body: string): number {
  let sum = 0;
  for (const octet of Buffer.from(body)) sum = (sum + octet) % 2 ** 32;
  return sum;
}
