// The vocabulary that the parts share, and the ports by which they meet: types, one function that makes the only
// validated value (Mailbox), and one error. Every folder may import this file; it imports types of smtp/ alone.
import { domainToASCII } from 'node:url';
import type { Address } from './smtp/address.ts';
import type { Notify } from './smtp/envelope.ts';
import type { Reply } from './smtp/reply.ts';

declare const canonical: unique symbol;

/**
 * An address in the form in which addresses are compared: the local part NFC and lower case, unquoted; the domain
 * as A-labels in lower case ('' only for the bare `<postmaster>` of RFC 5321 §4.5.1). Only `toMailbox` makes one.
 */
export type Mailbox = { readonly local: string; readonly domain: string; readonly [canonical]: true };

const printable = /^[\x20-\x7e]*$/;

/** The canonical form of an address, or undefined when its domain is not a valid (internationalised) name. */
export function toMailbox(address: Pick<Address, 'local' | 'domain'>): Mailbox | undefined {
  const domain = address.domain === '' ? '' : toDomain(address.domain);
  if (domain === undefined) return undefined;
  const { local } = address; // normalize costs more than all the rest of a recipient
  const form = printable.test(local) ? local.toLowerCase() : local.normalize('NFC').toLowerCase().normalize('NFC');
  return { local: form, domain } as Mailbox;
}

/** The A-label form of a domain in lower case, without a final dot; undefined when it is not a valid name. */
export function toDomain(name: string): string | undefined {
  const ascii = printable.test(name) ? name.toLowerCase() : domainToASCII(name);
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

/** What a directory knows of a mailbox; `via` says that it is not the mailbox's own: a list of members, or whatever is left. */
export type Found = { readonly routes: readonly Route[]; readonly via?: 'shared' | 'catch-all' };

/** A source of routes: a map, a table, the Unix accounts. */
export interface Directory {
  /** As users write it: '@POSTGRESQL', 'SLIM_STORAGES', '@PAM', 'default'. */
  readonly name: string;
  /** The routes of this very mailbox; undefined: 'not mine'. Throws CannotTell, and never anything else on purpose. */
  lookup(mailbox: Mailbox, explain?: Explain): Promise<Found | undefined>;
}

/** What becomes of a recipient; `elsewhere` is a domain that is not ours. */
export type Resolution =
  | ({ readonly kind: 'local' } & Found)
  | { readonly kind: 'unknown' }
  | { readonly kind: 'elsewhere' };

/** Where a recipient's mail goes. Throws CannotTell, from whichever source could not answer. */
export type Resolve = (mailbox: Mailbox, explain?: Explain) => Promise<Resolution>;

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

/** Where one file is to stand at last, on its way there ('': it is to be gone), and which file system is to be synced for it. */
export type JournalFile = { readonly final: string; readonly temporary: string; readonly fileSystem?: number };
/** What stands in each of the files. */
export type JournalRecord = Readonly<{ files: readonly JournalFile[]; parts: readonly Buffer[] }>;

/** What makes small messages stable before their files are. */
export interface Journal {
  /**
   * Resolves when the records are stable: files that are missing after a crash are made then, unless another record says that they are
   * to be gone. Call what it gives when the files are in place, or are not to be. Rejects where it keeps nothing.
   */
  append(records: readonly JournalRecord[]): Promise<() => void>;
}

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

/** One login on its way (RFC 4954): octets in, replies out. */
export interface Exchange {
  /** The client's response → 334 and the next challenge, or how it ended: 235, 454, 501, 535. Never rejects. undefined: AUTH came without one. */
  step(response: Buffer | undefined): Promise<Reply>;
  /** After 235: the login, as a mailbox; a bare name stands at the first of SLIM_DOMAINS. */
  readonly login: Login | undefined;
}

/** Who has logged in: `name` as given, `address` the sender's own. `account` is the Unix account, where PAM knew the name. */
export type Login = { readonly name: string; readonly address: Mailbox; readonly account?: string };

/** Who may log in. */
export interface Authenticator {
  /** SASL mechanisms, best first. Those that end in -PLUS need a channel binding. */
  readonly mechanisms: readonly string[];
  /** `binding` gives the data of a channel binding type (RFC 5929, RFC 9266); undefined: this connection has none such. */
  begin(mechanism: string, client: string, binding: (type: string) => Buffer | undefined): Exchange;
}

/** A recipient of a message that is kept for later. */
export type QueueRecipient = {
  /** As in RCPT, without brackets. */
  readonly address: string;
  /** Whose servers take it: A-labels, lower case. */
  readonly domain: string;
  /** Unset: for another server. Else the mail stays here, and goes there; empty: that is still to be looked up. */
  readonly routes?: readonly Route[];
  readonly notify?: readonly Notify[];
  readonly originalRecipient?: string; // ORCPT as sent: type, semicolon, xtext
};

/** A message with its envelope, as the queue keeps it. Plain data, which JSON carries. */
export type QueueEntry = {
  /** The one in our 250, in Received and in the log: letters and digits. */
  readonly id: string;
  /** Reverse-path, without brackets; '' is the null one. */
  readonly from: string;
  readonly isUtf8: boolean;
  /** Whether its content has octets above 127. */
  readonly is8Bit: boolean;
  readonly ret?: 'FULL' | 'HDRS';
  readonly envelopeId?: string; // ENVID as sent: xtext
  readonly receivedAt: number;
  /** Octets at the start of the message that are for Maildirs alone (Return-Path). */
  readonly skipBytes: number;
  readonly recipients: readonly QueueRecipient[];
};

/** What keeps messages that cannot be delivered at once. */
export interface Queue {
  /** Writes and syncs message and envelope, not yet visible, or rejects having left nothing. A `file` message stays the caller's to remove. */
  prepare(entry: QueueEntry, message: Message): Promise<Prepared>;
}

/** What became of one recipient in one attempt. */
export type Delivery = {
  readonly kind: 'delivered' | 'deferred' | 'failed';
  /** Enhanced status code (RFC 3463), of the class that `kind` wants. */
  readonly status: string;
  /** For people: the remote server's words as they came, or what went wrong here. One line, no control characters. */
  readonly text: string;
  /** The server that said so: its host name. */
  readonly remote?: string;
  /** TLS version and cipher on the way there; unset: plain text, or nobody was reached. */
  readonly tls?: string;
  /** Nobody could be reached at all: the destination backs off, not only this message. */
  readonly isUnreachable?: boolean;
  /** The next hop has promised notices of its own (DSN). */
  readonly isDsnPassedOn?: boolean;
};

/** How one message gets to some of its recipients, all of one destination. */
export interface Transport {
  /** One attempt, within bounded time. One Delivery for each of `recipients`, in their order. Rejects only on a surprise: deferred. */
  deliver(
    destination: string,
    entry: QueueEntry,
    message: Message,
    recipients: readonly QueueRecipient[],
  ): Promise<readonly Delivery[]>;
}

/** What a notice says of a recipient (RFC 3464 §2.3.3). */
export type Outcome = {
  readonly recipient: QueueRecipient;
  readonly action: 'failed' | 'delayed' | 'delivered' | 'relayed' | 'expanded';
  readonly delivery: Delivery;
};

/** Tells the sender, where one is due (NOTIFY, null reverse-path); resolves when the notice is stable. Rejects with CannotTell. */
export type Report = (entry: QueueEntry, message: Message, outcomes: readonly Outcome[]) => Promise<void>;

/** What the parts log with (pino's shape). Fields first, then a fixed sentence: text from the network only in fields. */
export type Log = Record<
  'debug' | 'info' | 'warn' | 'error',
  (fields: Record<string, unknown>, message: string) => void
>;
