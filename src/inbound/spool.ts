// One message while it comes in. A small one stays in memory, a larger one goes to a file.
// Promises: memory is bounded for one message and for all together, and everything counts that is held, also while it
// is being written. The file is best made where it will be linked from (tmp/ of a Maildir), so that it is written only
// once. To make it stable is the storage's work; of a large message most is on the disk by then.
//
// Header lines of ours (what a check has found) can be put in front of content that has come already, between the
// Return-Path and the trace. In memory that costs nothing. A file begins with its head, so a caller that will have such
// lines reserves room for them when the message begins. What is left of that room becomes blanks at the ends of these
// lines of ours, where they say nothing. Lines that are longer than their room, or shorter by more than blanks can
// fill, cost a second write of the content.
import { readdirSync, unlinkSync } from 'node:fs';
import { type FileHandle, open, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { copyBehind } from '../durable/copy.ts';
import { datasync, noSpace, sizeOf } from '../durable/sync.ts';
import type { Content } from '../mail/judgement.ts';
import { type Message, readMessage } from '../mail/message.ts';
import { Collector, type Octets, free, prepend, slice } from '../mail/octets.ts';

/** The largest message that stays in memory. */
const maxMemoryBytes = 256 * 1024;
/** Of a larger message so much is written at once, after the first part. */
const writeBytes = 1024 * 1024;
/** The budget of all messages in memory together. Beyond it small messages go to files, too. */
const maxTotalBytes = 16 * 1024 * 1024;
/** So much of a file is written before it is synced for the first time, and each further time. */
const syncEveryBytes = 8 * 1024 * 1024;
/** What all messages hold now. */
let totalBytes = 0;

/**
 * The head of a message; each line ends in LF. `returnPath`, and lines behind it that stand there too, are for Maildirs
 * alone.
 */
type Head = Readonly<{ returnPath: string; trace: string }>;
/** `returnPathBytes`: so many octets in front are for Maildirs alone. */
export type Finished = Readonly<{ message: Message; returnPathBytes: number }>;
/** `contentAt`: where the content begins. `octets`: how long it is by now. */
type SpoolFile = { readonly handle: FileHandle; readonly path: string; readonly contentAt: number; octets: number };

export class Spool {
  readonly #path: () => string;
  readonly #head: Head;
  readonly #reservedBytes: number;
  readonly #collector = new Collector();
  #file: SpoolFile | undefined;
  /** The content, once all of it has come and has stayed in memory. */
  #content: Octets | undefined;
  #heldBytes = 0;
  #unsyncedBytes = 0;
  #written: Promise<void> = Promise.resolve();
  #synced: Promise<unknown> = Promise.resolve();

  /**
   * `path`: where a file is to be made, when one is needed. `reservedBytes`: room for the lines that finish() may get.
   */
  constructor(path: () => string, head: Head, reservedBytes = 0) {
    this.#path = path;
    this.#head = head;
    this.#reservedBytes = reservedBytes;
  }

  /** Takes the octets, which belong to it from now on. A promise is to be waited for before the next call. */
  write(data: Buffer): Promise<void> | undefined {
    const before = this.#collector.heldBytes;
    this.#collector.add(data);
    this.#hold(this.#collector.heldBytes - before);
    const limit = this.#file ? writeBytes : maxMemoryBytes;
    if (this.#collector.heldBytes <= limit && totalBytes <= maxTotalBytes) return undefined;
    // More comes in while this is written, but no more than that once.
    const earlier = this.#written;
    this.#written = earlier.then(() => this.#flush());
    this.#written.catch(() => undefined);
    return totalBytes > maxTotalBytes ? this.#written : earlier;
  }

  /** The header of the content, after its last octet; as far as it lies within its first octets, as latin1. */
  async header(maxOctets: number): Promise<string> {
    const file = await this.#end();
    const head = file
      ? readMessage(messageOf(file), file.contentAt, maxOctets)
      : slice(this.#content as Octets, 0, maxOctets);
    const end = head.indexOf('\n\n');
    return head.toString('latin1', 0, end < 0 ? head.length : end);
  }

  /** The content, after its last octet. */
  async content(): Promise<Content> {
    const file = await this.#end();
    if (file) return { message: messageOf(file), start: file.contentAt };
    const octets = this.#content as Octets;
    return { message: { kind: 'memory', octets, sizeBytes: octets.sizeBytes }, start: 0 };
  }

  /** Other octets in place of as many of the content, from there on, after its last octet. */
  async overwrite(at: number, octets: string): Promise<void> {
    const file = await this.#end();
    if (file) return writeAt(file, [Buffer.from(octets, 'latin1')], file.contentAt + at);
    let start = at;
    for (const piece of (this.#content as Octets).pieces) {
      const from = Math.max(0, -start);
      if (start < piece.length && from < octets.length) piece.write(octets.slice(from), Math.max(0, start), 'latin1');
      start -= piece.length;
    }
  }

  /** The whole message, after its last octet, with these lines between Return-Path and trace; each ends in LF. */
  async finish(lines = ''): Promise<Finished> {
    const file = await this.#end();
    const { returnPath, trace } = this.#head;
    const returnPathBytes = Buffer.byteLength(returnPath);
    if (file === undefined) {
      const content = this.#content as Octets;
      const octets = prepend(this.#headOctets(lines), content);
      this.#hold(octets.heldBytes - content.heldBytes);
      return { message: { kind: 'memory', octets, sizeBytes: octets.sizeBytes }, returnPathBytes };
    }
    const left = this.#reservedBytes - Buffer.byteLength(lines);
    const widened = widen(lines + trace, left);
    if (widened.left !== 0) await this.#rewrite(file, returnPath + lines + trace);
    else if (this.#reservedBytes > 0) await writeAt(file, [Buffer.from(returnPath + widened.text)], 0);
    await this.#synced;
    return { message: messageOf(this.#file ?? file), returnPathBytes };
  }

  /** Frees everything, whatever became of the message. Never rejects. */
  async release(): Promise<void> {
    await this.#written.catch(() => undefined);
    this.#collector.take();
    this.#content = undefined;
    this.#hold(-this.#heldBytes);
    if (this.#file) await remove(this.#file);
  }

  #hold(bytes: number): void {
    this.#heldBytes += bytes;
    totalBytes += bytes;
  }

  /** All content is in memory, or all of it is in the file. */
  async #end(): Promise<SpoolFile | undefined> {
    await this.#written;
    if (this.#file) await this.#flush();
    else this.#content ??= this.#collector.take();
    return this.#file;
  }

  async #flush(): Promise<void> {
    if (this.#collector.sizeBytes === 0) return;
    const file = (this.#file ??= await this.#make());
    // What has come while it was made is written, too.
    const { pieces, sizeBytes, heldBytes } = this.#collector.take();
    if (file.octets === 0 && this.#reservedBytes === 0) await writeAt(file, [this.#headOctets(), ...pieces], 0);
    else await writeAt(file, pieces, file.contentAt + file.octets);
    file.octets += sizeBytes;
    pieces.forEach(free);
    this.#hold(-heldBytes);
    this.#unsyncedBytes += sizeBytes;
    if (this.#unsyncedBytes < syncEveryBytes) return;
    this.#unsyncedBytes = 0;
    // The disk works while the client still sends. A sync that fails here counts: a later one may succeed without those
    // pages.
    this.#synced = Promise.all([this.#synced, datasync(file.handle.fd)]);
    this.#synced.catch(() => undefined);
  }

  /** A new file, in which the content will stand behind the head and the room for lines. */
  async #make(): Promise<SpoolFile> {
    const path = this.#path();
    const handle = await open(path, 'wx+', 0o600);
    return { handle, path, contentAt: this.#headOctets().length + this.#reservedBytes, octets: 0 };
  }

  #headOctets(lines = ''): Buffer {
    const { returnPath, trace } = this.#head;
    return Buffer.from(returnPath + lines + trace);
  }

  /** The content once more, behind that head, in a new file in place of the old one. */
  async #rewrite(old: SpoolFile, head: string): Promise<void> {
    const path = `${old.path}0`;
    await copyBehind(head, old.path, path, old.contentAt);
    this.#file = { handle: await open(path, 'r+'), path, contentAt: Buffer.byteLength(head), octets: old.octets };
    await remove(old);
  }
}

/** For a start: what lies in the spool then is left from a crash, and was never acknowledged. */
export function emptySpool(folder: string): void {
  for (const name of readdirSync(folder)) unlinkSync(join(folder, name));
}

const messageOf = ({ path, contentAt, octets }: SpoolFile): Message => ({
  kind: 'file',
  path,
  sizeBytes: contentAt + octets,
});

/** No copy into one buffer first: for 50 MB that raised the peak memory by another 20 MB. */
async function writeAt({ handle, path }: SpoolFile, pieces: readonly Buffer[], at: number): Promise<void> {
  const { bytesWritten } = await handle.writev(pieces, at);
  // A regular file takes less than it is given only when the disk is full.
  if (bytesWritten !== sizeOf(pieces)) throw noSpace(path);
}

/** Never rejects. */
async function remove({ handle, path }: SpoolFile): Promise<void> {
  await Promise.allSettled([handle.close(), unlink(path)]);
}

/** RFC 5322 §2.1.1, with the line end, which is LF here. */
const maxLineOctets = 999;

/** Lines with so many blanks at their ends, as far as they have room for them. `left`: those that have none. */
function widen(text: string, octets: number): { readonly text: string; readonly left: number } {
  let left = octets;
  const widened = text.replaceAll(/.*\n/g, line => {
    const blanks = Math.max(0, Math.min(left, maxLineOctets - Buffer.byteLength(line)));
    left -= blanks;
    return `${line.slice(0, -1)}${' '.repeat(blanks)}\n`;
  });
  return { text: widened, left };
}
