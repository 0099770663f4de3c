// A DNS that knows only what a test tells it: a verb that the test does not replace answers that there is no such name.
import type { Answer, Dns } from '../../src/system/dns.ts';

const unknown = async (): Promise<never> => Promise.reject(noSuch('ENOTFOUND'));

/** What DNS rejects with: one of Node's codes. */
export const noSuch = (code: string): Error => Object.assign(new Error(code), { code });

/** What DNS has said; no DNSSEC. */
export const answerOf = <T>(records: readonly T[], name = ''): Answer<T> => ({ records, name, isAuthentic: false });

export const nullDns = (known: Partial<Dns> = {}): Dns => ({
  mx: unknown,
  addresses: unknown,
  txt: unknown,
  tlsa: unknown,
  ptr: unknown,
  systemAddresses: unknown,
  ...known,
});
