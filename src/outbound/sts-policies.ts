// The MTA-STS policies of other domains: looked up in DNS, fetched over HTTPS, and kept on the disk for as long as they
// say.
// Promises: a policy is kept until it expires, whatever DNS and the web say meanwhile, so that an attacker has to be
// there at the first mail; a fetch has a verified certificate, follows no redirect, goes to no address where mail would
// not go, and ends in time and size; a policy that cannot be had is none, never an error; what a domain does here holds
// up its own mail alone.
// RFC 8461 §3.3, §5.1.
//
// A policy has the id that DNS told when it was fetched. It is fetched anew where DNS tells another id, and once half
// of its time is over, so that it does not end while the other side can be reached. After a fetch that failed the next
// one waits five minutes.
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import { replaceFile } from '../durable/replace.ts';
import type { Dns } from '../system/dns.ts';
import { keepNewest } from '../system/newest.ts';
import type { World } from '../system/world.ts';
import { type StsPolicy, parsePolicy, parseRecords } from './mta-sts.ts';
import { isForbidden } from './mx.ts';

const maxPolicies = 1000;
const maxPolicyBytes = 64 * 1024;
const fetchMs = 10_000;
const retryMs = 5 * 60_000;
const maxAddresses = 2;

export type StsOptions = Pick<World, 'clock' | 'log'> & {
  readonly dns: Dns;
  /** The file in which the policies are kept. */
  readonly file: string;
  readonly isSelf: (nameOrAddress: string) => boolean;
  /** Gives the text of a policy; tests replace it. */
  readonly fetch?: (host: string, addresses: readonly string[]) => Promise<string>;
};

type Kept = { readonly id: string; readonly fetchedAt: number; readonly policy: StsPolicy };

export class StsPolicies {
  readonly #options: StsOptions;
  #kept: Map<string, Kept> | undefined;
  readonly #running = new Map<string, Promise<void>>();
  /** When the fetch for a domain last failed. */
  readonly #failed = new Map<string, number>();
  #saving: Promise<void> = Promise.resolve();

  constructor(options: StsOptions) {
    this.#options = options;
  }

  /** Finds the MTA-STS policy of a domain that is in force now: kept from an earlier time, or fetched. */
  async find(domain: string): Promise<StsPolicy | undefined> {
    const { dns, clock } = this.#options;
    const kept = (this.#kept ??= this.#load());
    const id = await dns.txt(`_mta-sts.${domain}`).then(
      ({ records }) => parseRecords(records),
      () => undefined,
    );
    const known = kept.get(domain);
    const isFresh = known !== undefined && clock.now() < known.fetchedAt + (known.policy.maxAgeSeconds * 1000) / 2;
    const mayFetch = clock.now() >= (this.#failed.get(domain) ?? -Infinity) + retryMs;
    if (id !== undefined && (id !== known?.id || !isFresh) && mayFetch) {
      const running = this.#running.get(domain) ?? this.#renew(domain, id).finally(() => this.#running.delete(domain));
      this.#running.set(domain, running);
      await running;
    }
    const found = kept.get(domain);
    if (found === undefined || clock.now() >= found.fetchedAt + found.policy.maxAgeSeconds * 1000) return undefined;
    return found.policy;
  }

  async #renew(domain: string, id: string): Promise<void> {
    const { dns, clock, log, isSelf, fetch = fetchPolicy } = this.#options;
    const host = `mta-sts.${domain}`;
    try {
      const { records } = await dns.addresses(host);
      const allowed = records.filter(address => !isForbidden(address) && !isSelf(address));
      if (allowed.length === 0) throw new Error('its host has no address that may be asked');
      const policy = parsePolicy(await fetch(host, allowed.slice(0, maxAddresses)));
      if (policy === undefined) throw new Error('it breaks the grammar of RFC 8461');
      this.#failed.delete(domain);
      this.#keep(domain, { id, fetchedAt: clock.now(), policy });
    } catch (error) {
      keepNewest(this.#failed, domain, clock.now(), maxPolicies);
      log.info({ domain, error: String(error) }, 'the MTA-STS policy of a domain cannot be had');
    }
  }

  #keep(domain: string, kept: Kept): void {
    const { file, log } = this.#options;
    const all = (this.#kept ??= this.#load());
    keepNewest(all, domain, kept, maxPolicies);
    // Savings go one after the other, because they share a temporary name.
    this.#saving = this.#saving
      .then(() => replaceFile(file, JSON.stringify([...all])))
      .catch((error: unknown) => log.warn({ error: String(error) }, 'the MTA-STS policies cannot be kept on the disk'));
  }

  /** Reads what the file holds; nothing where it cannot be read: then the policies are fetched anew. */
  #load(): Map<string, Kept> {
    const { file, log } = this.#options;
    try {
      return new Map(JSON.parse(readFileSync(file, 'utf8')) as [string, Kept][]);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT')
        log.warn({ error: String(error) }, 'the MTA-STS policies cannot be read: they are fetched anew');
      return new Map();
    }
  }
}

type FetchOptions = { readonly port?: number; readonly ca?: string; readonly timeoutMs?: number };

/** Fetches the text of the policy, from the first of these addresses that gives it. */
export async function fetchPolicy(
  host: string,
  addresses: readonly string[],
  options: FetchOptions = {},
): Promise<string> {
  const errors: unknown[] = [];
  for (const address of addresses)
    try {
      return await fetchFrom(address, host, options);
    } catch (error) {
      errors.push(error);
    }
  throw errors[0];
}

async function fetchFrom(address: string, host: string, { port = 443, ca, timeoutMs = fetchMs }: FetchOptions) {
  const { request } = await import('node:https');
  const signal = AbortSignal.timeout(timeoutMs); // for all of it: a server that drips gets no more
  const asked = request({
    host: address,
    port,
    servername: host,
    headers: { host },
    path: '/.well-known/mta-sts.txt',
    agent: false,
    signal,
    ca,
    minVersion: 'TLSv1.2',
    maxHeaderSize: 8192,
  });
  asked.on('error', () => undefined); // it also comes as the end of what is waited for here
  try {
    const [response] = (await once(asked.end(), 'response')) as [IncomingMessage];
    const type = response.headers['content-type'] ?? '';
    // A redirect is a failure, too (RFC 8461 §3.3).
    if (response.statusCode !== 200) throw new Error(`the server says ${response.statusCode}`);
    if (!/^text\/plain\s*(?:;|$)/i.test(type)) throw new Error(`it is of the type ${type || 'unknown'}`);
    const pieces: Buffer[] = [];
    let bytes = 0;
    for await (const piece of response as AsyncIterable<Buffer>) {
      pieces.push(piece);
      bytes += piece.length;
      if (bytes > maxPolicyBytes) throw new Error('it is too large');
    }
    return Buffer.concat(pieces).toString();
  } finally {
    asked.destroy();
  }
}
