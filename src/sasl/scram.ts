// The arithmetic of SCRAM-SHA-256, for logins here and for our own login at a relay. RFC 5802, RFC 7677.
// Promises: a verifier is PostgreSQL's own text, so its tables and tools can be shared; comparisons take constant time;
// PBKDF2 runs in the thread pool. Never sees a socket, and keeps nothing. Of SASLprep (RFC 4013) it does what matters
// in passwords that people type: NFKC, and one kind of space. A password that is not UTF-8 is taken octet for octet, as
// PostgreSQL does.
import { isUtf8 } from 'node:buffer';
import { createHmac, hash, pbkdf2, timingSafeEqual } from 'node:crypto';
import { promisify } from 'node:util';

/** What a server keeps of a password. */
export type Verifier = Readonly<{ iterations: number; salt: Buffer; storedKey: Buffer; serverKey: Buffer }>;

const derive = promisify(pbkdf2);
const hmac = (key: Buffer, text: string): Buffer => createHmac('sha256', key).update(text).digest();
const sha256 = (octets: Buffer): Buffer => hash('sha256', octets, 'buffer');
/** Iterations: RFC 7677 §4 wants this many at least. */
const fewestIterations = 4096;
/** Iterations for about a second of one core. More are a mistake in a verifier, or a relay that wants our time. */
const mostIterations = 5_000_000;

/** `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`; undefined when the text is none. */
export function parseVerifier(text: string): Verifier | undefined {
  const [, count, ...fields] =
    /^SCRAM-SHA-256\$([1-9]\d{0,6}):([A-Za-z0-9+/]+=*)\$([A-Za-z0-9+/]{43}=):([A-Za-z0-9+/]{43}=)$/.exec(text) ?? [];
  const [salt, storedKey, serverKey] = fields.map(field => Buffer.from(field, 'base64'));
  const iterations = Number(count);
  if (!salt?.length || !storedKey || !serverKey || iterations > mostIterations) return undefined;
  return { iterations, salt, storedKey, serverKey };
}

export function formatVerifier({ iterations, salt, storedKey, serverKey }: Verifier): string {
  const [s, stored, server] = [salt, storedKey, serverKey].map(octets => octets.toString('base64'));
  return `SCRAM-SHA-256$${iterations}:${s}$${stored}:${server}`;
}

/** What the verifiers look like that we make, and that PostgreSQL makes. */
export const usualShape = { iterations: fewestIterations, saltBytes: 16 };

/** A new verifier. `random` gives the salt. */
export async function makeVerifier(
  password: string | Buffer,
  random: { hex(octets: number): string },
): Promise<Verifier> {
  const { iterations, saltBytes } = usualShape;
  const salt = Buffer.from(random.hex(saltBytes), 'hex');
  const { clientKey, serverKey } = await keys(password, salt, iterations);
  return { iterations, salt, storedKey: sha256(clientKey), serverKey };
}

export async function checkPassword(verifier: Verifier, password: string | Buffer): Promise<boolean> {
  const { clientKey } = await keys(password, verifier.salt, verifier.iterations);
  return timingSafeEqual(sha256(clientKey), verifier.storedKey);
}

/** Whether a client's proof shows that it knows the password. */
export function checkProof({ storedKey }: Verifier, authMessage: string, proof: Buffer): boolean {
  return timingSafeEqual(sha256(xor(proof, hmac(storedKey, authMessage))), storedKey);
}

/** The server's last message, which shows the client that the server knows its verifier. */
export function serverFinal({ serverKey }: Pick<Verifier, 'serverKey'>, authMessage: string): string {
  return `v=${hmac(serverKey, authMessage).toString('base64')}`;
}

/**
 * The client's first message without its GS2 header, which on the wire stands in front of it. `nonce` is fresh, and
 * without commas.
 */
export function clientFirst(name: string, nonce: string): string {
  return `n=${prepare(name).toString().replaceAll('=', '=3D').replaceAll(',', '=2C')},r=${nonce}`;
}

/**
 * The client's answer to the server's challenge, and what the server must say to it: a server that says anything else
 * has not proved itself, whatever its reply code is. `first` is the result of clientFirst. `channel` is the GS2 header,
 * with the data of a channel binding. Undefined: the challenge is malformed, is not for us, or asks for too little or
 * too much work.
 */
export async function clientFinal(
  password: string | Buffer,
  first: string,
  challenge: string,
  channel: Buffer = Buffer.from('n,,'),
): Promise<{ readonly response: string; readonly expected: string } | undefined> {
  const [, nonce = '', salt = '', count] =
    /^r=([!-+\--~]+),s=([A-Za-z0-9+/]+=*),i=(\d{1,7})(?:,|$)/.exec(challenge) ?? [];
  const own = first.slice(first.lastIndexOf(',r=') + 3);
  const iterations = Number(count);
  const isOurs = nonce.startsWith(own) && nonce.length > own.length;
  if (!isOurs || iterations < fewestIterations || iterations > mostIterations) return undefined;
  const { clientKey, serverKey } = await keys(password, Buffer.from(salt, 'base64'), iterations);
  const unproven = `c=${channel.toString('base64')},r=${nonce}`;
  const authMessage = `${first},${challenge},${unproven}`;
  const proof = xor(clientKey, hmac(sha256(clientKey), authMessage)).toString('base64');
  return { response: `${unproven},p=${proof}`, expected: serverFinal({ serverKey }, authMessage) };
}

async function keys(password: string | Buffer, salt: Buffer, iterations: number) {
  const salted = await derive(prepare(password), salt, iterations, 32, 'sha256');
  return { clientKey: hmac(salted, 'Client Key'), serverKey: hmac(salted, 'Server Key') };
}

function prepare(text: string | Buffer): Buffer {
  const octets = Buffer.from(text);
  const typed = octets.toString().replace(/\p{Zs}/gu, ' ');
  return isUtf8(octets) ? Buffer.from(typed.normalize('NFKC')) : octets;
}

const xor = (a: Buffer, b: Buffer): Buffer => Buffer.from(a.map((octet, i) => octet ^ (b[i] ?? 0)));
