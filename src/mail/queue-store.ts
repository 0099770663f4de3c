// What the queue keeps of a message, and the port to the store that keeps it: files today, a database later.
// The queue alone decides what happens to a message. A store only keeps records and contents, stable where it says so.
import type { Selector } from './admin.ts';
import type { Delivery, Message, QueueEntry, QueueRecipient } from './message.ts';
import type { Prepared } from './ports.ts';

/** A recipient with what became of it so far. */
export type StoredRecipient = QueueRecipient & {
  /** Attempts that were made for it; those that found the next hop busy or crowded do not count. */
  attempts: number;
  /** When it is tried next, in ms since 1970. */
  nextAt: number;
  /** What the last attempt brought. Final and without `isDone`: only the notice of it is still owed to the sender. */
  last?: Delivery;
  /** Nothing is left to do for it. */
  isDone?: boolean;
  /** An operator has put it aside: it is neither tried nor given up. */
  isHeld?: boolean;
  /** The sender has been told that it is late. */
  isDelayTold?: boolean;
};

/** A message as the queue keeps it, without its content. Plain data, which JSON carries. */
export type StoredEntry = Omit<QueueEntry, 'recipients' | 'madeCopies'> & {
  readonly sizeBytes: number;
  readonly recipients: readonly StoredRecipient[];
  madeCopies?: readonly string[];
};

export interface QueueStore {
  /**
   * Makes record and content stable, not yet tried by anyone, or rejects having left nothing: also where it has that id
   * already.
   */
  prepare(record: StoredEntry, message: Message): Promise<Prepared>;
  /** Every record that this process is to try. Called once, before anything is prepared. */
  claim(): AsyncIterable<StoredEntry>;
  /** The record of a message. Rejects where it cannot be read now. */
  read(id: string): Promise<StoredEntry>;
  /** The content of a message, which stays the store's own. */
  message(record: StoredEntry): Promise<Message>;
  /** Resolves when what the record says now is stable. */
  update(record: StoredEntry): Promise<void>;
  /** Resolves when record and content are gone for good, also where they were gone before. */
  remove(id: string): Promise<void>;
  /** When nothing more comes: what the store had elsewhere for a while is now where it belongs. Never rejects. */
  settle(): Promise<void>;
}

/**
 * What a store for several replicas keeps of the recipients of a message that have one next hop, so that it is found
 * when it is due.
 */
export type JobPlan = Readonly<{
  /** The key of the next hop. */
  destination: string;
  /** The record of the message with the recipients of this job alone. */
  record: StoredEntry;
  state: 'waiting' | 'held' | 'done';
  /** When it is tried next, and when its sender is to hear something even if it cannot be tried; in ms from now. */
  waitMs: number;
  wakeMs: number;
}>;

/** A job that is this replica's alone for as long as its lease is renewed. */
export type LeasedJob = {
  readonly destination: string;
  readonly record: StoredEntry;
  /** The right to one attempt at the destination; undefined: only its sender is to be told something. */
  seat: number | undefined;
  /** For a job that waits for its seat: resolves with whether it gets one. If it does not, the store gives it back. */
  isSeated?: Promise<boolean>;
  /** Rounds in a row in which nobody could reach the destination, and what the last one has brought. */
  readonly failures: number;
  readonly reason?: Delivery | undefined;
  /** Deaths of replicas while it was in flight. */
  readonly deaths: number;
};

/** A message that waits, as the store knows it now. */
export type SharedMessage = Readonly<{
  id: string;
  jobs: readonly Readonly<{
    destination: string;
    record: StoredEntry;
    /** The replica that has it now. */
    sender?: string | undefined;
    failures: number;
    isBlocked: boolean;
    reason?: Delivery | null;
    revision: number;
  }>[];
}>;

/**
 * What a replica may take on: jobs, whether notices are among them, and sessions where a destination takes fewer than
 * usual.
 */
export type ClaimLimits = Readonly<{ jobs: number; notices: boolean; sessions: ReadonlyMap<string, number> }>;

/**
 * A store that several replicas use at once. What a replica leases it sends, unless its lease ends before. Rejects with
 * CannotTell.
 */
export interface SharedStore {
  /** Begins to take and to lease. `onWork`: something may be due. `onLost`: this job is somebody else's now. */
  start(on: { onWork(): void; onLost(job: LeasedJob): void }): Promise<void>;
  /** Gives back what is still leased. */
  stop(): Promise<void>;
  /** Two-phase, as a queue does it. `mayRun`: asked at the commit, whether jobs of it may begin at once. */
  prepare(
    record: StoredEntry,
    jobs: readonly JobPlan[],
    message: Message,
    mayRun: () => boolean,
  ): Promise<{ commit(): Promise<readonly LeasedJob[]>; abort(): Promise<void> }>;
  /** Leases jobs that are due, and jobs whose senders are to hear something. `isMore`: at once there may be more. */
  claim(limits: ClaimLimits): Promise<{ readonly jobs: readonly LeasedJob[]; readonly isMore: boolean }>;
  /** The content of a message; `release` it after the turn. */
  content(job: LeasedJob): Promise<{ readonly message: Message; release(): void }>;
  /** Whether the job is still this replica's: asked right before the next hop is told to take the message. */
  confirm(job: LeasedJob): Promise<boolean>;
  /**
   * Records what became of a job, and gives it and its seat back. `merge` gives the plan anew where an operator has
   * changed the record meanwhile. Resolves when that is stable, or the job is lost.
   */
  write(job: LeasedJob, plan: JobPlan, merge: (changed: StoredEntry) => JobPlan): Promise<void>;
  /** What was learnt of a destination: nothing is tried there for so long. It was `job.failures` before. */
  block(job: LeasedJob, failures: number, waitMs: number, reason: Delivery | undefined): Promise<void>;
  /** A destination is back. */
  unblock(destinations: readonly string[]): Promise<void>;
  /** What waits, by id, read in pages; the rest of the selector is the caller's matter. */
  list(selector: Selector): AsyncIterable<SharedMessage>;
  /** Whether it has a message, whole and committed. */
  has(id: string): Promise<boolean>;
  /** Writes what an operator has ordered. Whether the record was still the one that he saw. */
  order(job: SharedMessage['jobs'][number], plan: JobPlan): Promise<boolean>;
  count(): Promise<SharedCounts>;
}

/**
 * How many messages wait, how many of them are held, when the oldest came (ms since 1970), and how many next hops have
 * mail, or back off.
 */
export type SharedCounts = Readonly<{
  messages: number;
  held: number;
  oldestAt: number | null;
  destinations: number;
  blocked: number;
}>;
