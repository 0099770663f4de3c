// The ports by which the rooms meet: interfaces with few verbs, and the one error that says 'I cannot tell'.
// Promise: no room imports its neighbour; whatever two of them share is declared here.
import type { RateLimiterAbstract } from 'rate-limiter-flexible';
import type { Reply } from '../smtp/reply.ts';
import type { Mailbox } from './address.ts';
import type {
  Copy,
  Delivery,
  Forward,
  LmtpMailbox,
  Message,
  NextHop,
  Outcome,
  QueueEntry,
  QueueRecipient,
  Route,
} from './message.ts';

/**
 * 'I cannot tell' (database down, steward gone, disk full): towards clients always 4xx, never 5xx, never a
 * fall-through.
 */
export class CannotTell extends Error {
  override readonly name = 'CannotTell';
  /** Enhanced status code of the reply (RFC 3463), class 4. */
  readonly status: string;
  constructor(message: string, options?: { status?: string; cause?: unknown }) {
    super(message, options);
    this.status = options?.status ?? '4.3.0';
  }
}

/** Takes the reasons of a routing decision, a line each (`slimsmtp resolve`). */
export type Explain = (line: string) => void;

/** What a directory knows of an address. */
export type Found = {
  readonly routes: readonly Route[];
  /**
   * It is not the own address of the mailbox that it leads to, but one of several (or has a subaddress), stands for a
   * list of members, or was left over for whoever takes everything.
   */
  readonly via?: 'alias' | 'shared' | 'catch-all';
  /** Addresses that get the mail, too. Of a directory: any addresses. Of `Resolve`: those that are not ours. */
  readonly forwards?: readonly Forward[];
  /** Where routes came from following forwards: those that did not. A forward never proves whose address it is. */
  readonly own?: readonly Route[];
  /** An address that we have made for bounces: mail for it has the null reverse-path, or is not for it. */
  readonly isForBounces?: true;
  /** Mailboxes at LMTP servers that get the mail, too. */
  readonly lmtp?: readonly LmtpMailbox[];
  /**
   * The mailbox is there, and takes no mail (it is full, for example): the enhanced status code for it, of class 5.
   * Without routes.
   */
  readonly refusal?: string;
};

/**
 * Whether an LMTP server takes mail for a mailbox: 'unknown' where it has no such mailbox, else the enhanced status
 * code of a lasting refusal (class 5). Throws CannotTell.
 */
export type AskMailbox = (mailbox: LmtpMailbox) => Promise<'taken' | 'unknown' | { readonly refusal: string }>;

/** A source of routes: a map, a table, the Unix accounts. */
export interface Directory {
  /** As users write it: '@POSTGRESQL', 'SLIM_STORAGES', '@PAM', 'default'. */
  readonly name: string;
  /** The routes of this very mailbox; undefined: 'not mine'. Throws CannotTell, and never anything else on purpose. */
  lookup(mailbox: Mailbox, explain?: Explain): Promise<Found | undefined> | Found | undefined;
}

/** What becomes of a recipient; `elsewhere` is a domain that is not ours. */
export type Resolution =
  | ({ readonly kind: 'local' } & Found)
  | { readonly kind: 'unknown' }
  | { readonly kind: 'elsewhere' };

/**
 * Where a recipient's mail goes. Throws CannotTell, from whichever source could not answer. `local`: the local part as
 * it was written, which matters where it hides an address of somebody else (SRS).
 */
export type Resolve = (mailbox: Mailbox, explain?: Explain, local?: string) => Promise<Resolution>;

/**
 * What else has a say about clients and logins, beside the policy: each gives a refusal, or undefined. They never
 * reject. Which clients are asked about is the policy's matter.
 */
export type Filters = Readonly<{
  /** Counts one more message of a client. */
  countMessage?: (client: string) => Promise<Reply | undefined>;
  /** Counts one more recipient of a login; `name` is its address. */
  countRecipient?: (name: string) => Promise<Reply | undefined>;
  /** Whether a client is on a block list. Asked twice, it costs once: so it may be asked in advance. */
  findListing?: (client: string) => Promise<Reply | undefined>;
}>;

/** The reverse-paths of forwarded mail (SRS). */
export interface ReturnPaths {
  /** The reverse-path under which mail from that one is forwarded. Throws CannotTell. */
  forForward(from: string): Promise<string>;
  /** Where a bounce goes that comes to that address; undefined where the address is none of SRS, or not ours. */
  wayBack(address: { readonly local: string; readonly domain: string }): Forward | 'forged or old' | undefined;
}

/** The domains that are ours. */
export interface Domains {
  /** Whether a domain (A-labels, lower case) is hosted. Throws CannotTell when no source can say so. */
  hosts(domain: string): Promise<boolean> | boolean;
}

/** A Unix account that may receive mail: uid 1000-59999, an existing home, not the server's own user. */
export type Account = { readonly name: string; readonly uid: number; readonly gid: number; readonly home: string };

/** The Unix accounts (NSS), asked through the steward. Both throw CannotTell when it does not answer. */
export interface Accounts {
  find(name: string): Promise<Account | undefined>;
  /** The account in whose home a path lies. */
  owner(path: string): Promise<Account | undefined>;
}

/**
 * A file that the journal answers for: where it is to stand at last, and under which name it is written before. An
 * empty `temporary` is a mark: the file is not the journal's business any more. Files with the same `temporary` belong
 * together.
 */
type JournalFile = {
  readonly final: string;
  readonly temporary: string;
  /**
   * The file system that is synced for it. Unset: nothing is to be synced, since the file is written only after a
   * crash.
   */
  readonly fileSystem?: number;
};
/**
 * Files that are to have the same content. Its caller counts the memory of `parts`; the journal lets go of them once
 * they are written.
 */
export type JournalRecord = Readonly<{ files: readonly JournalFile[]; parts: readonly Buffer[] }>;

/** What makes small messages stable before their files are. */
export interface Journal {
  /**
   * Resolves when the records are stable: after a crash, files of theirs that are missing are made, but those with a
   * mark. Call the function that it gives when the files are in their places, or are not to be any more. Rejects where
   * it keeps nothing: then each file is to be synced by itself.
   */
  append(records: readonly JournalRecord[]): Promise<() => void>;
}

/**
 * Copies that are stable (by fsync, or by the journal), and not yet visible to anyone. Exactly one of the two is
 * called, once.
 */
export interface Prepared {
  /** Makes every copy visible to readers. When it resolves, that is stable: a crash does not undo it. */
  commit(): Promise<void>;
  /** Removes every copy. Never rejects. */
  abort(): Promise<void>;
}

/** What keeps copies on this machine, before 250 is said. */
export interface Storage {
  /**
   * Makes each copy stable (by fsync, or by the journal), with its head in front of the message, or rejects having
   * left none. A `file` message stays the caller's to remove; a storage may link to it or copy it, never change it.
   */
  prepare(copies: readonly Copy[], message: Message): Promise<Prepared>;
}

/** One login on its way (RFC 4954): octets in, replies out. */
export interface Exchange {
  /**
   * The client's response → 334 and the next challenge, or how it ended: 235, 454, 501, 535. Never rejects. undefined:
   * AUTH came without a response.
   */
  step(response: Buffer | undefined): Promise<Reply>;
  /** After 235: the login, as a mailbox; a bare name stands at the first of SLIM_DOMAINS. */
  readonly login: Login | undefined;
  /**
   * For the log: the name that the client gave, as far as it is known. Cut, without control characters, never a
   * password.
   */
  readonly name?: string | undefined;
}

/**
 * Who has logged in: `name` as given, `address` the sender's own. `account` is the Unix account, where PAM knew the
 * name.
 */
export type Login = { readonly name: string; readonly address: Mailbox; readonly account?: string };

/** Who may log in. */
export interface Authenticator {
  /** SASL mechanisms, best first. Those that end in -PLUS need a channel binding. */
  readonly mechanisms: readonly string[];
  /**
   * `binding` gives the data of a channel binding type (RFC 5929, RFC 9266); undefined: this connection has none such.
   */
  begin(mechanism: string, client: string, binding: (type: string) => Buffer | undefined): Exchange;
}

/** Where replicas count together: failed logins, and mail for SLIM_RATE_CLIENT and SLIM_RATE_LOGIN. */
export interface CountStore {
  /** Makes a counter. `name` tells its keys from those of another one; `alone` counts while the store cannot. */
  open(name: string, limits: CountLimits, alone: Counter): Promise<Counter>;
}
/** So many points in so many seconds, which begin with the first of them. */
export type CountLimits = { readonly points: number; readonly duration: number };
/** A counter of rate-limiter-flexible, whichever store it has. */
export type Counter = RateLimiterAbstract;

/** What keeps messages that cannot be delivered at once. */
export interface Queue {
  /**
   * Makes message and envelope stable (by fsync, or by the journal), not yet visible, or rejects having left nothing.
   * In a shared queue a small message is written only at its commit. A `file` message stays the caller's to remove.
   */
  prepare(entry: QueueEntry, message: Message): Promise<Prepared>;
}

/** What an attempt occupies while it goes on. The queue gives it to the transport and may take it back. */
export interface Place {
  /**
   * Others wait for a place, and this attempt has made no progress for longest: it ends, deferred, as soon as it can.
   */
  readonly isEnded: boolean;
  /**
   * Called at the moment at which `isEnded` becomes true. One listener at a time; an AbortSignal costs 4 µs a message.
   */
  onEnd: (() => void) | undefined;
  /**
   * Call it with the IP address of each server that is about to be used, just before; it replaces the address of the
   * call before. false: too many attempts are with that address now. The attempt then answers with deliveries that are
   * `isCrowded`.
   */
  enter(address: string): boolean;
  /** The other side has said something, or has taken some of the content. Cheap: call it as often as that happens. */
  progressed(): void;
  /**
   * Where others may have taken the message over: whether it is still ours. Ask right before the other side is told to
   * take it, and do that at once, or not at all.
   */
  confirm?: (() => Promise<boolean>) | undefined;
}

/** How one message gets to some of its recipients, all of one next hop. */
export interface Transport {
  /**
   * One attempt, within bounded time. One Delivery for each of `recipients`, in their order. Rejects only on a
   * surprise: deferred.
   */
  deliver(
    hop: NextHop,
    entry: QueueEntry,
    message: Message,
    recipients: readonly QueueRecipient[],
    place: Place,
  ): Promise<readonly Delivery[]>;
}

/**
 * Tells the sender, where one is due (NOTIFY, null reverse-path); resolves when the notice is stable. Rejects with
 * CannotTell.
 */
export type Report = (entry: QueueEntry, message: Message, outcomes: readonly Outcome[]) => Promise<void>;

/** Signs mail on its way to another server. */
export interface Signer {
  /**
   * Header fields to put in front of the message, each with its line end; '' where it is not ours to sign. `form` names
   * what was converted in it: one entry with one form is the same octets each time. Rejects with CannotTell where the
   * mail has to wait.
   */
  sign(message: Message & { readonly returnPathBytes: number }, entry: QueueEntry, form: string): Promise<string>;
}
