// The client's side of an SMTP dialogue, pure and synchronous: generators that yield what they want done and are resumed
// with the server's replies; and the reader that makes replies of octets, in bounded memory. No sockets, timers, clock, promises.
// Promises: never throws on what a server says; whatever is not understood is a deferral; a recipient is 'delivered' only when
// the server took the content after all of it was sent; nothing said in clear behind STARTTLS is ever read.
// RFC 5321 §3 and §4.2, 2920 (PIPELINING), 1870 (SIZE), 3207 (STARTTLS), 4954 (AUTH), 3461 §5.2 (DSN), 6531 (SMTPUTF8).
import { domainToASCII } from 'node:url';
import type { Delivery, QueueEntry, QueueRecipient } from '../mail.ts';
import { clientFirst } from '../scram.ts';

/** Code 0: there was none, `lines` says why, and there will be no other. 1: what was wanted is done, and no reply is due. */
export type ServerReply = { readonly code: number; readonly lines: readonly string[]; readonly status?: string };

export type Want =
  | { readonly kind: 'send'; readonly text: string } // when the next other want comes, together with what waits already
  | { readonly kind: 'reply'; readonly wait: 'command' | 'data' | 'end' } // how long for: RFC 5321 §4.5.3.2
  | { readonly kind: 'secure' } // start TLS; code 0: it failed, or octets in clear were waiting (status 4.7.0)
  | { readonly kind: 'prove'; readonly first: string; readonly challenge: string } // SCRAM: our response and its `expected`
  | { readonly kind: 'content' }; // send the message and its final dot; code 0: it did not get out in full

type Dialogue<T> = Generator<Want, T, ServerReply>;

/** What a server told us in reply to EHLO: extensions in upper case, with their parameters. */
export type Offers = ReadonlyMap<string, string>;
export type Credentials = { readonly user: string; readonly password: string; readonly nonce: string };
export type Terms = {
  readonly hostname: string;
  readonly isSecure: boolean; // already: implicit TLS
  readonly startTls: 'never' | 'offered' | 'required';
  readonly credentials?: Credentials | undefined;
};
/** Why there is no session. 'tls': this host cannot be talked to in TLS; 'loop': it is us. */
export type Refusal = { readonly because: 'host' | 'tls' | 'login' | 'loop'; readonly delivery: Delivery };
/** One message. `sizeBytes`: as in RFC 1870, and rather too little than too much. */
export type Mail = Pick<QueueEntry, 'from' | 'isUtf8' | 'is8Bit' | 'ret' | 'envelopeId'> & {
  readonly sizeBytes: number;
  readonly recipients: readonly QueueRecipient[];
};
/** `isReusable`: another message may follow. `isUntouched`: the session was gone before the server took anything. */
export type Sent = {
  readonly deliveries: readonly Delivery[];
  readonly isReusable: boolean;
  readonly isUntouched: boolean;
};

const [maxLineOctets, maxLines, maxReplyOctets] = [4096, 100, 64 * 1024];
/** So many commands go out before their replies are read: neither side's window fills up (RFC 2920 §3.1). */
const maxPipelined = 100;
const nothing = Buffer.alloc(0);
const send = (line: string): Want => {
  if (/\p{Cc}/u.test(line)) throw new Error('a control character in a command'); // our own parser lets none in
  return { kind: 'send', text: `${line}\r\n` };
};
const hear = (wait: 'command' | 'data' | 'end' = 'command'): Want => ({ kind: 'reply', wait });
const base64 = (text: string): string => Buffer.from(text).toString('base64');
const isAscii = (text: string): boolean => /^[\0-\x7f]*$/.test(text);
const deferred = (status: string, text: string): Delivery => ({ kind: 'deferred', status, text });
const failed = (status: string, text: string): Delivery => ({ kind: 'failed', status, text });
const refuse = (because: Refusal['because'], delivery: Delivery): Refusal => ({ because, delivery });
const kinds: Readonly<Record<string, Delivery['kind']>> = { 2: 'delivered', 4: 'deferred', 5: 'failed' };

/** What a reply means for a recipient. One that is out of place, such as 354 to MAIL, is a deferral. */
function toDelivery({ code, lines, status }: ServerReply, mayAccept = true): Delivery {
  const said = lines.join(' ').slice(0, 1000);
  if (code === 0) return deferred(status ?? '4.4.2', said);
  const [first = ''] = String(code);
  const kind = kinds[first];
  if (kind === undefined || (kind === 'delivered' && !mayAccept))
    return deferred('4.5.0', `out of place: ${code} ${said}`);
  const [own = `${first}.0.0`] = new RegExp(`^${first}\\.\\d{1,3}\\.\\d{1,3}(?= |$)`).exec(said) ?? [];
  return { kind, status: own, text: `${code} ${said}`.trim() };
}

/** Until MAIL may come: greeting, EHLO, TLS, login. */
export function* open(terms: Terms): Dialogue<Offers | Refusal> {
  const greeting = yield hear();
  if (greeting.code !== 220) return refuse('host', toDelivery(greeting, false));
  if (greeting.lines[0]?.split(' ', 1)[0]?.toLowerCase() === terms.hostname.toLowerCase())
    return refuse('loop', failed('5.4.6', `the server has our own name: ${terms.hostname}`));
  let offers = yield* hello(terms.hostname);
  let isSecure = terms.isSecure;
  if (!(offers instanceof Map)) return offers as Refusal;
  if (!isSecure && terms.startTls !== 'never' && offers.has('STARTTLS')) {
    yield send('STARTTLS');
    const reply = yield hear();
    isSecure = reply.code === 220;
    if (reply.code === 0 || reply.code === 421) return refuse('host', toDelivery(reply));
    if (isSecure) {
      const { code, lines, status } = yield { kind: 'secure' };
      if (code === 0) return refuse(status ? 'host' : 'tls', deferred(status ?? '4.7.4', lines.join(' ')));
      offers = yield* hello(terms.hostname); // what was said in clear counts no more
      if (!(offers instanceof Map)) return offers as Refusal;
    }
  }
  if (!isSecure && terms.startTls === 'required')
    return refuse('tls', deferred('4.7.4', 'the server does not offer TLS'));
  if (terms.credentials === undefined) return offers;
  const login = isSecure ? yield* logIn(offers, terms.credentials) : noLogin('a login needs TLS');
  if (login.code === 235) return offers;
  // Never a bounce: what is wrong is in our settings, or at the relay, and not in the message.
  const { kind, status, text } = toDelivery(login, false);
  return refuse('login', deferred(kind === 'failed' ? '4.7.8' : status, text));
}

function* hello(hostname: string): Dialogue<Offers | Refusal> {
  yield send(`EHLO ${hostname}`);
  let reply = yield hear();
  const isExtended = reply.code === 250;
  if (reply.code >= 500) {
    yield send(`HELO ${hostname}`);
    reply = yield hear();
  }
  if (reply.code !== 250) return refuse('host', toDelivery(reply, false));
  const lines = isExtended ? reply.lines.slice(1) : [];
  const parsed = lines.map(line => /^([\w-]+)(?:[ =](.*))?$/.exec(line.trimEnd()) ?? []);
  return new Map(parsed.map(([, name = '', parameter = '']) => [name.toUpperCase(), parameter]));
}

const noLogin = (why: string): ServerReply => ({ code: 0, status: '4.7.8', lines: [why] });

/** 235, or what was said in its place. */
function* logIn(offers: Offers, { user, password, nonce }: Credentials): Dialogue<ServerReply> {
  const mechanisms = (offers.get('AUTH') ?? '').toUpperCase().split(' ');
  const say = function* (text: string): Dialogue<ServerReply> {
    yield send(text);
    return yield hear();
  };
  const decode = ({ lines }: ServerReply): string => Buffer.from(lines[0] ?? '', 'base64').toString();
  if (mechanisms.includes('SCRAM-SHA-256')) {
    const first = clientFirst(user, nonce);
    const asked = yield* say(`AUTH SCRAM-SHA-256 ${base64(`n,,${first}`)}`);
    if (asked.code !== 334) return asked;
    const proof = yield { kind: 'prove', first, challenge: decode(asked) };
    const end = yield* say(proof.code === 0 ? '*' : base64(proof.lines[0] ?? ''));
    if (end.code === 334 && decode(end) === proof.lines[1]) return yield* say('');
    // Only a server that knows the password can say that: 235 alone is no proof (RFC 5802 §3).
    return end.code >= 400 || end.code === 0 ? end : noLogin('the server did not prove that it knows the password');
  }
  if (mechanisms.includes('PLAIN')) return yield* say(`AUTH PLAIN ${base64(`\0${user}\0${password}`)}`);
  if (!mechanisms.includes('LOGIN')) return noLogin('the server offers no login by SCRAM-SHA-256, PLAIN or LOGIN');
  let reply = yield* say('AUTH LOGIN');
  for (const answer of [user, password]) if (reply.code === 334) reply = yield* say(base64(answer));
  return reply;
}

/** One message on an open session. A result for each recipient, whatever happens. */
export function* transact(offers: Offers, mail: Mail): Dialogue<Sent> {
  const asUtf8 = mail.isUtf8 && offers.has('SMTPUTF8');
  const [from, ...to] = [mail.from, ...mail.recipients.map(({ address }) => address)].map(each => toPath(each, asUtf8));
  const unfit = failed('5.6.7', 'the server does not take non-ASCII addresses');
  const results = to.map(path => (path === undefined ? unfit : undefined));
  const finish = (others: Delivery, isReusable: boolean, isUntouched = false): Sent => ({
    deliveries: results.map(result => result ?? others),
    isReusable,
    isUntouched,
  });
  const limit = Number(/^\d+$/.exec(offers.get('SIZE') ?? '')?.[0] ?? 0);
  if (limit > 0 && mail.sizeBytes > limit)
    return finish(failed('5.3.4', `the server takes no more than ${limit} octets`), true);
  const hopeful = results.flatMap((result, at) => (result ? [] : [at]));
  if (from === undefined || hopeful.length === 0) return finish(unfit, true);

  const commands = [
    `MAIL FROM:<${from}>${mailParameters(offers, mail, asUtf8)}`,
    ...hopeful.map(at => `RCPT TO:<${to[at]}>${recipientParameters(offers, mail.recipients[at], asUtf8)}`),
    'DATA',
  ];
  const accepted: number[] = [];
  let refusal: Delivery | undefined; // of the whole message
  let mayCome = false; // content
  const size = offers.has('PIPELINING') ? maxPipelined : 1;
  for (let start = 0; start < commands.length && refusal === undefined; start += size) {
    const group = commands.slice(start, start + size);
    if (group[0] === 'DATA' && accepted.length === 0) break;
    for (const command of group) yield send(command);
    for (const at of group.keys()) {
      const recipient = hopeful[start + at - 1];
      const isData = start + at === commands.length - 1;
      const reply = yield hear(isData ? 'data' : 'command');
      if (reply.code === 0 || reply.code === 421) return finish(refusal ?? toDelivery(reply), false, start + at === 0);
      const said = toDelivery(reply);
      const isTaken = said.kind === 'delivered';
      if (isData) mayCome = reply.code === 354;
      if (isData ? !mayCome && accepted.length > 0 : start + at === 0 && !isTaken) refusal ??= toDelivery(reply, false);
      if (isData || recipient === undefined || refusal !== undefined) continue;
      if (isTaken) accepted.push(recipient);
      // RFC 5321 §4.5.3.1.10: 552 to one more recipient means 452.
      else if (reply.code === 552 && accepted.length > 0 && !said.status.startsWith('5.2.'))
        results[recipient] = { ...said, kind: 'deferred', status: '4.5.3' };
      else results[recipient] = said;
    }
  }

  if (mayCome && refusal !== undefined) return finish(refusal, false); // for whom would it take a lone dot?
  if (!mayCome || accepted.length === 0) {
    // RFC 2920 §3.1: a server that wants content although it took no recipient gets none.
    yield send(mayCome ? '.' : 'RSET');
    const { code } = yield hear(mayCome ? 'end' : 'command');
    return finish(refusal ?? unfit, code >= 200 && code !== 421 && (mayCome || code < 300));
  }
  const sent = yield { kind: 'content' };
  const end = yield hear('end');
  // A reply that came before all was sent can refuse, and never accept.
  const reply = sent.code === 0 && end.code < 400 ? sent : end;
  const last = toDelivery(reply);
  const delivery = last.kind === 'delivered' && offers.has('DSN') ? { ...last, isDsnPassedOn: true } : last;
  return finish(delivery, sent.code !== 0 && reply.code !== 421 && last.status !== '4.5.0' && reply.code !== 0);
}

/** An address as this server can take it; undefined: it cannot. */
function toPath(address: string, asUtf8: boolean): string | undefined {
  if (asUtf8 || isAscii(address)) return address;
  const at = address.lastIndexOf('@');
  const domain = domainToASCII(address.slice(at + 1));
  return isAscii(address.slice(0, at)) && domain !== '' ? `${address.slice(0, at)}@${domain}` : undefined;
}

function mailParameters(offers: Offers, mail: Mail, asUtf8: boolean): string {
  const parameters = [
    offers.has('SIZE') && `SIZE=${mail.sizeBytes}`,
    offers.has('8BITMIME') && (mail.is8Bit || asUtf8) && 'BODY=8BITMIME',
    asUtf8 && 'SMTPUTF8',
    offers.has('DSN') && mail.ret && `RET=${mail.ret}`,
    offers.has('DSN') && mail.envelopeId && `ENVID=${mail.envelopeId}`,
  ];
  return ['', ...parameters.filter(Boolean)].join(' ');
}

function recipientParameters(offers: Offers, recipient: QueueRecipient | undefined, asUtf8: boolean): string {
  if (!offers.has('DSN') || recipient === undefined) return '';
  const { address, notify, originalRecipient } = recipient;
  const xtext = address.replaceAll(/[+= ]/g, each => `+${Buffer.from(each).toString('hex').toUpperCase()}`);
  const original = originalRecipient ?? (notify && isAscii(address) ? `rfc822;${xtext}` : '');
  const mayGo = original !== '' && (asUtf8 || isAscii(original));
  return `${notify ? ` NOTIFY=${notify.join(',')}` : ''}${mayGo ? ` ORCPT=${original}` : ''}`;
}

export class ReplyReader {
  #input: Buffer = nothing;
  #lines: string[] = [];
  #code = '';
  #octets = 0;

  receive(octets: Buffer): void {
    this.#input = this.#input.length > 0 ? Buffer.concat([this.#input, octets]) : octets;
  }

  /** Whether nothing has come that was not read as a reply. */
  get isEmpty(): boolean {
    return this.#input.length === 0 && this.#lines.length === 0;
  }

  /** The next reply, or undefined while it is not whole. Code 0: what came is none, and the session is to end. */
  next(): ServerReply | undefined {
    for (;;) {
      const end = this.#input.indexOf(0x0a);
      if ((end < 0 ? this.#input.length : end) > maxLineOctets) return nonsense('a line is too long');
      if (end < 0) return undefined;
      const line = this.#input
        .toString('utf8', 0, end)
        .replace(/\r$/, '')
        .replaceAll(/[\p{Cc}\p{Zl}\p{Zp}\ufffd]/gu, '?');
      const [, code, mark, text = ''] = /^([2-5][0-5]\d)(?:([ -])(.*))?$/.exec(line) ?? [];
      this.#octets += end + 1;
      if (code === undefined) return nonsense(line.slice(0, 100));
      if (this.#lines.length > 0 && code !== this.#code) return nonsense(`${code} within ${this.#code}`);
      if (this.#lines.length >= maxLines || this.#octets > maxReplyOctets) return nonsense('it has no end');
      this.#input = this.#input.subarray(end + 1);
      this.#code = code;
      this.#lines.push(text);
      if (mark === '-') continue;
      const lines = this.#lines;
      this.#lines = [];
      this.#octets = 0;
      return { code: Number(code), lines };
    }
  }
}

const nonsense = (what: string): ServerReply => ({ code: 0, status: '4.5.0', lines: [`not a reply: ${what}`] });
