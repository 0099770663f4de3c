// The SASL mechanisms as dialogues: responses in, challenges out, and in the end a login or a refusal. Who may log in
// is for the server behind them to say (Context); here stands only what goes over the wire.
// Promises: a malformed response is 501; any other failure is the same 535, and SCRAM comes to it for unknown names as
// for known ones. Before a password or a proof is judged, the server admits the guess, or does not. Never compares a
// password.
// RFC 4954 (AUTH), 4616 (PLAIN), 5802 and 7677 (SCRAM), 5929 and 9266 (channel bindings).
import { isUtf8 } from 'node:buffer';
import type { Login } from '../mail/ports.ts';
import { type Verifier, checkProof, serverFinal } from './scram.ts';
import { type Reply, replies } from '../smtp/reply.ts';

/** Yields challenges, takes responses, returns how it ended. May throw CannotTell. */
export type Dialogue = AsyncGenerator<string, Login | Reply, Buffer>;
/** For a name that nobody has: a made-up verifier, the same work for its password, and no login. */
type Who = Readonly<{ login: Login | undefined; verifier: Verifier; isRight(password: Buffer): Promise<boolean> }>;
/** What a mechanism asks of the server, for one exchange with one client. */
export type Context = {
  /** Who a client says it is, or why nobody of that name may try. */
  identify(text: string): Promise<Who | Reply>;
  /** Called before a guess is judged; a reply says that it is not to be. */
  admitGuess(): Promise<Reply | undefined>;
  /** What we add to a client's nonce. */
  nonce(): string;
  /** The data of a channel binding. */
  binding(type: string): Buffer | undefined;
  /** Whether the client was offered SCRAM-SHA-256-PLUS. */
  readonly offersPlus: boolean;
};

/** All mechanisms, the best first. */
export const mechanisms = ['SCRAM-SHA-256-PLUS', 'SCRAM-SHA-256', 'PLAIN', 'LOGIN'];
const firstMessage = /^((n|y|p=([A-Za-z0-9.-]+)),(?:a=([^,]*))?,)(n=([^,]*),r=([!-+\--~]+)(?:,.*)?)$/s;
const finalMessage = /^(c=([A-Za-z0-9+/=]+),r=([!-+\--~]+)(?:,.*)?),p=([A-Za-z0-9+/=]+)$/s;

/** `initial`: the response that came with AUTH. */
export function open(mechanism: string, initial: Buffer | undefined, context: Context): Dialogue {
  if (mechanism === 'PLAIN') return plain(initial, context);
  return mechanism === 'LOGIN' ? login(initial, context) : scram(mechanism.endsWith('-PLUS'), initial, context);
}

async function* plain(initial: Buffer | undefined, context: Context): Dialogue {
  const octets = initial ?? (yield '');
  const first = octets.indexOf(0);
  const last = octets.lastIndexOf(0);
  const text = octets.toString('utf8', first + 1, last);
  if (last <= first || text.includes('\0') || !isUtf8(octets.subarray(0, last))) return replies.badResponse;
  const authzid = octets.toString('utf8', 0, first);
  // Nobody may act for another user.
  if (authzid !== '' && authzid !== text) return replies.loginFailed;
  return verify(text, octets.subarray(last + 1), context);
}

async function* login(initial: Buffer | undefined, context: Context): Dialogue {
  const text = initial ?? (yield 'Username:');
  const password = yield 'Password:';
  return isUtf8(text) ? verify(text.toString(), password, context) : replies.badResponse;
}

async function verify(text: string, password: Buffer, context: Context): Promise<Login | Reply> {
  const who = await context.identify(text);
  if ('code' in who) return who;
  const refusal = await context.admitGuess();
  if (refusal) return refusal;
  return ((await who.isRight(password)) && who.login) || replies.loginFailed;
}

async function* scram(isPlus: boolean, initial: Buffer | undefined, context: Context): Dialogue {
  const octets = initial ?? (yield '');
  const first = isUtf8(octets) && firstMessage.exec(octets.toString());
  if (!first) return replies.badResponse;
  const [, header = '', flag, type, authzid = '', bare, name = '', clientNonce] = first;
  if (/=(?!2C|3D)/.test(name + authzid)) return replies.badResponse;
  const bound = type === undefined ? Buffer.alloc(0) : context.binding(type);
  // 'y' says that we offer no -PLUS: where we do, someone on the way has taken it off our list (RFC 5802 §6).
  if (!bound || isPlus !== (type !== undefined) || (flag === 'y' && context.offersPlus)) return replies.loginFailed;
  if (authzid !== '' && authzid !== name) return replies.loginFailed;
  const who = await context.identify(name.replaceAll('=2C', ',').replaceAll('=3D', '='));
  if ('code' in who) return who;

  const { salt, iterations } = who.verifier;
  const nonce = `${clientNonce}${context.nonce()}`;
  const challenge = `r=${nonce},s=${salt.toString('base64')},i=${iterations}`;
  const final = finalMessage.exec((yield challenge).toString());
  if (!final) return replies.badResponse;
  const [, unproven, channel, answered, proof = ''] = final;
  const authMessage = `${bare},${challenge},${unproven}`;
  const isBound = channel === Buffer.concat([Buffer.from(header), bound]).toString('base64') && answered === nonce;
  const refusal = await context.admitGuess();
  if (refusal) return refusal;
  const isRight = checkProof(who.verifier, authMessage, Buffer.from(proof, 'base64'));
  if (!isRight || !isBound || !who.login) return replies.loginFailed;
  const end = yield serverFinal(who.verifier, authMessage);
  return end.length === 0 ? who.login : replies.badResponse;
}
