// Failures on demand: what the local part of a recipient asks for, so that tests can see how a program takes a refusal,
// a slow server or a lost connection. Pure, but for greylisting, which remembers.
//
//   reply-451@   RCPT is answered so: any code from 400 to 599
//   data-552@    the message is refused so, after its last octet
//   slow-5s@     RCPT is answered so much later: up to 60 s
//   drop@        the connection is dropped at RCPT
//   greylist@    the first RCPT of that sender for that recipient is 451, the next one is 250, and so on
//
// A subaddress (reply-451+anything@) does not count, so that each test can have an address of its own.
import { keepNewest } from '../system/newest.ts';

type OnDemand =
  | { readonly kind: 'reply' | 'data'; readonly code: number }
  | { readonly kind: 'slow'; readonly ms: number }
  | { readonly kind: 'drop' | 'greylist' };

const maxSlowSeconds = 60;

/** undefined: the local part asks for nothing, or for something that is not in the table above. */
export function onDemand(local: string): OnDemand | undefined {
  const name = local.toLowerCase().replace(/\+.*$/s, '');
  const [, kind, code] = /^(reply|data)-([45]\d\d)$/.exec(name) ?? [];
  if (kind !== undefined) return { kind: kind as 'reply' | 'data', code: Number(code) };
  const [, seconds] = /^slow-(\d{1,2})s$/.exec(name) ?? [];
  if (seconds !== undefined && Number(seconds) <= maxSlowSeconds) return { kind: 'slow', ms: Number(seconds) * 1000 };
  return name === 'drop' || name === 'greylist' ? { kind: name } : undefined;
}

/** So many pairs of sender and recipient are remembered; beyond that the oldest is forgotten. */
const maxPairs = 10_000;

export class Greylist {
  readonly #deferred = new Map<string, true>();

  /** Whether this attempt is to be deferred. */
  defers(from: string, to: string): boolean {
    const pair = `${from}\n${to}`.toLowerCase();
    if (this.#deferred.delete(pair)) return false;
    keepNewest(this.#deferred, pair, true, maxPairs);
    return true;
  }
}
