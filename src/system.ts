// The seam to the world that tests replace: time and randomness. Nothing else calls Date.now or node:crypto's
// random functions (the architecture test sees to it); timers are not part of it.
import { randomBytes, randomInt } from 'node:crypto';
import { hostname } from 'node:os';

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

export const systemClock: Clock = { now: () => Date.now() };
export const systemRandom: Random = {
  hex: octets => randomBytes(octets).toString('hex'),
  below: limit => randomInt(limit),
};

let deliveries = 0;
const host = hostname().replaceAll('/', '\\057').replaceAll(':', '\\072');

/** A file name that no other delivery on any host uses: time, process, count, randomness, host (maildir(5)). */
export function uniqueName(clock: Clock, random: Random): string {
  const now = clock.now();
  deliveries += 1;
  return `${Math.floor(now / 1000)}.M${(now % 1000) * 1000}P${process.pid}Q${deliveries}R${random.hex(4)}.${host}`;
}
