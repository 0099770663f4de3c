// The queue on disk: `<id>` is the message as given, `<id>.json` its envelope with what became of each recipient so far.
// Promises: an entry is there once its json has been renamed into place and the folder synced, whole or not at all; it goes
// in reverse, json first. What a crash left half-made is swept at start; a json that cannot be read is left alone.
// Never holds a body in memory. Small calls are synchronous, only fsyncs go to the pool.
import fs from 'node:fs';
import { copyFile, opendir, unlink } from 'node:fs/promises';
import type { Delivery, Log, Message, Prepared, QueueEntry, QueueRecipient, StoredMessage } from '../mail.ts';
import { FolderSync, create, sync } from '../stable.ts';

/** A recipient with its state. `last` that is not deferred, without `isDone`: only the notice of it is still owed. */
export type StoredRecipient = QueueRecipient & {
  attempts: number;
  nextAt: number;
  last?: Delivery;
  isDone?: boolean;
  isHeld?: boolean;
  isDelayTold?: boolean;
};
export type StoredEntry = Omit<QueueEntry, 'recipients'> & {
  readonly sizeBytes: number;
  readonly recipients: readonly StoredRecipient[];
};

export class QueueFolder {
  readonly #folder: string;
  readonly #log: Log;
  readonly #folders = new FolderSync();

  constructor(folder: string, log: Log) {
    this.#folder = folder;
    this.#log = log;
  }

  async prepare(entry: StoredEntry, message: Message): Promise<Prepared> {
    const path = `${this.#folder}/${entry.id}`;
    const files = [path, `${path}.json.tmp`, `${path}.json`] as const;
    const discardAll = (): void => files.forEach(discard);
    const isMemory = message.kind === 'memory';
    // Rejects where the queue has that message already, which stays.
    const fd = isMemory ? create(path, message.parts) : undefined;
    if (!isMemory && !isLinked(message.path, path)) await copyFile(message.path, path, fs.constants.COPYFILE_EXCL);
    const stable = [sync(path, fd)];
    try {
      stable.push(this.#write(entry));
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
    const entry = JSON.parse(fs.readFileSync(`${this.#folder}/${id}.json`, 'utf8')) as StoredEntry | null;
    const isEntry = entry?.id === id && typeof entry.from === 'string' && Number.isFinite(entry.receivedAt);
    if (!isEntry || !Array.isArray(entry.recipients) || !entry.recipients.every(isRecipient))
      throw new Error('it is not a queue entry');
    return entry;
  }

  message({ id, sizeBytes }: StoredEntry): StoredMessage {
    return { kind: 'file', path: `${this.#folder}/${id}`, sizeBytes };
  }

  /** Writes what an entry says now. */
  async update(entry: StoredEntry): Promise<void> {
    const path = `${this.#folder}/${entry.id}.json`;
    try {
      await this.#write(entry);
      fs.renameSync(`${path}.tmp`, path);
    } catch (error) {
      discard(`${path}.tmp`);
      throw error;
    }
    await this.#folders.sync(this.#folder);
  }

  async remove(id: string): Promise<void> {
    // Not synchronous: unlinking a file that was just synced waits for the journal, 2.4 ms at a time.
    await removed(`${this.#folder}/${id}.json`);
    await this.#folders.sync(this.#folder);
    await removed(`${this.#folder}/${id}`);
  }

  async #write(entry: StoredEntry): Promise<void> {
    const path = `${this.#folder}/${entry.id}.json.tmp`;
    await sync(path, create(path, [Buffer.from(JSON.stringify(entry))]));
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
