// Names that nobody else uses, and dates as mail writes them: one home for all that end up in headers, logs and file
// names.
import { hostname } from 'node:os';
import type { Clock, Random } from './world.ts';

let deliveries = 0;
const host = hostname().replaceAll('/', '\\057').replaceAll(':', '\\072');

/**
 * An id that begins with its time: of a message (in our 250, in Received, in the log, in file names), or of a session.
 * Letters and digits.
 */
export const newId = (time: number, random: Random, randomOctets = 5): string =>
  time.toString(36) + random.hex(randomOctets);

/** A Message-ID (RFC 5322 §3.6.4), made of something that is unique on that host. */
export const messageId = (unique: string, ownHost: string): string => `<${unique}@${ownHost}>`;

let lastSecond = NaN;
let lastDate = '';
/** A date of RFC 5322 §3.3, in UTC. Kept while the second is the same: to write it anew cost 2 µs a message. */
export function mailDate(time: number): string {
  const second = Math.floor(time / 1000);
  if (second === lastSecond) return lastDate;
  lastSecond = second;
  lastDate = new Date(time).toUTCString().replace('GMT', '+0000');
  return lastDate;
}

/** A file name that no other delivery on any host uses: time, process, count, randomness, host (maildir(5)). */
export function uniqueName(clock: Clock, random: Random): string {
  const now = clock.now();
  deliveries += 1;
  return `${Math.floor(now / 1000)}.M${(now % 1000) * 1000}P${process.pid}Q${deliveries}R${random.hex(4)}.${host}`;
}
