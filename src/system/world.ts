// The seam to the world that tests replace: time and randomness (the DNS is in dns.ts). Nothing else calls Date.now or
// node:crypto's random functions (the architecture test sees to it); timers are not part of it.
import { randomBytes } from 'node:crypto';
import type { Log } from './log.ts';

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

/** What most parts need of the world around them. */
export type World = { readonly clock: Clock; readonly random: Random; readonly log: Log };

export const systemClock: Clock = { now: () => Date.now() };
/** Milliseconds on a clock that nobody sets, since some moment. It stands still while the machine sleeps. */
export const monotonicMs = (): number => performance.now();
/**
 * Random octets that were drawn in advance: a call of its own for each name and id was 7 % of the time of a message. No
 * octet is used twice.
 */
let drawn = randomBytes(0);
let used = 0;
/** Where the next octets begin in `drawn`. */
function draw(octets: number): number {
  if (used + octets > drawn.length) {
    drawn = randomBytes(4096 + octets);
    used = 0;
  }
  used += octets;
  return used - octets;
}
export const systemRandom: Random = {
  hex: octets => {
    const from = draw(octets);
    return drawn.toString('hex', from, from + octets);
  },
  below: limit => {
    // The numbers beyond the last whole multiple of the limit would make the smallest results likelier.
    const end = 2 ** 32 - (2 ** 32 % limit);
    for (;;) {
      const from = draw(4);
      const number = drawn.readUInt32LE(from);
      if (number < end) return number % limit;
    }
  },
};
