// The server's certificate: the configured pair, watched by content, or a self-signed one, made once and kept. Promises
// that a good new pair serves the next handshake without touching sessions, and that a pair that is missing, broken or
// does not fit never takes the place of one that works: it is logged, once, and looked at again. Never in this file:
// which socket needs TLS. RFC 8446, RFC 5246 and RFC 9325 §4 (forward secrecy, AEAD), RFC 5280; RFC 7435 for smtp
// sockets.
import { constants, KeyObject, X509Certificate, createPrivateKey, webcrypto } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type SecureContext, createSecureContext } from 'node:tls';
import { inOrder, withLineEnds } from './pem.ts';
import { replaceFile } from '../durable/replace.ts';
import { reasonOf } from '../system/reason.ts';
import type { World } from '../system/world.ts';

/** Certificate (with its chain behind it) and private key, PEM. */
export type Pair = { readonly cert: string; readonly key: string };

type Subject = Pick<World, 'clock' | 'random'> & { readonly hostname: string };
type CertificateOptions = World & {
  readonly hostname: string;
  /**
   * Reads the configured pair (files, steward or settings) and rejects when it is not there; undefined: none is set.
   */
  readonly readPair: (() => Promise<Pair | undefined>) | undefined;
  /** Whether the key of that pair is one that we have made, and keep. */
  readonly isOurs?: boolean;
  readonly folder: string; // where the self-signed pair is kept; it must exist
  readonly minVersion: 'TLSv1.2' | 'TLSv1.3';
};

const dayMs = 86_400_000;
// Forward secrecy always. No finite-field DHE: every TLS 1.2 sender with AEAD has ECDHE, and DHE invites D(HE)at. For
// TLS 1.3 OpenSSL has a list of its own.
const aead = 'ECDHE+AESGCM:ECDHE+CHACHA20';
/**
 * Where old mail servers come (Exchange on Windows Server 2012 R2, scanners), the alternative to CBC is often plain
 * text.
 */
const aeadAndCbc = `${aead}:ECDHE+AES+SHA384:ECDHE+AES+SHA256:ECDHE+AES+SHA1`;

/** The kinds of sockets: mail from other servers comes to `smtp`. */
type SocketKind = 'smtp' | 'submission' | 'submissions';
type Contexts = Readonly<Record<SocketKind, SecureContext>>;

/**
 * What other servers are shown: PEM, the server's own certificate first. `isOurs`: we have made the key, and keep it.
 */
export type InUse = { readonly cert: string; readonly isOurs: boolean };

/**
 * The pair in use. One context serves all sockets of a kind: `new TLSSocket(socket, {isServer: true, secureContext})`.
 */
export class Certificates {
  readonly #options: CertificateOptions;
  #contexts: Contexts | undefined;
  #seen = ''; // what was read last: each content is judged once
  #endsAt = Infinity; // when the pair in use expires, until that was told
  #inUse: InUse = { cert: '', isOurs: true };
  /** When the certificate in use expires, in ms since 1970. */
  expiresAt = 0;

  /**
   * Loads the configured pair or makes do with a self-signed one. Rejects only when that can neither be read nor kept.
   */
  static async open(options: CertificateOptions): Promise<Certificates> {
    const certificates = new Certificates(options);
    await certificates.check();
    if (certificates.#contexts) return certificates;
    certificates.#take(await selfSigned(options), true);
    options.log.warn({ folder: options.folder }, 'serving a self-signed certificate, which clients will not trust');
    return certificates;
  }

  private constructor(options: CertificateOptions) {
    this.#options = options;
    setInterval(() => void this.check(), 60_000).unref();
  }

  get inUse(): InUse {
    return this.#inUse;
  }

  /** What the next handshake on a socket of that kind uses. */
  contextFor(kind: SocketKind): SecureContext {
    return this.#contexts?.[kind] ?? createSecureContext(); // never that empty one: open() has loaded a pair
  }

  /** Looks whether there is a new pair: every minute, and on SIGHUP. Never rejects. */
  async check(): Promise<void> {
    const { readPair, isOurs, log } = this.#options;
    const seen = this.#seen;
    try {
      const pair = await readPair?.();
      if (pair) this.#seen = `${pair.cert}\n${pair.key}`;
      if (pair && this.#seen !== seen) this.#take(pair, isOurs);
    } catch (error) {
      const reason = reasonOf(error);
      if (this.#seen === seen) this.#seen = reason; // it could not be read at all
      if (this.#seen !== seen) log.warn({ reason }, 'the configured certificate cannot be used; it is looked at again');
    }
    if (this.#options.clock.now() < this.#endsAt) return;
    this.#endsAt = Infinity;
    log.warn({}, 'the certificate has expired: it is served on, but who verifies it turns away; please renew it');
  }

  /** Checks everything before it changes anything. Throws on a pair that is no good. */
  #take(pair: Pair, isOurs = false): void {
    const { minVersion, log } = this.#options;
    const key = withLineEnds(pair.key);
    // createSecureContext compares key and certificate only where both are of one type, such as RSA.
    const { leaf, pem: cert, isReordered } = inOrder(withLineEnds(pair.cert), createPrivateKey(key));
    // Nobody needs renegotiation (TLS 1.2), and it makes us compute at a client's word.
    const secureOptions = constants.SSL_OP_NO_RENEGOTIATION;
    const common = { cert, key, honorCipherOrder: true, minVersion, secureOptions };
    const submission = createSecureContext({ ...common, ciphers: aead });
    const smtp = createSecureContext({ ...common, ciphers: aeadAndCbc });
    this.#contexts = { smtp, submission, submissions: submission };
    this.#inUse = { cert, isOurs };
    if (isReordered)
      log.info({ leaf: leaf.subject }, 'the certificates were in another order: the one of the key comes first');
    this.#endsAt = leaf.validToDate.getTime();
    this.expiresAt = this.#endsAt;
    log.info({ names: leaf.subjectAltName, from: leaf.validFrom, until: leaf.validTo }, 'certificate taken up');
  }
}

/** The pair kept in `folder`, or a new one where there is none that is valid for this name. */
async function selfSigned(options: CertificateOptions): Promise<Pair> {
  // Certificate and key in one file: one rename replaces both, and no crash leaves halves that do not fit.
  const path = join(options.folder, 'self-signed.pem');
  try {
    const pem = await readFile(path, 'utf8');
    const leaf = new X509Certificate(pem);
    const isValid = leaf.checkPrivateKey(createPrivateKey(pem)) && leaf.validToDate.getTime() > options.clock.now();
    if (isValid && leaf.checkHost(options.hostname)) return { cert: pem, key: pem };
  } catch {} // missing or damaged: make a new one
  const pair = await createCertificate(options);
  await replaceFile(path, `${pair.cert}\n${pair.key}`);
  return pair;
}

/** A new self-signed ECDSA P-256 certificate for one name, valid for ten years. */
export async function createCertificate({ hostname, clock, random }: Subject): Promise<Pair> {
  // tsyringe, inside @peculiar/x509, refuses to load where these are missing, and asks them only which classes have
  // metadata. None has: a polyfill (1,800 lines) would give the same answers.
  const missing = ['getMetadata', 'getOwnMetadata', 'defineMetadata'].filter(name => !Reflect.has(Reflect, name));
  for (const name of missing) Reflect.set(Reflect, name, () => undefined);
  const found = await import('@peculiar/x509');
  // In the split bundle, a package of CommonJS has its names in `default` alone.
  const x509 = ('default' in found ? found.default : found) as typeof found;
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: `1${random.hex(8)}0`,
    name: [{ CN: [hostname.length <= 64 ? hostname : 'SlimSMTP'] }], // 64 is RFC 5280's bound of a common name
    notBefore: new Date(clock.now() - dayMs), // clients' clocks differ
    notAfter: new Date(clock.now() + 3652 * dayMs),
    signingAlgorithm: algorithm,
    keys,
    extensions: [new x509.SubjectAlternativeNameExtension([{ type: 'dns', value: hostname }])],
  });
  const key = KeyObject.from(keys.privateKey).export({ type: 'pkcs8', format: 'pem' });
  // acme-client brings that polyfill, which wants to find all of it or nothing.
  for (const name of missing) Reflect.deleteProperty(Reflect, name);
  return { cert: certificate.toString('pem'), key: key.toString() };
}
