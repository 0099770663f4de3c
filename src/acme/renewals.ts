// The certificate from an authority (ACME, RFC 8555): when a new one is asked for, and where it is kept: `key.pem`,
// `cert.pem`, `account.pem`, `attempts.json` and `trouble.json` in SLIM_DATA/acme.
// Promises: the key stays, so that TLSA records stay right; a new certificate is asked for at two thirds of the old
// one's time, or where the names have changed, three times an hour at most, and not before the time that the authority
// has named, also over restarts; what goes wrong is logged, and the old certificate (or the self-signed one) serves on.
import { KeyObject, X509Certificate, createPrivateKey, webcrypto } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { replaceFile } from '../durable/replace.ts';
import type { Log } from '../system/log.ts';
import type { Clock, Random } from '../system/world.ts';
import { type ChallengeSocket, Challenges } from './challenges.ts';
import { order, probe } from './order.ts';
import { forgetTrouble, keepTrouble, readTrouble } from './trouble.ts';

export type RenewalOptions = Readonly<{
  directoryUrl: string;
  email: string;
  names: readonly string[];
  socket: ChallengeSocket;
  /** SLIM_DATA/acme, which exists. */
  folder: string;
  /** The file of the self-signed pair: its key is taken, so that a TLSA record for it stays right. */
  selfSigned: string;
  /** Called when there is a new certificate. */
  onNew: () => void;
  clock: Clock;
  random: Random;
  log: Log;
  /** How often is looked. */
  lookMs?: number;
  /** What asks the authority; tests replace it. */
  ask?: typeof order;
}>;

const [hourMs, maxAttempts] = [3_600_000, 3];

export class Renewals {
  readonly #options: RenewalOptions;
  #challenges: Challenges | undefined;
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor(options: RenewalOptions) {
    this.#options = options;
  }

  /** Never rejects: without the socket there is a line in the log, and the certificate of before. */
  async start(): Promise<void> {
    const { socket, log } = this.#options;
    try {
      this.#challenges = await Challenges.open(socket);
      void this.#look();
    } catch (error) {
      log.error(
        { port: socket.port, error: String(error) },
        'no certificate can be asked for: SLIM_ACME_HTTP cannot be had',
      );
    }
  }

  stop(): void {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    this.#challenges?.close();
  }

  async #look(): Promise<void> {
    const { lookMs = 30_000, names, clock } = this.#options;
    if (isDue(read(this.#file('cert.pem')), names, clock.now()) && this.#mayAsk())
      await this.#renew().catch((cause: unknown) => this.#fail(cause));
    if (!this.#isClosed) this.#timer = setTimeout(() => void this.#look(), lookMs).unref();
  }

  async #renew(): Promise<void> {
    const { directoryUrl, email, names, random, onNew, log, ask = order } = this.#options;
    const challenges = this.#challenges;
    if (challenges === undefined) return;
    const attempts = [...this.#attempts(), this.#options.clock.now()].slice(-maxAttempts);
    await replaceFile(this.#file('attempts.json'), JSON.stringify(attempts));
    for (const name of names) {
      const reason = await probe(name, random.hex(16), challenges);
      const fields = { name, reason };
      if (reason)
        log.warn(fields, 'a name does not lead to port 80 of this server: the authority may not find it either');
    }
    const [accountKey, key] = [await this.#key('account.pem'), await this.#key('key.pem', this.#options.selfSigned)];
    log.info({ names, directoryUrl }, 'a certificate is asked for');
    const chain = await ask({ directoryUrl, email, names, accountKey, key }, challenges);
    const leaf = new X509Certificate(chain);
    if (!leaf.checkPrivateKey(createPrivateKey(key))) throw new Error('the certificate is for another key');
    await replaceFile(this.#file('cert.pem'), chain);
    forgetTrouble(this.#options.folder);
    log.info({ names: leaf.subjectAltName, until: leaf.validTo }, 'a new certificate has come');
    onNew();
  }

  /** Never rejects: where the disk is full, too, it is tried again. */
  async #fail(cause: unknown): Promise<void> {
    const { folder, clock, log } = this.#options;
    const trouble = await keepTrouble(folder, this.#options, cause, clock.now()).catch(() => undefined);
    const until = trouble?.until && new Date(trouble.until).toISOString();
    log.error(
      { error: String(cause), ...(until && { until }) },
      'no certificate came from the authority: the one that there is serves on',
    );
  }

  #file(name: string): string {
    return join(this.#options.folder, name);
  }

  #attempts(): readonly number[] {
    try {
      return (JSON.parse(read(this.#file('attempts.json')) ?? '[]') as unknown[]).filter(
        each => typeof each === 'number',
      );
    } catch {
      return []; // damaged: counted anew
    }
  }

  #mayAsk(): boolean {
    const { folder, clock } = this.#options;
    const now = clock.now();
    if (readTrouble(folder, this.#options, now)?.until !== undefined) return false;
    const since = now - hourMs;
    return this.#attempts().filter(at => at > since).length < maxAttempts;
  }

  /** The key in that file; where there is none it is that of `from`, or a new one, and kept. */
  async #key(name: string, from?: string): Promise<string> {
    const kept = read(this.#file(name));
    if (kept !== undefined) return kept;
    const other = from === undefined ? undefined : read(from);
    const made = other === undefined ? await newKey() : createPrivateKey(other);
    const pem = made.export({ type: 'pkcs8', format: 'pem' }).toString();
    await replaceFile(this.#file(name), pem);
    return pem;
  }
}

async function newKey(): Promise<KeyObject> {
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256' };
  return KeyObject.from((await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])).privateKey);
}

const read = (path: string): string | undefined => (existsSync(path) ? readFileSync(path, 'utf8') : undefined);

/** Whether a new certificate is needed now. `now`: in ms since 1970. */
export function isDue(pem: string | undefined, names: readonly string[], now: number): boolean {
  if (pem === undefined) return true;
  const leaf = new X509Certificate(pem);
  const from = leaf.validFromDate.getTime();
  const twoThirds = ((leaf.validToDate.getTime() - from) * 2) / 3;
  return now >= from + twoThirds || !names.every(name => leaf.checkHost(name) !== undefined);
}

/** The pair that the authority has certified, as far as there is one. */
export function readCertified(folder: string): { cert: string; key: string } | undefined {
  const [cert, key] = ['cert.pem', 'key.pem'].map(name => read(join(folder, name)));
  return cert === undefined || key === undefined ? undefined : { cert, key };
}
