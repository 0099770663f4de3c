// The seam to the DNS, which tests replace: what mail needs to know of names. What answers is `src/dns/`.
export type MxRecord = { readonly exchange: string; readonly priority: number };

/** RFC 6698 §2.1. */
export type TlsaRecord = {
  readonly usage: number;
  readonly selector: number;
  readonly matching: number;
  readonly data: Buffer;
};

/** What DNS has said to one question; at least one record. */
export type Answer<T> = {
  readonly records: readonly T[];
  /** The owner of the records, in lower case: the name that was asked for, or the one that its aliases lead to. */
  readonly name: string;
  /**
   * The resolver has verified all of it with DNSSEC, aliases included, and it is one whose word counts (the AD bit, RFC
   * 6840 §5.8).
   */
  readonly isAuthentic: boolean;
};

/**
 * Names come from mail, but for `systemAddresses`. All reject with Node's error codes: ENOTFOUND (no such name),
 * ENODATA (no such record), ESERVFAIL, ETIMEOUT … The first two are answers; EBADNAME means that there can be no such
 * name; all others, that DNS cannot tell.
 */
export interface Dns {
  mx(domain: string): Promise<Answer<MxRecord>>;
  /** IPv6 and IPv4 addresses; with a family, those alone. Rejects with 'no' only when each question was answered so. */
  addresses(host: string, family?: 4 | 6): Promise<Answer<string>>;
  /** Each record as one text: its strings are joined. */
  txt(name: string): Promise<Answer<string>>;
  tlsa(name: string): Promise<Answer<TlsaRecord>>;
  /** The names of an address. */
  ptr(address: string): Promise<Answer<string>>;
  /**
   * The addresses, at least one, of a host that our operator named: as the operating system finds them, also in its
   * hosts file.
   */
  systemAddresses(host: string): Promise<readonly string[]>;
}

/** An error with one of those codes. */
export const failure = (code: string): Error => Object.assign(new Error(code), { code });

/** Whether an error is an answer: there is no such name, or no such record. */
export const isNo = (error: unknown): boolean =>
  ['ENOTFOUND', 'ENODATA'].includes((error as NodeJS.ErrnoException).code ?? '');

export type RecordType = 'A' | 'AAAA' | 'MX' | 'NS' | 'PTR' | 'TXT';

/** Any records, for what judges mail. */
export interface Records {
  /**
   * As `resolve` of node:dns/promises has them, also its errors: a TXT record is a list of strings, an MX record an
   * `MxRecord`.
   */
  records(name: string, type: RecordType): Promise<readonly unknown[]>;
}
