// The server's certificate: the configured pair, watched by content, or a self-signed one, made once and kept.
// Promises that a good new pair serves the next handshake without touching sessions, and that a pair that is missing,
// broken or does not fit never takes the place of one that works: it is logged, once, and looked at again. Never in this
// file: which socket needs TLS. RFC 8446, RFC 5246 and RFC 9325 §4 (forward secrecy, AEAD), RFC 5280.
import { KeyObject, X509Certificate, createPrivateKey, webcrypto } from 'node:crypto';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createSecureContext } from 'node:tls';
import type { SecureContext } from 'node:tls';
import type { Log } from '../mail.ts';
import type { Clock, Random } from '../system.ts';

/** Certificate (with its chain behind it) and private key, PEM. */
export type Pair = { readonly cert: string; readonly key: string };

type CertificateName = { readonly hostname: string; readonly clock: Clock; readonly random: Random };

export type CertificateOptions = CertificateName & {
  /** Reads the configured pair (files, steward or settings) and rejects when it is not there; undefined: none is set. */
  readonly readPair: (() => Promise<Pair>) | undefined;
  /** Where the self-signed pair is kept; made when missing. */
  readonly folder: string;
  readonly minVersion: 'TLSv1.2' | 'TLSv1.3';
  readonly log: Log;
};

const [minuteMs, dayMs, yearMs] = [60_000, 86_400_000, 31_557_600_000] as const;

// Forward-secret AEAD alone. No finite-field DHE: every TLS 1.2 sender with AEAD has ECDHE, and DHE invites D(HE)at.
const ciphers = [
  'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-CHACHA20-POLY1305',
].join(':');

/** The pair in use. One context serves all sockets: `new TLSSocket(socket, {isServer: true, secureContext})`. */
export class Certificates {
  readonly #options: CertificateOptions;
  #timer: NodeJS.Timeout | undefined;
  #context: SecureContext | undefined;
  #leaf: X509Certificate | undefined;
  #seen: string | undefined;
  #validity = 'valid';
  #checking: Promise<void> | undefined;

  /** Loads the configured pair or makes do with a self-signed one. Rejects only when that can neither be read nor kept. */
  static async open(options: CertificateOptions): Promise<Certificates> {
    const certificates = new Certificates(options);
    await certificates.check();
    if (certificates.#context === undefined) {
      certificates.#take(await selfSigned(options));
      options.log.warn({ folder: options.folder }, 'serving a self-signed certificate, which clients will not trust');
    }
    certificates.#timer = setInterval(() => void certificates.check(), minuteMs).unref();
    return certificates;
  }

  private constructor(options: CertificateOptions) {
    this.#options = options;
  }

  /** What the next handshake uses. */
  get secureContext(): SecureContext {
    if (this.#context === undefined) throw new Error('no certificate was loaded');
    return this.#context;
  }

  /** Looks whether there is a new pair: every minute, and on SIGHUP. Never rejects. */
  check(): Promise<void> {
    this.#checking ??= this.#check().finally(() => (this.#checking = undefined));
    return this.#checking;
  }

  close(): void {
    clearInterval(this.#timer);
  }

  async #check(): Promise<void> {
    const { readPair, log } = this.#options;
    let content = '';
    try {
      const pair = await readPair?.();
      content = pair ? `${pair.cert}\n${pair.key}` : '';
      if (pair && content !== this.#seen) this.#take(pair);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      content ||= reason;
      const fields = { reason, served: this.#leaf?.fingerprint256 };
      if (content !== this.#seen) log.warn(fields, 'the configured certificate cannot be used; it is looked at again');
    }
    this.#seen = content;
    this.#warnOfDates();
  }

  /** Checks everything before it changes anything. Throws on a pair that is no good. */
  #take(pair: Pair): void {
    const leaf = new X509Certificate(pair.cert);
    if (!leaf.checkPrivateKey(createPrivateKey(pair.key)))
      throw new Error('the key is not the key of the first certificate');
    const { minVersion, log } = this.#options;
    this.#context = createSecureContext({ ...pair, ciphers, honorCipherOrder: true, minVersion });
    this.#leaf = leaf;
    const { subjectAltName: names, validTo: until, fingerprint256: fingerprint } = leaf;
    log.info({ names, until, fingerprint }, 'certificate taken up');
    this.#warnOfDates();
  }

  #warnOfDates(): void {
    if (this.#leaf === undefined) return;
    const { validFrom: from, validTo: until } = this.#leaf;
    const validity = validityOf(this.#leaf, this.#options.clock.now());
    if (validity !== this.#validity && validity !== 'valid')
      this.#options.log.warn({ from, until }, `the certificate is ${validity}`);
    this.#validity = validity;
  }
}

function validityOf(leaf: X509Certificate, now: number): 'valid' | 'expired' | 'not valid yet' {
  if (now > leaf.validToDate.getTime()) return 'expired';
  return now < leaf.validFromDate.getTime() ? 'not valid yet' : 'valid';
}

/** The pair kept in `folder`, or a new one where there is none that is valid for this name. */
async function selfSigned(options: CertificateOptions): Promise<Pair> {
  // Certificate and key in one file: one rename replaces both, and no crash leaves halves that do not fit.
  const path = join(options.folder, 'self-signed.pem');
  try {
    const pem = await readFile(path, 'utf8');
    const leaf = new X509Certificate(pem);
    const isOurs = leaf.checkPrivateKey(createPrivateKey(pem)) && leaf.checkHost(options.hostname) !== undefined;
    if (isOurs && validityOf(leaf, options.clock.now()) === 'valid') return { cert: pem, key: pem };
  } catch {
    // missing or damaged: make a new one
  }
  const { cert, key } = await createCertificate(options);
  await mkdir(options.folder, { recursive: true, mode: 0o700 });
  await writeFile(`${path}.new`, `${cert}\n${key}`, { mode: 0o600, flush: true });
  await rename(`${path}.new`, path);
  return { cert, key };
}

/** A new self-signed ECDSA P-256 certificate for one name, valid for ten years. */
export async function createCertificate(options: CertificateName): Promise<Pair> {
  // tsyringe, inside @peculiar/x509, refuses to load where these are missing, and asks them only which classes have
  // metadata. None has: a polyfill (1,800 lines) would give the same answers.
  for (const name of ['getMetadata', 'getOwnMetadata', 'defineMetadata'])
    if (!Reflect.has(Reflect, name)) Reflect.set(Reflect, name, () => undefined);
  const x509 = await import('@peculiar/x509');
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const { hostname } = options;
  const now = options.clock.now();
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: `1${options.random.hex(8)}0`,
    name: [{ CN: [hostname.length <= 64 ? hostname : 'SlimSMTP'] }], // 64 is RFC 5280's bound of a common name
    notBefore: new Date(now - dayMs), // clients' clocks differ
    notAfter: new Date(now + 10 * yearMs),
    signingAlgorithm: algorithm,
    keys,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.SubjectAlternativeNameExtension([{ type: 'dns', value: hostname }]),
    ],
  });
  const key = KeyObject.from(keys.privateKey).export({ type: 'pkcs8', format: 'pem' });
  return { cert: certificate.toString('pem'), key: key.toString() };
}
