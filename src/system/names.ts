// Names that no other delivery uses, and dates as a header writes them.
import { hostname } from 'node:os';
import type { Clock, Random } from './world.ts';

let deliveries = 0;
const host = hostname().replaceAll('/', '\\057').replaceAll(':', '\\072');

/** A file name that no other delivery on any host uses: time, process, count, randomness, host (maildir(5)). */
export function uniqueName(clock: Clock, random: Random): string {
  const now = clock.now();
  deliveries += 1;
  return `${Math.floor(now / 1000)}.M${(now % 1000) * 1000}P${process.pid}Q${deliveries}R${random.hex(4)}.${host}`;
}

/** RFC 5322 §3.3, in UTC. */
export const mailDate = (timeMs: number): string => new Date(timeMs).toUTCString().replace('GMT', '+0000');
