// The keys that sign: made, kept in `SLIM_DATA/dkim/<domain>/`, rotated. `<selector>.pem` is a private key, `keys.json`
// says in which state each is.
// Promises:
// - A domain has a key of each algorithm from its first mail on, and that one signs at once.
// - A later key signs only once its record was seen in DNS. DNS that is silent changes nothing.
// - A key that is to sign and cannot be read is CannotTell (4.7.5): mail waits, and never leaves unsigned for that.
// - A folder that is only read (SLIM_DKIM_KEYS, of replicas or read-only) is never written: there the operator makes
//   the keys, one of the algorithms is enough, and what keys.json says of their states stays.
//
// A key is in one of four states, in this order:
//   new        made; its record has not been seen. The first of its algorithm signs all the same: nothing else could.
//   published  its record was seen, by one look.
//   active     its record was seen by a second look, minutes later: by then all name servers have it. It signs.
//   retired    another one has become active. Its record has to stay for some days, for mail that is still on its way.
// `look` moves a key on, never back. A PEM file that keys.json does not know (copied there by an operator, or left by a
// crash between the two) is a new key behind those that it knows.
// RFC 6376 §3.1 (selectors) and §3.3.3 (key sizes), RFC 8463.
import { type KeyObject, createPrivateKey, generateKeyPair } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { sync } from '../durable/sync.ts';
import { replaceFile } from '../durable/replace.ts';
import type { ListedKey } from '../mail/admin.ts';
import { CannotTell } from '../mail/ports.ts';
import { keepNewest } from '../system/newest.ts';
import { reasonOf } from '../system/reason.ts';
import type { World } from '../system/world.ts';
import { isRecordOf, recordOf } from './record.ts';
import type { Algorithm, SigningKey } from './signature.ts';

type KeptKey = Pick<ListedKey, 'selector' | 'algorithm' | 'state'>;
type KeysOptions = Pick<World, 'clock' | 'log'> &
  Readonly<{
    /** SLIM_DATA/dkim or SLIM_DKIM_KEYS, which exists. */
    folder: string;
    isOnlyRead?: boolean;
    /** RSA first. */
    algorithms: readonly Algorithm[];
    /** The TXT records of a name. Rejects as `Dns` does. */
    txt: (name: string) => Promise<readonly string[]>;
  }>;
type Ring = { keys: readonly KeptKey[]; readonly privateKeys: Map<string, KeyObject> };

const generate = promisify(generateKeyPair);
/** The domains whose keys are held in memory. */
const maxRings = 1000;

export class Keys {
  readonly #options: KeysOptions;
  readonly #rings = new Map<string, Ring>();
  /** Those that are being read or made. */
  readonly #opening = new Map<string, Promise<Ring>>();
  /** Changes of a domain's keys, one after the other. */
  #changes: Promise<unknown> = Promise.resolve();

  constructor(options: KeysOptions) {
    this.#options = options;
  }

  /** The keys that sign for a domain; they are made where there are none. */
  async signing(domain: string): Promise<readonly SigningKey[]> {
    const { keys, privateKeys } = await this.#open(domain);
    return this.#options.algorithms.flatMap(algorithm => {
      const selector = signerOf(keys, algorithm)?.selector ?? '';
      const key = privateKeys.get(selector);
      if (selector === '' && this.#options.isOnlyRead) return [];
      if (key === undefined) throw unreadable(domain, `${selector || algorithm} is missing`);
      return { domain, selector, algorithm, key };
    });
  }

  /** The domains that have keys. */
  domains(): readonly string[] {
    const entries = readdirSync(this.#options.folder, { withFileTypes: true });
    return entries.flatMap(entry => (entry.isDirectory() ? entry.name : [])).toSorted();
  }

  async list(domain: string): Promise<readonly ListedKey[]> {
    const { keys, privateKeys } = await this.#open(domain);
    return keys.map(kept => {
      const key = privateKeys.get(kept.selector);
      const record = kept.state !== 'retired' && key ? { record: recordOf(kept.algorithm, key) } : {};
      const signs = signerOf(keys, kept.algorithm) === kept && this.#options.algorithms.includes(kept.algorithm);
      return { ...kept, domain, signs, name: `${kept.selector}._domainkey.${domain}`, ...record };
    });
  }

  /** Makes a further key of each algorithm. It signs once its record is seen. */
  rotate(domain: string): Promise<readonly ListedKey[]> {
    if (this.#options.isOnlyRead) return Promise.reject(new Error(`${this.#options.folder} is only read: ${byHand}`));
    return this.#change(domain, async ring => {
      const waiting = ring.keys.filter(({ state }) => state === 'new' || state === 'published');
      if (waiting.some(key => signerOf(ring.keys, key.algorithm) !== key))
        throw new Error(`${domain} has a key already that waits for its record: slimsmtp dns ${domain} shows it`);
      for (const algorithm of this.#options.algorithms) await this.#make(domain, ring, algorithm);
    }).then(() => this.list(domain));
  }

  /** Looks for the records of keys that wait for it. Never rejects. */
  async look(): Promise<void> {
    const { log } = this.#options;
    try {
      for (const domain of this.domains())
        await this.#lookAt(domain).catch((error: unknown) =>
          log.warn({ domain, error: String(error) }, 'the DKIM keys of a domain cannot be looked after'),
        );
    } catch (error) {
      log.warn({ error: String(error) }, 'the folder of DKIM keys cannot be read');
    }
  }

  /** Forgets what was read: the files count again. */
  forget(): void {
    this.#rings.clear();
  }

  async #lookAt(domain: string): Promise<void> {
    for (const { state, selector, name, record } of await this.list(domain)) {
      if (record === undefined || state === 'active' || state === 'retired') continue;
      const found = await this.#options.txt(name).catch(() => []);
      if (found.length !== 1 || !found.every(text => isRecordOf(text, record))) continue;
      await this.#change(domain, async ring => {
        ring.keys = movedOn(ring.keys, selector);
        await this.#save(domain, ring);
      });
      this.#options.log.info({ domain, selector }, 'the record of a DKIM key was seen in DNS');
    }
  }

  /** Changes go one after the other, and what they have written is read again. */
  #change(domain: string, change: (ring: Ring) => Promise<void>): Promise<void> {
    const changed = this.#changes
      .then(() => this.#open(domain))
      .then(change)
      .finally(() => this.#rings.delete(domain));
    this.#changes = changed.catch(() => undefined);
    return changed;
  }

  async #open(domain: string): Promise<Ring> {
    const known = this.#rings.get(domain);
    if (known) return known;
    const opening = this.#opening.get(domain) ?? this.#load(domain).finally(() => this.#opening.delete(domain));
    this.#opening.set(domain, opening);
    const ring = await opening;
    keepNewest(this.#rings, domain, ring, maxRings);
    return ring;
  }

  async #load(domain: string): Promise<Ring> {
    const folder = join(this.#options.folder, domain);
    const ring: Ring = { keys: [], privateKeys: new Map() };
    try {
      const { isOnlyRead = false } = this.#options;
      if (!isOnlyRead && !existsSync(folder)) mkdirSync(folder, { mode: 0o700 });
      ring.keys = readKept(join(folder, 'keys.json'));
      for (const { selector, state } of ring.keys)
        if (state !== 'retired') ring.privateKeys.set(selector, readKey(folder, selector));
      const unknown = readdirSync(folder).flatMap(name => (name.endsWith('.pem') ? name.slice(0, -4) : []));
      for (const selector of unknown.toSorted()) {
        if (ring.keys.some(each => each.selector === selector)) continue;
        const key = readKey(folder, selector);
        const algorithm = key.asymmetricKeyType === 'rsa' ? 'rsa' : 'ed25519';
        ring.privateKeys.set(selector, key);
        ring.keys = [...ring.keys, { selector, algorithm, state: 'new' }];
      }
      const missing = this.#options.algorithms.filter(algorithm => !signerOf(ring.keys, algorithm));
      if (!isOnlyRead) for (const algorithm of missing) await this.#make(domain, ring, algorithm);
      else if (missing.length === this.#options.algorithms.length) throw new Error(`${folder} has no key: ${byHand}`);
      return ring;
    } catch (error) {
      throw unreadable(domain, error);
    }
  }

  async #make(domain: string, ring: Ring, algorithm: Algorithm): Promise<void> {
    const { privateKey: key } =
      algorithm === 'rsa' ? await generate('rsa', { modulusLength: 2048 }) : await generate('ed25519');
    const selector = this.#newSelector(ring.keys, algorithm);
    const pem = key.export({ type: 'pkcs8', format: 'pem' });
    await replaceFile(join(this.#options.folder, domain, `${selector}.pem`), pem);
    ring.privateKeys.set(selector, key);
    ring.keys = [...ring.keys, { selector, algorithm, state: 'new' }];
    await this.#save(domain, ring);
    this.#options.log.info({ domain, selector }, 'a DKIM key was made: slimsmtp dns shows the record to publish');
  }

  /** Its algorithm and its day, such as `r20261129`. */
  #newSelector(keys: readonly KeptKey[], algorithm: Algorithm): string {
    const day = new Date(this.#options.clock.now()).toISOString().slice(0, 10).replaceAll('-', '');
    const name = `${algorithm[0]}${day}`;
    let selector = name;
    for (let count = 2; keys.some(each => each.selector === selector); count += 1) selector = `${name}-${count}`;
    return selector;
  }

  async #save(domain: string, { keys }: Ring): Promise<void> {
    const { folder } = this.#options;
    await replaceFile(join(folder, domain, 'keys.json'), `${JSON.stringify(keys, undefined, 2)}\n`);
    await sync(folder); // the domain's own folder may be new
  }
}

const byHand = 'put a key there as <domain>/<selector>.pem, and send SIGHUP';

/** The key that signs: the active one, else the first that there was. */
function signerOf(keys: readonly KeptKey[], algorithm: Algorithm): KeptKey | undefined {
  const own = keys.filter(each => each.algorithm === algorithm && each.state !== 'retired');
  return own.find(({ state }) => state === 'active') ?? own[0];
}

/** The keys after the record of one was seen once more. One that becomes active retires those that stand before it. */
export function movedOn(keys: readonly KeptKey[], selector: string): readonly KeptKey[] {
  const at = keys.findIndex(each => each.selector === selector);
  const key = keys[at];
  if (key === undefined) return keys;
  if (key.state === 'new') return keys.with(at, { ...key, state: 'published' });
  if (key.state !== 'published') return keys;
  return keys.map((each, index) => {
    if (index === at) return { ...key, state: 'active' };
    return index < at && each.algorithm === key.algorithm ? { ...each, state: 'retired' } : each;
  });
}

function readKey(folder: string, selector: string): KeyObject {
  const key = createPrivateKey(readFileSync(join(folder, `${selector}.pem`)));
  if (!['rsa', 'ed25519'].includes(key.asymmetricKeyType ?? ''))
    throw new Error(`${selector}.pem is no RSA or Ed25519 key`);
  if ((key.asymmetricKeyDetails?.modulusLength ?? 2048) < 1024)
    throw new Error(`${selector}.pem has less than 1024 bits`);
  return key;
}

function readKept(path: string): readonly KeptKey[] {
  if (!existsSync(path)) return [];
  const kept = JSON.parse(readFileSync(path, 'utf8')) as unknown;
  if (!Array.isArray(kept) || !kept.every(isKept)) throw new Error('keys.json is not a list of keys');
  return kept;
}

function isKept(each: Partial<KeptKey> | null): each is KeptKey {
  const isState = ['new', 'published', 'active', 'retired'].includes(each?.state ?? '');
  return isState && ['rsa', 'ed25519'].includes(each?.algorithm ?? '') && /^[\w-]+$/.test(each?.selector ?? '');
}

function unreadable(domain: string, cause: unknown): CannotTell {
  const reason = reasonOf(cause);
  return new CannotTell(`the DKIM keys of ${domain} cannot be read: ${reason}`, { status: '4.7.5', cause });
}
