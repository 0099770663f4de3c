// The records of messages, in memory only while somebody uses them.
// Promises:
// - All who use the record of a message at the same time share it, so no change is lost.
// - A record that could not be written stays in memory and counts, so that nothing is sent twice because the disk is
//   full.
// - When nobody uses a record any more, and nothing is left to do for the message, the store removes it.
import type { QueueEntry } from '../mail/message.ts';
import type { QueueStore, StoredEntry, StoredRecipient } from '../mail/queue-store.ts';
import type { Log } from '../system/log.ts';

/** How many removals that have failed are tried again in a second. */
const maxRemovals = 20;

type Use = {
  users: number;
  record: Promise<StoredEntry> | StoredEntry;
  /** The record says something that the store does not have yet. */
  isDirty: boolean;
  writing?: Promise<void>;
  nextWrite?: Promise<void> | undefined;
};

/** The record of a message that nobody has tried yet. */
export function newRecord(entry: QueueEntry, sizeBytes: number, now: number): StoredEntry {
  return { ...entry, sizeBytes, recipients: entry.recipients.map(to => ({ ...to, attempts: 0, nextAt: now })) };
}

export const pending = (record: StoredEntry): readonly StoredRecipient[] =>
  record.recipients.filter(({ isDone }) => !isDone);
export const isOver = (record: StoredEntry): boolean => record.recipients.every(({ isDone }) => isDone);

export class Records {
  readonly #store: QueueStore;
  readonly #log: Log;
  readonly #onOver: (id: string) => void;
  readonly #uses = new Map<string, Use>();
  /** Messages that are done but that the store could not remove. Each second that is tried again for some of them. */
  readonly #unremoved = new Set<string>();

  /** `onOver` is called just before a message is removed. */
  constructor(store: QueueStore, log: Log, onOver: (id: string) => void) {
    this.#store = store;
    this.#log = log;
    this.#onOver = onOver;
  }

  /**
   * Does some work with the record of a message. `known`: the record, where it is at hand and need not be read again.
   */
  async use<T>(id: string, work: (record: StoredEntry) => T | Promise<T>, known?: StoredEntry): Promise<T> {
    const use = this.#uses.get(id) ?? { users: 0, isDirty: false, record: known ?? this.#store.read(id) };
    this.#uses.set(id, use);
    use.users += 1;
    try {
      if (use.record instanceof Promise) use.record = await use.record;
      return await work(use.record);
    } finally {
      use.users -= 1;
      if (use.users === 0) await this.#release(id, use);
    }
  }

  /** Writes a record that is in use. Never rejects: what the store does not take is kept in memory. */
  save(record: StoredEntry): Promise<void> {
    const use = this.#uses.get(record.id);
    if (use === undefined) throw new Error('a record is saved that nobody uses');
    if (isOver(record) && use.users === 1) return Promise.resolve(); // it is removed at once
    // All who come while one write is under way share the next: a message to 1,000 domains is not written 1,000 times.
    use.nextWrite ??= (use.writing ?? Promise.resolve()).then(() => {
      use.nextWrite = undefined;
      use.isDirty = true;
      const written = (): void => void (use.isDirty = false);
      return (use.writing = this.#store.update(record).then(written, error => this.complain(record.id, error)));
    });
    return use.nextWrite;
  }

  /** To be called once a second: tries again to remove messages that the store could not remove. */
  tick(): void {
    for (const id of [...this.#unremoved].slice(0, maxRemovals))
      this.#store.remove(id).then(
        () => this.#unremoved.delete(id),
        () => undefined,
      );
  }

  complain(id: string, error: unknown): void {
    this.#log.error({ message: id, error: String(error) }, 'a queue entry cannot be read or written now');
  }

  async #release(id: string, use: Use): Promise<void> {
    const { record, isDirty } = use;
    const isRemoved = !(record instanceof Promise) && isOver(record);
    if (!isDirty || isRemoved) this.#uses.delete(id);
    if (!isRemoved) return;
    this.#onOver(id);
    await this.#store.remove(id).catch((error: unknown) => {
      this.#unremoved.add(id);
      this.complain(id, error);
    });
  }
}
