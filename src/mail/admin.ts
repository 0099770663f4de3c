// What an operator sees of the queue and may order (`slimsmtp queue …`). Plain data: it crosses the control socket as
// JSON.

/** Which messages are meant: those that have everything that is given. Empty: all. */
export type Selector = { readonly id?: string; readonly domain?: string; readonly sender?: string };

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
