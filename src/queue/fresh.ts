// A store in front of the files that keeps new mail in the journal at first: most mail leaves at once and never needs
// files. A small message is in the journal, which could make its files after a crash, and in memory. It gets files when
// it has waited for a second or two, when its record changes, or when the server stops. Then the journal is told that
// this message is not its business any more.
// Promises:
// - What prepare() has resolved for survives a power cut, whether it has files or not.
// - Memory is bounded: beyond 16 MiB of fresh mail, and for large messages, files are written at once.
// - Where files cannot be written, mail is sent from the journal, and has its files as soon as they can be written.
import type { Message } from '../mail/message.ts';
import { collect } from '../mail/octets.ts';
import type { Journal, Prepared } from '../mail/ports.ts';
import type { QueueStore, StoredEntry } from '../mail/queue-store.ts';
import type { Log } from '../system/log.ts';
import { type FileStore, formatRecord, parseRecord } from './files.ts';

/** Octets of all fresh messages together. A message beyond that gets its files at once. */
const maxFreshBytes = 16 * 1024 * 1024;
/** So many messages get their files side by side. */
const maxWriting = 16;

/** A message without files. The journal lets go of it by `release`. */
type Fresh = {
  readonly json: Buffer;
  readonly message: Message;
  /** Octets that the record and the message cost in memory. */
  readonly heldBytes: number;
  readonly release: () => void;
  /** It was fresh already at the last tick. */
  isLate?: boolean;
  /** Its files are being written. */
  writing?: Promise<void>;
};

export class FreshStore implements QueueStore {
  readonly #files: FileStore;
  readonly #log: Log;
  readonly #fresh = new Map<string, Fresh>();
  #freshBytes = 0;
  #isWriting = false;
  #journal: Journal | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(files: FileStore, log: Log) {
    this.#files = files;
    this.#log = log;
  }

  /** Keeps small messages in that journal from now on. Without one every message has files at once. */
  use(journal: Journal | undefined): void {
    this.#journal = journal;
    this.#timer ??= setInterval(() => this.tick(), 1000).unref();
  }

  async prepare(entry: StoredEntry, message: Message): Promise<Prepared> {
    const { id } = entry;
    if (await this.#isTaken(entry, message)) return { commit: async () => undefined, abort: () => this.#forget(id) };
    return this.#files.prepare(entry, message);
  }

  /** Whether journal and memory have taken it. */
  async #isTaken(entry: StoredEntry, message: Message): Promise<boolean> {
    if (message.kind === 'file' || !this.#journal) return false;
    const [json = Buffer.alloc(0)] = collect([Buffer.from(formatRecord(entry))]).pieces;
    const heldBytes = json.buffer.byteLength + message.octets.heldBytes;
    if (this.#freshBytes + heldBytes > maxFreshBytes) return false;
    const { id } = entry;
    const { content, record, temporary } = this.#files.paths(id);
    if (this.#fresh.has(id)) throw new Error(`the queue has a message ${id} already`);
    const records = [
      { files: [{ final: content, temporary }], parts: message.octets.pieces },
      { files: [{ final: record, temporary }], parts: [json] },
    ];
    this.#freshBytes += heldBytes;
    const release = await this.#journal.append(records).catch(() => undefined);
    if (release) this.#fresh.set(id, { json, message, heldBytes, release });
    else this.#freshBytes -= heldBytes;
    return release !== undefined;
  }

  /**
   * Tells the journal that the files are not its business any more: else it may make them again after a crash. Never
   * rejects.
   */
  async #forget(id: string): Promise<void> {
    const fresh = this.#fresh.get(id);
    this.#fresh.delete(id);
    this.#freshBytes -= fresh?.heldBytes ?? 0;
    const { content, record } = this.#files.paths(id);
    const files = [content, record].map(final => ({ final, temporary: '' }));
    (await this.#journal?.append([{ files, parts: [] }]).catch(() => undefined))?.();
    fresh?.release();
  }

  /** To be called once a second: gives files to messages that had none a second ago either. */
  tick(): void {
    const late = [...this.#fresh].filter(([, { isLate }]) => isLate).map(([id]) => id);
    for (const fresh of this.#fresh.values()) fresh.isLate = true;
    if (this.#isWriting) return;
    this.#isWriting = true;
    void this.#giveFilesTo(late).finally(() => (this.#isWriting = false));
  }

  async settle(): Promise<void> {
    clearInterval(this.#timer);
    this.#timer = undefined;
    await this.#giveFilesTo(this.#fresh.keys());
  }

  /** Never rejects: what gets no files stays in the journal and in memory. */
  async #giveFilesTo(ids: Iterable<string>): Promise<void> {
    const left = [...ids].values();
    const failures: unknown[] = [];
    const work = async (): Promise<void> => {
      for (const id of left) await this.#giveFiles(id).catch((error: unknown) => failures.push(error));
    };
    await Promise.all(Array.from({ length: maxWriting }, work));
    const fields = { messages: failures.length, error: String(failures[0]) };
    if (failures.length > 0)
      this.#log.error(fields, 'queued mail is in the journal alone: its files cannot be written');
  }

  #giveFiles(id: string): Promise<void> {
    const fresh = this.#fresh.get(id);
    if (fresh === undefined) return Promise.resolve();
    const write = async (): Promise<void> => {
      const files = await this.#files.prepare(parseRecord(id, fresh.json.toString()), fresh.message);
      await files.commit();
      await this.#forget(id);
    };
    return (fresh.writing ??= write().catch((error: unknown) => {
      delete fresh.writing;
      throw error;
    }));
  }

  claim(): AsyncIterable<StoredEntry> {
    return this.#files.claim();
  }

  async read(id: string): Promise<StoredEntry> {
    const fresh = this.#fresh.get(id);
    return fresh ? parseRecord(id, fresh.json.toString()) : this.#files.read(id);
  }

  async message(record: StoredEntry): Promise<Message> {
    return this.#fresh.get(record.id)?.message ?? this.#files.message(record);
  }

  async update(record: StoredEntry): Promise<void> {
    await this.#giveFiles(record.id);
    await this.#files.update(record);
  }

  async remove(id: string): Promise<void> {
    for (let fresh; (fresh = this.#fresh.get(id));) {
      if (!fresh.writing) return this.#forget(id);
      await fresh.writing.catch(() => undefined);
    }
    await this.#files.remove(id);
  }
}
