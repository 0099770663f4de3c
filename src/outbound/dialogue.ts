// The client's side of an SMTP dialogue, pure and synchronous: generators that yield what they want done and are resumed
// with the server's replies; and the reader that makes replies of octets, in bounded memory. No sockets, timers, clock, promises.
// Promises: never throws on what a server says; whatever is not understood is a deferral; a recipient is 'delivered' only when
// the server took the content after all of it was sent; nothing said in clear behind STARTTLS is ever read.
// RFC 5321 §3 and §4.2, 2920 (PIPELINING), 1870 (SIZE), 3207 (STARTTLS), 4954 (AUTH), 3461 §5.2 (DSN), 6531 (SMTPUTF8).
import { domainToASCII } from 'node:url';
import type { Delivery, QueueEntry, QueueRecipient } from '../mail/message.ts';
import { clientFirst } from '../sasl/scram.ts';

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
export type Offers = Map<string, string>;
export type Terms = {
  readonly hostname: string;
  readonly isSecure: boolean; // already: implicit TLS
  readonly startTls: 'never' | 'offered' | 'required';
  readonly credentials?: { readonly user: string; readonly password: string; readonly nonce: string } | undefined;
};
/** Why there is no session. 'tls': this host cannot be talked to in TLS; 'loop': it is us. */
export type Refusal = { readonly because: 'host' | 'tls' | 'login' | 'loop'; readonly delivery: Delivery };
/** One message. `sizeBytes`: as in RFC 1870, and rather too little than too much. */
export type Mail = Omit<QueueEntry, 'id' | 'receivedAt' | 'skipBytes'> & { readonly sizeBytes: number };
/** `isReusable`: another message may follow. `isUntouched`: the session was gone before the server took anything. */
export type Sent = {
  readonly deliveries: readonly Delivery[];
  readonly isReusable: boolean;
  readonly isUntouched?: boolean;
};

const [maxLineOctets, maxLines, maxReplyLength] = [4096, 100, 64 * 1024];
/** So many commands go out before their replies are read: neither side's window fills up (RFC 2920 §3.1). */
const maxPipelined = 100;
const send = (line: string): Want => {
  if (/\p{Cc}/u.test(line)) throw new Error('a control character in a command'); // our own parser lets none in
  return { kind: 'send', text: `${line}\r\n` };
};
const hear = (wait: 'command' | 'data' | 'end' = 'command'): Want => ({ kind: 'reply', wait });
function* ask(line: string): Dialogue<ServerReply> {
  yield send(line);
  return yield hear();
}
const base64 = (text: string): string => Buffer.from(text).toString('base64');
export const isAscii = (text: string): boolean => /^[\0-\x7f]*$/.test(text);
const deferred = (status: string, text: string): Delivery => ({ kind: 'deferred', status, text });
const failed = (status: string, text: string): Delivery => ({ kind: 'failed', status, text });
const refuse = (because: Refusal['because'], delivery: Delivery): Refusal => ({ because, delivery });
const isLast = ({ code }: ServerReply): boolean => code === 0 || code === 421;
export const none = (status: string, ...lines: string[]): ServerReply => ({ code: 0, status, lines });
const kinds: Readonly<Record<string, Delivery['kind']>> = { 2: 'delivered', 4: 'deferred', 5: 'failed' };

/** What a reply means for a recipient. One that is out of place, such as 354 to MAIL, is a deferral. */
function toDelivery({ code, lines, status }: ServerReply, mayAccept = true): Delivery {
  const said = lines.join(' ').slice(0, 1000);
  if (code === 0) return deferred(status ?? '4.4.2', said);
  const text = `${code} ${said}`.trim();
  const [first = ''] = text;
  const kind = kinds[first];
  if (kind === undefined || (kind === 'delivered' && !mayAccept)) return deferred('4.5.0', `out of place: ${text}`);
  const [own = `${first}.0.0`] = new RegExp(`^${first}\\.\\d{1,3}\\.\\d{1,3}(?= |$)`).exec(said) ?? [];
  return { kind, status: own, text };
}

/** Until MAIL may come: greeting, EHLO, TLS, login. */
export function* open({ hostname, isSecure, startTls, credentials }: Terms): Dialogue<Offers | Refusal> {
  const greeting = yield hear();
  if (greeting.code !== 220) return refuse('host', toDelivery(greeting, false));
  if (greeting.lines[0]?.split(' ', 1)[0]?.toLowerCase() === hostname.toLowerCase())
    return refuse('loop', failed('5.4.6', `the server has our own name: ${hostname}`));
  let offers = yield* hello(hostname);
  if (!isSecure && startTls !== 'never' && offers instanceof Map && offers.has('STARTTLS')) {
    const reply = yield* ask('STARTTLS');
    if (isLast(reply)) return refuse('host', toDelivery(reply));
    isSecure = reply.code === 220;
    const { code, lines, status } = isSecure ? yield { kind: 'secure' } : reply;
    if (code === 0) return refuse(status ? 'host' : 'tls', deferred(status ?? '4.7.4', lines.join(' ')));
    if (isSecure) offers = yield* hello(hostname); // what was said in clear counts no more
  }
  if (!(offers instanceof Map)) return offers;
  if (!isSecure && startTls === 'required') return refuse('tls', deferred('4.7.4', 'the server does not offer TLS'));
  if (credentials === undefined) return offers;
  const login = isSecure ? yield* logIn(offers, credentials) : none('4.7.8', 'a login needs TLS');
  if (login.code === 235) return offers;
  // Never a bounce: what is wrong is in our settings, or at the relay, and not in the message.
  const { kind, status, text } = toDelivery(login, false);
  return refuse('login', deferred(kind === 'failed' ? '4.7.8' : status, text));
}

function* hello(hostname: string): Dialogue<Offers | Refusal> {
  const extended = yield* ask(`EHLO ${hostname}`);
  const reply = extended.code >= 500 ? yield* ask(`HELO ${hostname}`) : extended;
  if (reply.code !== 250) return refuse('host', toDelivery(reply, false));
  const lines = reply === extended ? reply.lines.slice(1) : [];
  const parsed = lines.map(line => /^([\w-]+)(?:[ =](.*))?$/.exec(line.trimEnd()) ?? []);
  return new Map(parsed.map(([, name = '', parameter = '']) => [name.toUpperCase(), parameter]));
}

/** 235, or what was said in its place. */
function* logIn(offers: Offers, { user, password, nonce }: NonNullable<Terms['credentials']>): Dialogue<ServerReply> {
  const offered = (offers.get('AUTH') ?? '').toUpperCase().split(' ');
  if (offered.includes('SCRAM-SHA-256')) {
    const decode = ({ lines }: ServerReply): string => Buffer.from(lines[0] ?? '', 'base64').toString();
    const first = clientFirst(user, nonce);
    const asked = yield* ask(`AUTH SCRAM-SHA-256 ${base64(`n,,${first}`)}`);
    if (asked.code !== 334) return asked;
    const proof = yield { kind: 'prove', first, challenge: decode(asked) };
    const end = yield* ask(proof.code === 0 ? '*' : base64(proof.lines[0] ?? ''));
    if (end.code === 334 && decode(end) === proof.lines[1]) return yield* ask('');
    // Only a server that knows the password can say that: 235 alone is no proof (RFC 5802 §3).
    const isNo = end.code >= 400 || end.code === 0;
    return isNo ? end : none('4.7.8', 'the server did not prove that it knows the password');
  }
  if (offered.includes('PLAIN')) return yield* ask(`AUTH PLAIN ${base64(`\0${user}\0${password}`)}`);
  if (!offered.includes('LOGIN')) return none('4.7.8', 'the server offers no login by SCRAM-SHA-256, PLAIN or LOGIN');
  let reply = yield* ask('AUTH LOGIN');
  for (const answer of [user, password]) if (reply.code === 334) reply = yield* ask(base64(answer));
  return reply;
}

/** One message on an open session. A result for each recipient, whatever happens. */
export function* transact(offers: Offers, mail: Mail): Dialogue<Sent> {
  const asUtf8 = mail.isUtf8 && offers.has('SMTPUTF8');
  const mailCommand = toCommand('MAIL FROM', mail.from, asUtf8, mailParameters(offers, mail, asUtf8));
  const recipientCommands = mail.recipients.map(each =>
    toCommand('RCPT TO', each.address, asUtf8, offers.has('DSN') ? dsnParameters(each, asUtf8) : []),
  );
  const unfit = failed('5.6.7', 'the server does not take non-ASCII addresses');
  const results = recipientCommands.map(command => (command === undefined ? unfit : undefined));
  const finish = (others: Delivery, isReusable: boolean, isUntouched = false): Sent => {
    return { deliveries: results.map(result => result ?? others), isReusable, isUntouched };
  };
  const limit = Number(/^\d+$/.exec(offers.get('SIZE') ?? '')?.[0] ?? 0);
  if (limit > 0 && mail.sizeBytes > limit)
    return finish(failed('5.3.4', `the server takes no more than ${limit} octets`), true);
  const hopeful = results.flatMap((result, at) => (result ? [] : [at]));
  if (mailCommand === undefined || hopeful.length === 0) return finish(unfit, true);

  const commands = [mailCommand, ...recipientCommands.filter(command => command !== undefined), 'DATA'];
  let [accepted, mayCome] = [0, false]; // recipients, and content
  let refusal: Delivery | undefined; // of the whole message
  const size = offers.has('PIPELINING') ? maxPipelined : 1;
  for (let start = 0; start < commands.length && refusal === undefined; start += size) {
    const group = commands.slice(start, start + size);
    if (group[0] === 'DATA' && accepted === 0) break;
    for (const command of group) yield send(command);
    for (const [at, command] of group.entries()) {
      const isData = command === 'DATA';
      const recipient = hopeful[start + at - 1];
      const reply = yield hear(isData ? 'data' : 'command');
      const said = toDelivery(reply, !isData);
      const isTaken = said.kind === 'delivered';
      if (isLast(reply)) return finish(refusal ?? said, false, start + at === 0);
      if (isData) mayCome = reply.code === 354;
      if (isData ? !mayCome && accepted > 0 : recipient === undefined && !isTaken) refusal ??= said;
      if (recipient === undefined || refusal !== undefined) continue;
      if (isTaken) accepted += 1;
      // RFC 5321 §4.5.3.1.10: 552 to one more recipient means 452.
      else if (reply.code === 552 && accepted > 0 && !said.status.startsWith('5.2.'))
        results[recipient] = { ...said, kind: 'deferred', status: '4.5.3' };
      else results[recipient] = said;
    }
  }

  if (mayCome && refusal !== undefined) return finish(refusal, false); // for whom would it take a lone dot?
  // RFC 2920 §3.1: a server that wants content although it took no recipient gets none.
  if (!mayCome || accepted === 0) return finish(refusal ?? unfit, (yield* ask(mayCome ? '.' : 'RSET')).code === 250);
  const sent = yield { kind: 'content' };
  const end = yield hear('end');
  // A reply that came before all was sent can refuse, and never accept.
  const reply = sent.code === 0 && end.code < 400 ? sent : end;
  const last = toDelivery(reply);
  const isDsnPassedOn = last.kind === 'delivered' && offers.has('DSN');
  const isReusable = sent.code !== 0 && !isLast(reply) && last.status !== '4.5.0';
  return finish({ ...last, ...(isDsnPassedOn && { isDsnPassedOn }) }, isReusable);
}

/** undefined: an address that this server cannot take. */
function toCommand(verb: string, address: string, asUtf8: boolean, parameters: readonly unknown[]): string | undefined {
  const at = address.lastIndexOf('@');
  const domain = asUtf8 || isAscii(address) ? address.slice(at + 1) : domainToASCII(address.slice(at + 1));
  const path = `${address.slice(0, at + 1)}${domain}`;
  const isFit = asUtf8 || (isAscii(path) && (domain !== '' || address === ''));
  return isFit ? [`${verb}:<${path}>`, ...parameters.filter(Boolean)].join(' ') : undefined;
}

function mailParameters(offers: Offers, { sizeBytes, is8Bit, ret, envelopeId }: Mail, asUtf8: boolean) {
  return [
    offers.has('SIZE') && `SIZE=${sizeBytes}`,
    offers.has('8BITMIME') && (is8Bit || asUtf8) && 'BODY=8BITMIME',
    asUtf8 && 'SMTPUTF8',
    offers.has('DSN') && ret && `RET=${ret}`,
    offers.has('DSN') && envelopeId && `ENVID=${envelopeId}`,
  ];
}

function dsnParameters({ address, notify, originalRecipient }: QueueRecipient, asUtf8: boolean) {
  const xtext = address.replaceAll(/[+= ]/g, each => `+${Buffer.from(each).toString('hex').toUpperCase()}`);
  const original = originalRecipient ?? (notify && isAscii(address) ? `rfc822;${xtext}` : '');
  const mayGo = original !== '' && (asUtf8 || isAscii(original));
  return [notify && `NOTIFY=${notify.join(',')}`, mayGo && `ORCPT=${original}`];
}

export class ReplyReader {
  #input: Buffer = Buffer.alloc(0);
  #lines: string[] = [];

  receive(octets: Buffer): void {
    this.#input = Buffer.concat([this.#input, octets]);
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
      const textEnd = this.#input[end - 1] === 0x0d ? end - 1 : end;
      const line = this.#input.toString('utf8', 0, textEnd).replaceAll(/[\p{Cc}\p{Zl}\p{Zp}\ufffd]/gu, '?');
      const [first = line] = this.#lines;
      const code = line.slice(0, 3);
      if (!/^[2-5][0-5]\d(?:[ -]|$)/.test(line)) return nonsense(line.slice(0, 100));
      if (!first.startsWith(code)) return nonsense(`${code} within ${first.slice(0, 3)}`);
      this.#input = this.#input.subarray(end + 1);
      this.#lines.push(line);
      if (this.#lines.length > maxLines || this.#lines.join('').length > maxReplyLength)
        return nonsense('it has no end');
      if (line[3] === '-') continue;
      return { code: Number(code), lines: this.#lines.splice(0).map(each => each.slice(4)) };
    }
  }
}

const nonsense = (what: string): ServerReply => none('4.5.0', `not a reply: ${what}`);
