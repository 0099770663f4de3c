// The queue on disk: `<id>` is the message as given, `<id>.json` its envelope with what became of each recipient so far.
// Promises: an entry is there once its json has been renamed into place and the folder synced, whole or not at all; it goes
// in reverse, json first. What a crash left half-made is swept at start; a json that cannot be read is left alone.
// A small message is in the journal at first, which could make its files, and in memory: most leave at once and never have
// any. What waits for more than a second or two gets them. Small calls are synchronous, only fsyncs go to the pool.
import fs from 'node:fs';
import { copyFile, opendir, unlink } from 'node:fs/promises';
import type { Delivery, Message, QueueEntry, QueueRecipient } from '../mail/message.ts';
import type { Journal, Prepared } from '../mail/ports.ts';
import { collect } from '../mail/octets.ts';
import type { Log } from '../system/log.ts';
import { FolderSync, create, sync } from '../durable/sync.ts';

/** All messages without files together; what comes then gets its own at once. */
const maxHeldBytes = 16 * 1024 * 1024;
/** How many get theirs side by side. */
const maxSettling = 16;

/** A recipient with its state. `last` that is not deferred, without `isDone`: only the notice of it is still owed. */
export type StoredRecipient = QueueRecipient & {
  attempts: number;
  nextAt: number;
  last?: Delivery;
  isDone?: boolean;
  isHeld?: boolean;
  isDelayTold?: boolean;
};
export type StoredEntry = Omit<QueueEntry, 'recipients' | 'madeCopies'> & {
  readonly sizeBytes: number;
  readonly recipients: readonly StoredRecipient[];
  madeCopies?: readonly string[];
};

/** A message without files; the journal lets go of it by `release`. */
type Held = {
  readonly json: Buffer;
  readonly message: Message;
  readonly release: () => void;
  isLate?: boolean;
  settled?: Promise<void>;
};

export class QueueFolder {
  readonly #folder: string;
  readonly #log: Log;
  readonly #folders = new FolderSync();
  readonly #held = new Map<string, Held>();
  #heldBytes = 0;
  #isSettling = false;
  #journal: Journal | undefined;

  constructor(folder: string, log: Log) {
    this.#folder = folder;
    this.#log = log;
  }

  /** Small messages are held in that journal from now on. */
  use(journal: Journal | undefined): void {
    this.#journal = journal;
  }

  async prepare(entry: StoredEntry, message: Message): Promise<Prepared> {
    const [json = Buffer.alloc(0)] = collect([Buffer.from(JSON.stringify(entry))]).pieces;
    if (await this.#hold(entry.id, json, message))
      return { commit: async () => undefined, abort: () => this.#forget(entry.id) };
    return this.#keep(entry.id, json, message);
  }

  /** Whether journal and memory have taken it. */
  async #hold(id: string, json: Buffer, message: Message): Promise<boolean> {
    const heldBytes = heldBytesOf(json, message);
    if (message.kind === 'file' || !this.#journal || this.#heldBytes + heldBytes > maxHeldBytes) return false;
    const parts = message.octets.pieces;
    const [path, temporary] = [`${this.#folder}/${id}`, `${this.#folder}/${id}.json.tmp`];
    if (this.#held.has(id) || fs.existsSync(path)) throw new Error(`the queue has a message ${id} already`);
    const records = [
      { files: [{ final: path, temporary }], parts },
      { files: [{ final: `${path}.json`, temporary }], parts: [json] },
    ];
    this.#heldBytes += heldBytes;
    const release = await this.#journal.append(records).catch(() => undefined);
    if (release) this.#held.set(id, { json, message, release });
    else this.#heldBytes -= heldBytes;
    return release !== undefined;
  }

  /** The journal is told that the files are not its business any more. Never rejects: else it may make them again after a crash. */
  async #forget(id: string): Promise<void> {
    const held = this.#held.get(id);
    this.#held.delete(id);
    if (held) this.#heldBytes -= heldBytesOf(held.json, held.message);
    const files = [id, `${id}.json`].map(name => ({ final: `${this.#folder}/${name}`, temporary: '' }));
    (await this.#journal?.append([{ files, parts: [] }]).catch(() => undefined))?.();
    held?.release();
  }

  /** Once a second: gives files to what had none at the last call either. */
  settleLate(): void {
    const late = [...this.#held].filter(([, { isLate }]) => isLate).map(([id]) => id);
    for (const held of this.#held.values()) held.isLate = true;
    if (this.#isSettling) return;
    this.#isSettling = true;
    void this.settle(late).finally(() => (this.#isSettling = false));
  }

  /** Gives these files, some at a time, where they have none; else all that is held. Never rejects: what gets none stays held. */
  async settle(ids: Iterable<string> = this.#held.keys()): Promise<void> {
    const left = [...ids].values();
    const failures: unknown[] = [];
    const work = async (): Promise<void> => {
      for (const id of left) await this.#giveFiles(id).catch((error: unknown) => failures.push(error));
    };
    await Promise.all(Array.from({ length: maxSettling }, work));
    const fields = { messages: failures.length, error: String(failures[0]) };
    if (failures.length > 0)
      this.#log.error(fields, 'queued mail is in the journal alone: its files cannot be written');
  }

  #giveFiles(id: string): Promise<void> {
    const held = this.#held.get(id);
    if (held === undefined) return Promise.resolve();
    return (held.settled ??= this.#keep(id, held.json, held.message)
      .then(files => files.commit())
      .then(() => this.#forget(id))
      .catch((error: unknown) => {
        delete held.settled;
        throw error;
      }));
  }

  async #keep(id: string, json: Buffer, message: Message): Promise<Prepared> {
    const path = `${this.#folder}/${id}`;
    const files = [path, `${path}.json.tmp`, `${path}.json`] as const;
    const discardAll = (): void => files.forEach(discard);
    const isMemory = message.kind === 'memory';
    // Rejects where the queue has that message already, which stays.
    const fd = isMemory ? create(path, message.octets.pieces) : undefined;
    if (!isMemory && !isLinked(message.path, path)) await copyFile(message.path, path, fs.constants.COPYFILE_EXCL);
    const stable = [sync(path, fd)];
    try {
      stable.push(this.#write(id, json));
      await Promise.all(stable);
    } catch (error) {
      discardAll();
      throw error;
    }
    const commit = async (): Promise<void> => {
      try {
        fs.renameSync(files[1], files[2]);
        await this.#folders.sync(this.#folder);
      } catch (error) {
        discardAll();
        throw error;
      }
    };
    return { commit, abort: async () => discardAll() };
  }

  read(id: string): StoredEntry {
    const entry = JSON.parse(
      this.#held.get(id)?.json.toString() ?? fs.readFileSync(`${this.#folder}/${id}.json`, 'utf8'),
    ) as StoredEntry | null;
    const isEntry = entry?.id === id && typeof entry.from === 'string' && Number.isFinite(entry.receivedAt);
    if (!isEntry || !Array.isArray(entry.recipients) || !entry.recipients.every(isRecipient))
      throw new Error('it is not a queue entry');
    return entry;
  }

  message({ id, sizeBytes }: StoredEntry): Message {
    return this.#held.get(id)?.message ?? { kind: 'file', path: `${this.#folder}/${id}`, sizeBytes };
  }

  /** Writes what an entry says now. */
  async update(entry: StoredEntry): Promise<void> {
    await this.#giveFiles(entry.id);
    const path = `${this.#folder}/${entry.id}.json`;
    try {
      await this.#write(entry.id, Buffer.from(JSON.stringify(entry)));
      fs.renameSync(`${path}.tmp`, path);
    } catch (error) {
      discard(`${path}.tmp`);
      throw error;
    }
    await this.#folders.sync(this.#folder);
  }

  async remove(id: string): Promise<void> {
    for (let held; (held = this.#held.get(id));) {
      if (!held.settled) return this.#forget(id);
      await held.settled.catch(() => undefined);
    }
    // Not synchronous: unlinking a file that was just synced waits for the journal, 2.4 ms at a time.
    await removed(`${this.#folder}/${id}.json`);
    await this.#folders.sync(this.#folder);
    await removed(`${this.#folder}/${id}`);
  }

  async #write(id: string, json: Buffer): Promise<void> {
    const path = `${this.#folder}/${id}.json.tmp`;
    await sync(path, create(path, [json]));
  }

  /** Every entry; call it before anything is prepared. A turn of the event loop passes after each 128 or so. */
  async *scan(): AsyncGenerator<StoredEntry> {
    let swept = 0;
    for await (const { name } of await opendir(this.#folder, { bufferSize: 256 })) {
      if (/^[a-z0-9]+\.json$/i.test(name)) {
        try {
          yield this.read(name.slice(0, -5));
        } catch (error) {
          this.#log.error({ file: name, error: String(error) }, 'a queue entry cannot be read and is left alone');
        }
      } else if (/^[a-z0-9]+(\.json\.tmp)?$/i.test(name) && !fs.existsSync(`${this.#folder}/${name}.json`)) {
        discard(`${this.#folder}/${name}`);
        swept += 1;
      }
    }
    if (swept > 0) this.#log.info({ files: swept }, 'what a crash had left half-made in the queue was removed');
  }
}

/** What a message without files costs in memory. */
function heldBytesOf(json: Buffer, message: Message): number {
  return json.buffer.byteLength + (message.kind === 'memory' ? message.octets.heldBytes : 0);
}

/** What scheduling needs of a recipient. */
function isRecipient(each: Partial<StoredRecipient> | null): boolean {
  const isTimed = Number.isFinite(each?.attempts) && Number.isFinite(each?.nextAt);
  return isTimed && typeof each?.address === 'string' && typeof each.domain === 'string';
}

async function removed(path: string): Promise<void> {
  await unlink(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
  });
}

function isLinked(original: string, path: string): boolean {
  try {
    fs.linkSync(original, path);
    return true;
  } catch {
    return false; // another file system, or whatever: the copy meets the same trouble, or succeeds
  }
}

/** Never throws: what cannot be removed now is swept at the next start. */
function discard(path: string): void {
  try {
    fs.rmSync(path, { force: true });
  } catch {}
}
