// What the queue keeps of a message, and the port to the store that keeps it: files today, a database later.
// The queue alone decides what happens to a message. A store only keeps records and contents, stable where it says so.
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
