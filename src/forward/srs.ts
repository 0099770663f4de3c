// SRS, the Sender Rewriting Scheme: a reverse-path of our own for mail that we forward, from which a bounce finds its
// way back. Pure. There is no RFC; this is what postsrsd and libsrs2 do, so that theirs and ours understand each other.
//
//   SRS0=hash=tt=domain=local@ours              for local@domain
//   SRS1=hash=domain=<what followed their SRS0>@ours   for SRS0…@domain, which is some other forwarder's
//
// `tt` is the day, in two letters. The hash is an HMAC of everything behind it. Of SRS1 the first forwarder judges the
// day.
// Promises:
// - Only what `rewrite` has made with that secret is understood by `restore`, and only for 21 days. Upper and lower
//   case do not matter, because some servers change them.
// - The hash has eight letters, not the four of postsrsd: who forges an address has mail sent to anybody, and four
//   letters are guessed in a few minutes.
import { createHmac, timingSafeEqual } from 'node:crypto';

type Srs = Readonly<{
  secret: string;
  /** Letters of the hash. */
  hashLength?: number;
}>;
/** An address, the local part without quotes. */
export type Plain = Readonly<{ local: string; domain: string }>;

const usualHashLength = 8;
const dayMs = 24 * 3600_000;
const maxAgeDays = 21;
const days = 1024; // then `tt` begins anew
const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
/** Behind SRS0 or SRS1 others may write `+` or `-`. */
const marked = /^SRS([01])([=+-].*)$/is;

/** Whether a local part looks like one of SRS, whoever made it. */
export const isMarked = (local: string): boolean => marked.test(local);

/** The local part under which mail of that sender is forwarded. `now`: in ms since 1970. */
export function rewrite({ local, domain }: Plain, now: number, srs: Srs): string {
  const [, kind, rest = ''] = marked.exec(local) ?? [];
  if (kind === '0') return `SRS1=${hash(srs, domain, rest)}=${domain}=${rest}`;
  const [, first, others] = kind === '1' ? (/^.[^=]*=([^=]+)=(.+)$/s.exec(rest) ?? []) : [];
  // Theirs of a third one: the way back need not lead through them.
  if (first !== undefined && others !== undefined) return `SRS1=${hash(srs, first, others)}=${first}=${others}`;
  const day = Math.floor(now / dayMs) % days;
  const stamp = `${letters[day >> 5]}${letters[day & 31]}`;
  return `SRS0=${hash(srs, stamp, domain, local)}=${stamp}=${domain}=${local}`;
}

/** The address that was rewritten; undefined: it was not us, or too long ago. */
export function restore(local: string, now: number, srs: Srs): Plain | undefined {
  const [, kind, rest = ''] = marked.exec(local) ?? [];
  if (kind === '0') {
    const [, given = '', stamp = '', domain = '', name = ''] = /^.([^=]+)=([^=]{2})=([^=]+)=(.+)$/s.exec(rest) ?? [];
    return isSame(given, hash(srs, stamp, domain, name)) && isRecent(stamp, now) ? { local: name, domain } : undefined;
  }
  const [, given = '', domain = '', others = ''] = /^.([^=]+)=([^=]+)=(.+)$/s.exec(rest) ?? [];
  return kind === '1' && isSame(given, hash(srs, domain, others)) ? { local: `SRS0${others}`, domain } : undefined;
}

/** In the alphabet of base64 that has no `/`. */
function hash({ secret, hashLength = usualHashLength }: Srs, ...parts: readonly string[]): string {
  const hmac = createHmac('sha1', secret).update(parts.join('').toLowerCase());
  return hmac.digest('base64url').slice(0, hashLength);
}

function isSame(given: string, wanted: string): boolean {
  const form = (text: string): Buffer => Buffer.from(text.toLowerCase().replaceAll('+', '-').replaceAll('/', '_'));
  const one = form(given);
  const other = form(wanted);
  return one.length === other.length && timingSafeEqual(one, other);
}

/** Also what another replica made, whose clock is in the next day already. */
function isRecent(stamp: string, now: number): boolean {
  const [high = -1, low = -1] = [...stamp.toUpperCase()].map(letter => letters.indexOf(letter));
  if (high < 0 || low < 0) return false;
  const age = (Math.floor(now / dayMs) - (high * 32 + low)) & (days - 1);
  return age <= maxAgeDays || age === days - 1;
}
