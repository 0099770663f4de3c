// What the network process and the HTTP process say to each other over IPC.
// How it goes: the network process first sends one `start`; the HTTP process says `listening`, or `failed` and ends.
// Then it asks, with a number for each question, and gets one answer with that number.
import type { Change, Kept, Marks } from '../mail/captured.ts';
import type { Figures } from '../mail/figures.ts';

type Maybe<T> = T | Promise<T>;

/** From the network process, first of all: all that the HTTP process knows of the settings. */
export type Start = Readonly<{
  kind: 'start';
  /** undefined: every address, IPv6 and IPv4. */
  host: string | undefined;
  port: number;
  /** SLIM_HOSTNAME: a name by which we may be called. */
  hostname: string;
  version: string;
  /** Where mail is captured. */
  capture?: Readonly<{
    /** The Maildir. */
    folder: string;
    maxSizeBytes: number;
    /** In the order in which they came. */
    kept: readonly Kept[];
    /** Ids of messages that have ended this process twice: they are shown without having been parsed. */
    unreadable: readonly string[];
  }>;
}>;
export type ToWeb = Start | { readonly kind: 'stop' } | Reply | Change;
/** The answer to one question: a result, or an error in a sentence. */
export type Reply = Readonly<{ kind: 'reply'; id: number; result?: unknown; error?: string }>;

/** What /health says. 'degraded': mail is taken, but not all that it may need is there. */
export type Health = Readonly<{ health: 'healthy' | 'degraded' | 'unhealthy' }>;

/** What the HTTP process may ask, by its name. The side that answers believes nothing that comes with a question. */
export type Questions = {
  health(): Health;
  figures(): Figures;
  // Where mail is captured:
  /** This is answered when all changes have been told that there were by then. */
  settled(): void;
  remove(ids: readonly string[] | 'all'): void;
  mark(ids: readonly string[] | 'all', marks: Partial<Marks>): void;
  /**
   * Sets the triggers of Mailpit's chaos where they are given, those that are left out being off, and answers with the
   * triggers that hold then.
   */
  chaos(wanted?: unknown): unknown;
  /** Keeps a message as if it had come by SMTP, and answers with its id. */
  keep(mail: Sent): string;
};
/** A message that somebody hands in over HTTP. `octets`: line ends LF. */
type Sent = Readonly<{
  from: string;
  recipients: readonly string[];
  client: string;
  tags: readonly string[];
  octets: Uint8Array;
}>;
export type Answers = {
  readonly [Name in keyof Questions]: (...about: Parameters<Questions[Name]>) => Maybe<ReturnType<Questions[Name]>>;
};
/** Asks the network process. Rejects with a `Problem` when it does not answer in time. */
export type Ask = <Name extends keyof Questions>(
  name: Name,
  ...about: Parameters<Questions[Name]>
) => Promise<ReturnType<Questions[Name]>>;

export type FromWeb =
  | { readonly kind: 'listening' }
  /** It cannot listen, and ends. */
  | { readonly kind: 'failed'; readonly why: string }
  /** It begins to parse that message; without one, it has done so. A message must not keep it busy for long. */
  | { readonly kind: 'reading'; readonly id?: string }
  /** A surprise; the client has heard of an error of ours. */
  | { readonly kind: 'trouble'; readonly request: string; readonly error: string }
  | { readonly kind: 'ask'; readonly id: number; readonly name: keyof Questions; readonly about: readonly unknown[] };
