// What an operator sees and may order: the queue (`slimsmtp queue …`), keys (`dkim …`), DNS records (`dns`), and what
// is wrong (`doctor`). Plain data: it crosses the control socket as JSON.

/** Which messages are meant: those that have everything that is given. Empty: all. */
export type Selector = Readonly<{ id?: string | undefined; domain?: string | undefined; sender?: string | undefined }>;

/** The messages that wait, by their state; `oldestAt`: when the oldest came, in ms since 1970. */
export type QueueCounts = Readonly<{
  waiting: number;
  sending: number;
  held: number;
  oldestAt: number | undefined;
  /** Next hops that have mail; blocked: they back off. */
  destinations: Readonly<{ all: number; blocked: number }>;
}>;

export const queueActions = ['retry', 'hold', 'release', 'remove'] as const;
export type QueueAction = (typeof queueActions)[number];

/** A message that waits, with the recipients for whom it waits. */
export type QueuedMessage = {
  readonly id: string;
  /** The reverse-path; '' is the null one. */
  readonly from: string;
  readonly ageSeconds: number;
  readonly sizeBytes: number;
  /** Every recipient that waits is held. */
  readonly isHeld: boolean;
  readonly recipients: readonly QueuedRecipient[];
};

export type QueuedRecipient = {
  readonly address: string;
  readonly domain: string;
  readonly state: 'waiting' | 'sending' | 'held' | 'delivered' | 'deferred' | 'failed' | 'removed';
  readonly attempts: number;
  /** ISO 8601; unset where no attempt is planned. */
  readonly nextAttemptAt?: string | undefined;
  /**
   * What the last attempt brought, unset before the first: the enhanced status code, the words, the server that said
   * them.
   */
  readonly status?: string | undefined;
  readonly text?: string | undefined;
  readonly remote?: string | undefined;
  /** Why it waits, a sentence; unset where it does not wait any more. */
  readonly reason?: string | undefined;
};

type KeyState = 'new' | 'published' | 'active' | 'retired';

/** A key that signs, or will, or has. */
export type ListedKey = {
  readonly domain: string;
  readonly selector: string;
  readonly algorithm: 'rsa' | 'ed25519';
  readonly state: KeyState;
  /** Whether mail is signed with it now. */
  readonly signs: boolean;
  /** Where its TXT record stands, and what that is; unset where the key is retired. */
  readonly name: string;
  readonly record?: string;
};

/** A DNS record that a domain needs, and what DNS has in its place (`slimsmtp dns`). */
export type WantedRecord = {
  /** In full, with the final dot. */
  readonly name: string;
  readonly type: 'MX' | 'A' | 'AAAA' | 'PTR' | 'TXT' | 'TLSA';
  /** On one line; a text without quotes. */
  readonly value: string;
  /** As it stands in a zone file. */
  readonly zone: string;
  /** For people; perhaps of several lines. */
  readonly note?: string;
  /** `unknown`: DNS could not tell now. */
  readonly status: 'ok' | 'missing' | 'differs' | 'unknown';
  /** What stands there; of `unknown` the error. */
  readonly found: readonly string[];
};

/** What one look of `slimsmtp doctor` has found. */
export type Finding = {
  /** What was looked at, in a word or two. */
  readonly about: string;
  /** `note`: works, and could be better. `unknown`: it cannot be told now. */
  readonly status: 'ok' | 'note' | 'mend' | 'unknown';
  readonly text: string;
  /** The line that mends it: a command, a setting, a DNS record. */
  readonly mend?: string;
};
