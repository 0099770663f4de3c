// The vocabulary that the parts share, and the ports by which they meet: types, one function that makes the only
// validated value (Mailbox), and one error. Every folder may import this file; it imports types of smtp/ alone.
import { domainToASCII } from 'node:url';
import type { Address } from './smtp/address.ts';

declare const canonical: unique symbol;

/**
 * An address in the form in which addresses are compared: the local part NFC and lower case, unquoted; the domain
 * as A-labels in lower case ('' only for the bare `<postmaster>` of RFC 5321 §4.5.1). Only `toMailbox` makes one.
 */
export type Mailbox = { readonly local: string; readonly domain: string; readonly [canonical]: true };

/** The canonical form of an address, or undefined when its domain is not a valid (internationalised) name. */
export function toMailbox(address: Pick<Address, 'local' | 'domain'>): Mailbox | undefined {
  const domain = address.domain === '' ? '' : toDomain(address.domain);
  if (domain === undefined) return undefined;
  return { local: address.local.normalize('NFC').toLowerCase().normalize('NFC'), domain } as Mailbox;
}

/** The A-label form of a domain in lower case, without a final dot; undefined when it is not a valid name. */
export function toDomain(name: string): string | undefined {
  const ascii = /^[\x21-\x7e]*$/.test(name) ? name.toLowerCase() : domainToASCII(name);
  const plain = ascii.endsWith('.') ? ascii.slice(0, -1) : ascii;
  return plain.length <= 253 &&
    /^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$/.test(plain)
    ? plain
    : undefined;
}

/** 'I cannot tell' (database down, steward gone, disk full): towards clients always 4xx, never 5xx, never a fall-through. */
export class CannotTell extends Error {
  override readonly name = 'CannotTell';
  /** Enhanced status code of the reply (RFC 3463), class 4. */
  readonly status: string;
  constructor(message: string, options?: { status?: string; cause?: unknown }) {
    super(message, options);
    this.status = options?.status ?? '4.3.0';
  }
}

/** Where one copy of a message goes. Fixed when the recipient is accepted; equal routes have an equal `routeKey`. */
export type Route =
  /** A Maildir of the server's user: `path` is absolute and holds new/ cur/ tmp/; folders are made only below `root`. */
  | { readonly kind: 'maildir'; readonly path: string; readonly root: string }
  /** A Maildir of a Unix account: `folder` is relative to its home. Uid and home are looked up again by the steward. */
  | { readonly kind: 'account'; readonly account: string; readonly folder: string };

/** Identity of a route, for de-duplication. */
export function routeKey(route: Route): string {
  return route.kind === 'maildir' ? `maildir:${route.path}` : `account:${route.account}:${route.folder}`;
}

/** Takes the reasons of a routing decision, a line each (`slimsmtp resolve`). */
export type Explain = (line: string) => void;

/** A source of routes: a map, a table, the Unix accounts. */
export interface Directory {
  /** As users write it: '@POSTGRESQL', 'SLIM_STORAGES', '@PAM', 'default'. */
  readonly name: string;
  /** The routes of this very mailbox; undefined: 'not mine'. Throws CannotTell, and never anything else on purpose. */
  lookup(mailbox: Mailbox, explain: Explain): Promise<readonly Route[] | undefined>;
}

/** The domains that are ours. */
export interface Domains {
  /** Whether a domain (A-labels, lower case) is hosted. Throws CannotTell when no source can say so. */
  hosts(domain: string): Promise<boolean>;
}

/** A Unix account that may receive mail: uid 1000-59999, an existing home, not the server's own user. */
export type Account = { readonly name: string; readonly uid: number; readonly gid: number; readonly home: string };

/** The Unix accounts (NSS), asked through the steward. Both throw CannotTell when it does not answer. */
export interface Accounts {
  find(name: string): Promise<Account | undefined>;
  /** The account in whose home a path lies. */
  owner(path: string): Promise<Account | undefined>;
}

/** A whole message with its trace lines, line ends LF: in memory while small, else in a file that is not yet synced. */
export type Message =
  | { readonly kind: 'memory'; readonly parts: readonly Buffer[]; readonly sizeBytes: number }
  | { readonly kind: 'file'; readonly path: string; readonly sizeBytes: number };

/** Copies that are written and synced, and not yet visible to anyone. Exactly one of the two is called, once. */
export interface Prepared {
  /** Makes every copy visible; resolved means stable: files and directories are synced. */
  commit(): Promise<void>;
  /** Removes every copy. Never rejects. */
  abort(): Promise<void>;
}

/** A place that keeps mail. */
export interface Storage {
  /**
   * Writes and syncs a copy for each route, or rejects having left none. A `file` message stays the caller's to
   * remove; a storage may link to it or copy it, never change it.
   */
  prepare(routes: readonly Route[], message: Message): Promise<Prepared>;
}

/** What the parts log with (pino's shape). Fields first, then a fixed sentence: text from the network only in fields. */
export type Log = Record<
  'debug' | 'info' | 'warn' | 'error',
  (fields: Record<string, unknown>, message: string) => void
>;
