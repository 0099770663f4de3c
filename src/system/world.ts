// The seam to the world that tests replace: time, randomness and DNS. Nothing else calls Date.now, node:crypto's
// random functions or node:dns (the architecture test sees to it); timers are not part of it.
import { randomBytes, randomInt } from 'node:crypto';
import { Resolver } from 'node:dns/promises';

export interface Clock {
  /** Milliseconds since 1970, UTC. */
  now(): number;
}

export interface Random {
  /** That many random octets, as lower-case hexadecimal. */
  hex(octets: number): string;
  /** A whole number, 0 <= n < limit. */
  below(limit: number): number;
}

/** Both reject with Node's error codes: ENOTFOUND (no such name), ENODATA (no such record), ESERVFAIL, ETIMEOUT … */
export interface Dns {
  mx(domain: string): Promise<readonly { readonly exchange: string; readonly priority: number }[]>;
  /** IPv6 and IPv4 addresses, at least one; rejects with 'no' only when both questions were answered so. */
  addresses(host: string): Promise<readonly string[]>;
}

export const systemClock: Clock = { now: () => Date.now() };
/** Drawn in advance: a call of its own for each name and id was 7 % of the time of a message. No octet is used twice. */
let drawn = randomBytes(0);
let used = 0;
export const systemRandom: Random = {
  hex: octets => {
    if (used + octets > drawn.length) [drawn, used] = [randomBytes(4096 + octets), 0];
    return drawn.toString('hex', used, (used += octets));
  },
  below: limit => randomInt(limit),
};

/** A new one for each question, so that a changed resolv.conf counts at once; it keeps no cache. */
const resolver = (): Resolver => new Resolver({ timeout: 5000, tries: 2, maxTimeout: 10_000 });
export const systemDns: Dns = {
  mx: domain => resolver().resolveMx(domain),
  addresses: async host => {
    const errors: NodeJS.ErrnoException[] = [];
    const note = (error: NodeJS.ErrnoException): string[] => (errors.push(error), []);
    const answers = [resolver().resolve6(host).catch(note), resolver().resolve4(host).catch(note)];
    const found = (await Promise.all(answers)).flat();
    if (found.length > 0) return found;
    throw errors.find(({ code }) => code !== 'ENOTFOUND' && code !== 'ENODATA') ?? errors[0] ?? new Error('no answer');
  },
};
