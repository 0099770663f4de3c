// The queue's store on disk: the file `<id>` is the message as given, `<id>.json` its record.
// Promises:
// - A message is in the queue once its json has been renamed into place and the folder synced. It is there whole or not
//   at all.
// - It goes in reverse order, json first. What a crash left half-made is swept at start.
// - A json that cannot be read is logged and left alone.
// Small calls are synchronous, because the way through the thread pool costs more than they do. Only fsyncs go to the
// pool.
import fs from 'node:fs';
import { opendir, unlink } from 'node:fs/promises';
import { linkOrCopy } from '../durable/link.ts';
import { replaceFile } from '../durable/replace.ts';
import { FolderSync } from '../durable/folder-sync.ts';
import { create, sync } from '../durable/sync.ts';
import type { Message } from '../mail/message.ts';
import type { Prepared } from '../mail/ports.ts';
import type { QueueStore, StoredEntry, StoredRecipient } from '../mail/queue-store.ts';
import type { Log } from '../system/log.ts';

export class FileStore implements QueueStore {
  readonly #folder: string;
  readonly #log: Log;
  readonly #folders = new FolderSync();

  constructor(folder: string, log: Log) {
    this.#folder = folder;
    this.#log = log;
  }

  /** Where the files of a message stand, and where its record is written before it is renamed. */
  paths(id: string): Readonly<Record<'content' | 'record' | 'temporary', string>> {
    const content = `${this.#folder}/${id}`;
    return { content, record: `${content}.json`, temporary: `${content}.json.tmp` };
  }

  async prepare(entry: StoredEntry, message: Message): Promise<Prepared> {
    const { content, record, temporary } = this.paths(entry.id);
    const discardAll = (): void => [content, temporary, record].forEach(discard);
    const isMemory = message.kind === 'memory';
    // This rejects where the queue has that message already; the earlier one stays.
    const fd = isMemory ? create(content, message.octets.pieces) : undefined;
    if (!isMemory) await linkOrCopy(message.path, content);
    const stable = [sync(content, fd)];
    try {
      stable.push(this.#write(entry));
      await Promise.all(stable);
    } catch (error) {
      discardAll();
      throw error;
    }
    const commit = async (): Promise<void> => {
      try {
        fs.renameSync(temporary, record);
        await this.#folders.sync(this.#folder);
      } catch (error) {
        discardAll();
        throw error;
      }
    };
    return { commit, abort: async () => discardAll() };
  }

  async read(id: string): Promise<StoredEntry> {
    return parseRecord(id, fs.readFileSync(this.paths(id).record, 'utf8'));
  }

  async message({ id, sizeBytes }: StoredEntry): Promise<Message> {
    return { kind: 'file', path: this.paths(id).content, sizeBytes };
  }

  async update(entry: StoredEntry): Promise<void> {
    const { record, temporary } = this.paths(entry.id);
    const syncFolder = (folder: string): Promise<void> => this.#folders.sync(folder);
    await replaceFile(record, formatRecord(entry), { temporary, syncFolder });
  }

  async remove(id: string): Promise<void> {
    const { content, record } = this.paths(id);
    // This is not synchronous, because unlinking a file that was just synced waits for the file system's journal, 2.4
    // ms at a time.
    await removed(record);
    await this.#folders.sync(this.#folder);
    await removed(content);
  }

  async settle(): Promise<void> {
    // Everything is in its files already.
  }

  async #write(entry: StoredEntry): Promise<void> {
    const { temporary } = this.paths(entry.id);
    await sync(temporary, create(temporary, [Buffer.from(formatRecord(entry))]));
  }

  /**
   * Gives every record, and removes on the way what a crash has left half-made. The event loop has a turn after each
   * 128 records or so.
   */
  async *claim(): AsyncGenerator<StoredEntry> {
    let swept = 0;
    for await (const { name } of await opendir(this.#folder, { bufferSize: 256 })) {
      if (/^[a-z0-9]+\.json$/i.test(name)) {
        try {
          yield await this.read(name.slice(0, -5));
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

/** On the disk `returnPathBytes` has its first name, `skipBytes`, so that every version reads every record. */
export function formatRecord({ returnPathBytes, ...entry }: StoredEntry): string {
  return JSON.stringify({ ...entry, skipBytes: returnPathBytes });
}

/** Throws where the text is not a record of that message. */
export function parseRecord(id: string, text: string): StoredEntry {
  const parsed = JSON.parse(text) as (StoredEntry & { readonly skipBytes?: unknown }) | null;
  const { skipBytes, ...fields } = parsed ?? ({} as NonNullable<typeof parsed>);
  const entry: StoredEntry = { ...fields, returnPathBytes: typeof skipBytes === 'number' ? skipBytes : 0 };
  const isEntry = entry.id === id && typeof entry.from === 'string' && Number.isFinite(entry.receivedAt);
  if (!isEntry || !Array.isArray(entry.recipients) || !entry.recipients.every(isRecipient))
    throw new Error('it is not a queue entry');
  return entry;
}

/** Whether a recipient has all that scheduling needs. */
function isRecipient(each: Partial<StoredRecipient> | null): boolean {
  const isTimed = Number.isFinite(each?.attempts) && Number.isFinite(each?.nextAt);
  return isTimed && typeof each?.address === 'string' && typeof each.domain === 'string';
}

async function removed(path: string): Promise<void> {
  await unlink(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
  });
}

/** Never throws: what cannot be removed now is swept at the next start. */
function discard(path: string): void {
  try {
    fs.rmSync(path, { force: true });
  } catch {}
}
