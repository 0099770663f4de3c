// One message while it comes in: small ones stay in memory, larger ones go to a file.
// Promise: memory is bounded for one message and for all together. To make it stable is the
// storage's work; of a large one most is on the disk by then. The file is best made where it will be linked from (tmp/ of a Maildir),
// so that it is written only once.
import { type FileHandle, open, unlink } from 'node:fs/promises';
import type { Message } from '../mail/message.ts';
import { sizeOf } from '../durable/sync.ts';

/** Largest message that stays in memory. */
const maxMemoryBytes = 256 * 1024;
/** Of a larger one as much is written at once, after the first part. */
const writeBytes = 1024 * 1024;
/** All messages in memory together; beyond, also small ones go to a file. */
const maxTotalBytes = 16 * 1024 * 1024;
/** What a part costs besides its octets: content that drips octet by octet would take 500 times its size unseen. */
const partOverheadBytes = 512;
let totalBytes = 0;
/** What is written of a file before it is synced for the first time, and each further time. */
const syncEveryBytes = 8 * 1024 * 1024;

export class Spool {
  readonly #place: () => string;
  #path = '';
  #file: FileHandle | undefined;
  readonly #parts: Buffer[];
  #sizeBytes: number;
  #heldBytes = 0;
  #unsyncedBytes = 0;
  #written: Promise<void> = Promise.resolve();
  #synced: Promise<unknown> = Promise.resolve();

  /** `place`: the path of a file, when one is needed. `head` goes before what is written. */
  constructor(place: () => string, head: Buffer) {
    this.#place = place;
    this.#parts = [head];
    this.#sizeBytes = head.length;
  }

  /** Takes the octets. A promise is to be waited for before the next call. */
  write(data: Buffer): Promise<void> | undefined {
    this.#parts.push(data);
    this.#sizeBytes += data.length;
    this.#heldBytes += data.length + partOverheadBytes;
    totalBytes += data.length + partOverheadBytes;
    if (this.#heldBytes <= (this.#file ? writeBytes : maxMemoryBytes) && totalBytes <= maxTotalBytes) return undefined;
    // More comes in while this is written, but no more than that once.
    const before = this.#written;
    this.#written = before.then(() => this.#flush());
    this.#written.catch(() => undefined);
    return totalBytes > maxTotalBytes ? this.#written : before;
  }

  async finish(): Promise<Message> {
    await this.#written;
    if (this.#file === undefined) return { kind: 'memory', parts: this.#parts, sizeBytes: this.#sizeBytes };
    await this.#flush();
    await this.#synced;
    return { kind: 'file', path: this.#path, sizeBytes: this.#sizeBytes };
  }

  /** The header of a finished message, as far as it lies within its first octets; as latin1. */
  async header(maxOctets: number): Promise<string> {
    const octets = Math.min(maxOctets, this.#sizeBytes);
    let head = '';
    if (this.#file) head = (await this.#file.read(Buffer.alloc(octets), 0, octets, 0)).buffer.toString('latin1');
    else for (const part of this.#parts) head += part.toString('latin1', 0, octets - head.length);
    const end = head.indexOf('\n\n');
    return end < 0 ? head : head.slice(0, end);
  }

  /** Frees everything, whatever became of the message. Never rejects. */
  async release(): Promise<void> {
    await this.#written.catch(() => undefined);
    this.#take();
    if (this.#file) await Promise.allSettled([this.#file.close(), unlink(this.#path)]);
  }

  #take(): Buffer[] {
    totalBytes -= this.#heldBytes;
    this.#heldBytes = 0;
    return this.#parts.splice(0);
  }

  async #flush(): Promise<void> {
    this.#file ??= await open((this.#path = this.#place()), 'wx+', 0o600);
    const parts = this.#take();
    const octets = sizeOf(parts);
    // No copy into one buffer first: for 50 MB that raised the peak memory by another 20 MB. Writes go on where the last
    // one ended; a regular file takes less than it is given only when the disk is full.
    const { bytesWritten } = await this.#file.writev(parts);
    // Their memory goes at once, not when it is collected: of 50 MB that is 10 MB less at the peak. Small ones may share the pool.
    for (const { buffer, length } of parts) if (length > Buffer.poolSize / 2) (buffer as ArrayBuffer).transfer(0);
    if (bytesWritten !== octets) throw Object.assign(new Error(`${bytesWritten} octets written`), { code: 'ENOSPC' });
    this.#unsyncedBytes += octets;
    if (this.#unsyncedBytes < syncEveryBytes) return;
    this.#unsyncedBytes = 0;
    // The disk works while the client still sends. One that fails here counts: a later one may succeed without those pages.
    this.#synced = Promise.all([this.#synced, this.#file.datasync()]);
    this.#synced.catch(() => undefined);
  }
}
