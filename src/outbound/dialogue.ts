// The client's side of an SMTP dialogue: how a session opens. Pure and synchronous, without sockets, timers, clock or
// promises.
// Promises: never throws on what a server says; whatever is not understood is a deferral; nothing that was said in
// clear behind STARTTLS is ever read; a password goes out over TLS only.
// RFC 5321 §3 and §4.2, 2033 (LMTP), 3207 (STARTTLS), 4954 (AUTH), 9422 (LIMITS).
//
// A dialogue is a generator. It yields what it wants done, one `Want` after the other, and is resumed with a
// `ServerReply` that says what came of it; its return value is the result. Whoever drives it (the connection; in tests
// a script) decides nothing but the order of octets: what was given to send goes out together, as soon as a reply,
// content or TLS is wanted.
//
// A session is in one of four states. What the dialogue says and hears moves it on, and nothing else:
//   opening      greeting, EHLO, STARTTLS and EHLO again, AUTH. `open` ends with what the server offers, or a refusal.
//   idle         between messages: neither side owes the other anything. What the server says now was not asked for.
//   transaction  MAIL, RCPT …, DATA, content. `transact` (transaction.ts) begins and ends it, as often as needed.
//   over         the server said 421, closed, was too slow, or said something that is no reply to what was asked. No
//                command goes out any more. Every dialogue that hears of it ends with a result, so no message is left
//                without one.
// With PIPELINING up to a hundred commands are under way at once, and their replies are read in the order of the
// commands. A command whose reply decides what comes next (EHLO, STARTTLS, AUTH, DATA, RSET, the final dot) is always
// the last of those under way.
import { clientFirst } from '../sasl/scram.ts';
import type { Delivery } from '../mail/message.ts';
import { type Offers, type ServerReply, deferred, failed, isLast, none, toDelivery } from './replies.ts';

export type Want =
  /** It goes out together with what is waiting already, as soon as something else is wanted. */
  | { readonly kind: 'send'; readonly text: string }
  /** The next reply; `wait` says how long it may take (RFC 5321 §4.5.3.2). */
  | { readonly kind: 'reply'; readonly wait: 'command' | 'data' | 'end' }
  /** TLS begins. Code 0: it failed, or octets in clear were waiting (then with status 4.7.0). */
  | { readonly kind: 'secure' }
  /** SCRAM: gives our response to this challenge, and what the server must say to prove that it knows the password. */
  | { readonly kind: 'prove'; readonly first: string; readonly challenge: string }
  /** The message goes out, and its final dot. Code 0: not in full. */
  | { readonly kind: 'content' };

export type Dialogue<T> = Generator<Want, T, ServerReply>;

export type Login = { readonly user: string; readonly password: string };
export type Terms = {
  /** What we call ourselves. */
  readonly hostname: string;
  /** Whether the server speaks LMTP and not SMTP: then it keeps mailboxes of ours. */
  readonly isLmtp?: boolean;
  /** Whether there is TLS already, because it is implicit. */
  readonly isSecure: boolean;
  readonly startTls: 'never' | 'offered' | 'required';
  readonly credentials?: (Login & { readonly nonce: string }) | undefined;
};
/** Why there is no session. `tls`: the host has no TLS that we can use. `loop`: the host is ourselves. */
export type Refusal = { readonly because: 'host' | 'tls' | 'login' | 'loop'; readonly delivery: Delivery };

export const send = (line: string): Want => {
  if (/\p{Cc}/u.test(line)) throw new Error('a control character in a command'); // our own parser lets none in
  return { kind: 'send', text: `${line}\r\n` };
};
export const hear = (wait: 'command' | 'data' | 'end' = 'command'): Want => ({ kind: 'reply', wait });
export function* ask(line: string): Dialogue<ServerReply> {
  yield send(line);
  return yield hear();
}
const refuse = (because: Refusal['because'], delivery: Delivery): Refusal => ({ because, delivery });

/** Opens a session, up to where MAIL may come: greeting, EHLO, TLS, login. */
export function* open(terms: Terms): Dialogue<Offers | Refusal> {
  const { hostname, isLmtp = false, startTls, credentials } = terms;
  let { isSecure } = terms;
  const greeting = yield hear();
  if (greeting.code !== 220) return refuse('host', toDelivery(greeting, false));
  // An LMTP server beside us may have the name of this host, and mail does not come back from there.
  if (!isLmtp && greeting.lines[0]?.split(' ', 1)[0]?.toLowerCase() === hostname.toLowerCase())
    return refuse('loop', failed('5.4.6', `the server has our own name: ${hostname}`));
  let offers = yield* hello(hostname, isLmtp);
  if (!isSecure && startTls !== 'never' && offers instanceof Map && offers.has('STARTTLS')) {
    const reply = yield* ask('STARTTLS');
    if (isLast(reply)) return refuse('host', toDelivery(reply));
    isSecure = reply.code === 220;
    const { code, lines, status } = isSecure ? yield { kind: 'secure' } : reply;
    if (code === 0) return refuse(status ? 'host' : 'tls', deferred(status ?? '4.7.4', lines.join(' ')));
    if (isSecure) offers = yield* hello(hostname, isLmtp); // what was said in clear counts no more
  }
  if (!(offers instanceof Map)) return offers;
  if (!isSecure && startTls === 'required') return refuse('tls', deferred('4.7.4', 'the server does not offer TLS'));
  if (credentials === undefined) return offers;
  const login = isSecure ? yield* logIn(offers, credentials) : none('4.7.8', 'a login needs TLS');
  if (login.code === 235) return offers;
  // Never a bounce: what is wrong is in our settings, or at the relay, and not in the message.
  const { kind, status, text, isBusy } = toDelivery(login, false);
  const delivery = deferred(kind === 'failed' ? '4.7.8' : status, text);
  // 432 in reply to AUTH is about the password (RFC 4954 §6), and not about the number of our sessions.
  return login.code === 421 && isBusy ? refuse('host', { ...delivery, isBusy }) : refuse('login', delivery);
}

function* hello(hostname: string, isLmtp: boolean): Dialogue<Offers | Refusal> {
  const extended = yield* ask(`${isLmtp ? 'LHLO' : 'EHLO'} ${hostname}`);
  const reply = extended.code >= 500 && !isLmtp ? yield* ask(`HELO ${hostname}`) : extended;
  if (reply.code !== 250) return refuse('host', toDelivery(reply, false));
  const offers: Offers = new Map();
  for (const line of reply === extended ? reply.lines.slice(1) : []) {
    // `AUTH=` is from before RFC 4954. Servers that say both, or several lines, offer what all of them say.
    const [, name = '', parameter = ''] = /^([\w-]+)(?:[ =](.*))?$/.exec(line.trimEnd()) ?? [];
    const keyword = name.toUpperCase();
    const isList = keyword === 'AUTH' || keyword === 'LIMITS';
    const known = isList ? offers.get(keyword) : undefined;
    offers.set(keyword, known ? `${known} ${parameter}` : parameter);
  }
  // Its 250 is the delivery, of which we tell the sender ourselves.
  if (isLmtp) offers.delete('DSN');
  return offers;
}

/** Logs in. The result is 235, or what the server has said in its place. */
function* logIn(offers: Offers, credentials: NonNullable<Terms['credentials']>): Dialogue<ServerReply> {
  const offered = (offers.get('AUTH') ?? '').toUpperCase().split(' ');
  const isPlain = offered.includes('PLAIN');
  const isLogin = offered.includes('LOGIN');
  if (offered.includes('SCRAM-SHA-256')) {
    const reply = yield* logInByScram(credentials);
    // There are servers that offer it, and have no verifier for this user. Over the same TLS, PLAIN is good enough.
    if (reply.code < 500 || !(isPlain || isLogin)) return reply;
  }
  const { user, password } = credentials;
  if (isPlain) return yield* ask(`AUTH PLAIN ${base64(`\0${user}\0${password}`)}`);
  if (!isLogin) return none('4.7.8', 'the server offers no login by SCRAM-SHA-256, PLAIN or LOGIN');
  let reply = yield* ask('AUTH LOGIN');
  for (const answer of [user, password]) if (reply.code === 334) reply = yield* ask(base64(answer));
  return reply;
}

function* logInByScram({ user, nonce }: NonNullable<Terms['credentials']>): Dialogue<ServerReply> {
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

const base64 = (text: string): string => Buffer.from(text).toString('base64');
