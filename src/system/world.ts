// The seam to the world that tests replace: time and randomness (the DNS is in dns.ts). Nothing else calls Date.now or
// node:crypto's random functions (the architecture test sees to it); timers are not part of it.
import { randomBytes, randomInt } from 'node:crypto';

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
