// The journal of small messages: it makes them stable before their files, in Maildirs and in the queue, are.
// Promises: a message whose append() has resolved survives a power cut: what is missing or torn of its files is written again
// at the next start. One write and one fdatasync serve all who wait, in place of a sync of each file and folder.
// A segment is done when the files that it speaks of are on the disk, a few seconds later: then `sync -f` has synced their whole
// file systems (Node has no syncfs). It is written over then: a sync of octets where there were some before leaves the file system's
// own journal alone, which else makes everybody wait. Never refuses mail: in trouble each file is synced as if it were not there.
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import { basename, dirname } from 'node:path';
import { promisify } from 'node:util';
import { crc32 } from 'node:zlib';
import type { Journal, JournalRecord } from '../mail/ports.ts';
import type { Log } from '../system/log.ts';
import { create, sizeOf, sync } from './sync.ts';
import type { Clock, Random } from '../system/world.ts';

const checkpointMs = 5000;
/** After trouble, until it is tried again. */
const pauseMs = 5000;
/** What the name of a segment ends in that `sync -f` could not make good. */
const forgotten = '.forgotten';
const maxSegmentOctets = 64 * 1024 * 1024;
/** By which a segment grows at a time. */
const zeros = Buffer.alloc(1024 * 1024);
/** Kept to be written over: one is written while another waits for `sync -f`. */
const maxSpare = 2;
/** Syncing a whole file system may take long where others write to it, too. */
const syncTimeoutMs = 10 * 60_000;

const run = promisify(execFile);
const fdatasync = promisify(fs.fdatasync);
const writev = promisify(fs.writev);

export type System = { readonly clock: Clock; readonly random: Random; readonly log: Log };
type Segment = {
  readonly path: string;
  readonly fd: number;
  /** Its first octets, and in each checksum: what is left from before is no record. 0: there is nothing here. */
  readonly salt: number;
  users: number;
  octets: number;
  /** The length of the file: zeros at its end. */
  reserved: number;
  isSpoilt?: boolean;
  readonly places: Map<number, string>;
};
type Waiting = {
  readonly records: readonly JournalRecord[];
  readonly resolve: (release: () => void) => void;
  readonly reject: (error: unknown) => void;
};

export class DiskJournal implements Journal {
  readonly #folder: string;
  readonly #system: System;
  readonly #timer: NodeJS.Timeout;
  #segment: Segment | undefined;
  /** To go once nobody uses them. */
  readonly #full = new Set<Segment>();
  readonly #spare: Segment[] = [];
  readonly #waiting: Waiting[] = [];
  #isWriting = false;
  #checking: Promise<void> | undefined;
  #isPaused = false;

  private constructor(folder: string, system: System) {
    this.#folder = folder;
    this.#system = system;
    this.#timer = setInterval(() => void this.checkpoint(), checkpointMs).unref();
  }

  /** Puts right what a crash has left, then begins. undefined: this system has no `sync -f`. Call it before mail is taken. */
  static async open(folder: string, system: System): Promise<DiskJournal | undefined> {
    const { log } = system;
    const restored = restore(folder, segmentsIn(folder), log);
    try {
      await run('sync', ['-f', '/proc']); // whether there is one: of that file system there is nothing to sync
      await syncAll(restored.flatMap(({ places }) => places));
    } catch (error) {
      const text = 'file systems cannot be synced by sync -f: each file is synced by itself, which is slower';
      log.warn({ error: String(error) }, text);
      return undefined;
    }
    for (const { path, isWhole } of restored) if (isWhole) fs.unlinkSync(path);
    return new DiskJournal(folder, system);
  }

  append(records: readonly JournalRecord[]): Promise<() => void> {
    return new Promise((resolve, reject) => {
      if (this.#isPaused) return reject(new Error('the journal has trouble'));
      this.#waiting.push({ records, resolve, reject });
      if (!this.#isWriting) void this.#write();
    });
  }

  /** Lets go of what is in place and on the disk. */
  checkpoint(): Promise<void> {
    return (this.#checking ??= this.#check().finally(() => (this.#checking = undefined)));
  }

  /** After the last message: leaves nothing for the next start to look at. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#checking;
    await this.checkpoint();
    for (const { fd, path } of this.#spare.splice(0)) remove(fd, path);
  }

  async #write(): Promise<void> {
    this.#isWriting = true;
    await new Promise(setImmediate); // who comes in this turn of the event loop is in the first group
    for (let group; (group = this.#waiting.splice(0)).length > 0;) {
      let begun: Segment | undefined;
      try {
        const segment = (begun = this.#segment ??= await this.#begin());
        segment.users += group.length;
        const all = group.flatMap(({ records }) => records);
        for (const { final, fileSystem } of all.flatMap(({ files }) => files))
          if (fileSystem !== undefined && !segment.places.has(fileSystem))
            segment.places.set(fileSystem, dirname(final));
        const parts = all.flatMap(record => encode(record, segment.salt));
        const at = segment.octets;
        segment.octets += sizeOf(parts);
        if (segment.octets > segment.reserved) {
          parts.push(zeros.subarray(segment.octets % zeros.length));
          segment.reserved = at + sizeOf(parts);
        }
        const { bytesWritten } = await writev(segment.fd, parts, at);
        if (bytesWritten !== sizeOf(parts))
          throw Object.assign(new Error('no space for the journal'), { code: 'ENOSPC' });
        await fdatasync(segment.fd);
        for (const { resolve } of group) resolve(() => void (segment.users -= 1));
        if (segment.octets > maxSegmentOctets) this.#retire();
      } catch (error) {
        // Nothing is written behind what may be torn, and no sync of it is tried again as if all were well.
        if (begun) begun.users -= group.length;
        if (begun) begun.isSpoilt = true;
        this.#retire();
        this.#isPaused = true;
        setTimeout(() => (this.#isPaused = false), pauseMs).unref();
        const fields = { folder: this.#folder, error: String(error) };
        this.#system.log.warn(fields, 'the journal cannot be written now: each file is synced by itself');
        for (const { reject } of group) reject(error);
      }
    }
    this.#isWriting = false;
  }

  async #begin(): Promise<Segment> {
    const { clock, random } = this.#system;
    const salt = Number.parseInt(random.hex(4), 16) || 1;
    const head = Buffer.alloc(4);
    head.writeUInt32LE(salt);
    const begun = { salt, users: 0, octets: head.length, places: new Map<number, string>() };
    const spare = this.#spare.pop();
    if (spare) {
      fs.writeSync(spare.fd, head, 0, head.length, 0);
      return { ...spare, ...begun };
    }
    const path = `${this.#folder}/${clock.now().toString(36)}${random.hex(5)}`;
    const fd = create(path, [head]);
    await sync(this.#folder);
    return { path, fd, reserved: 0, ...begun };
  }

  #retire(): void {
    if (this.#segment) this.#full.add(this.#segment);
    this.#segment = undefined;
  }

  async #check(): Promise<void> {
    this.#retire();
    const done: Segment[] = [];
    for (const segment of this.#full)
      if (segment.users > 0) break;
      else done.push(segment);
    for (const segment of done) this.#full.delete(segment);
    const paths = done.map(({ path }) => path);
    try {
      const isSynced = await syncAll(done.flatMap(({ places }) => [...places.values()])).then(
        () => true,
        () => false,
      );
      if (isSynced) for (const segment of done) await this.#clear(segment);
      else {
        for (const { fd } of done) fs.closeSync(fd);
        await this.#writeAgain(paths);
        for (const path of paths) fs.unlinkSync(path);
      }
    } catch (error) {
      const text = 'mail is kept in the journal alone until the next start';
      this.#system.log.error({ segments: paths, error: String(error) }, text);
    }
  }

  /** Says in the segment that there is nothing in it, for good, and keeps it; or takes it away. */
  async #clear(segment: Segment): Promise<void> {
    const { fd, path, isSpoilt } = segment;
    try {
      if (isSpoilt || this.#spare.length >= maxSpare) return remove(fd, path);
      fs.writeSync(fd, zeros, 0, 4, 0);
      await fdatasync(fd);
      this.#spare.push(segment);
    } catch {
      remove(fd, path);
    }
  }

  /** What the disk did not take it may have forgotten: the files are written once more, now or at a start, and never just synced again. */
  async #writeAgain(paths: string[]): Promise<void> {
    for (const [at, path] of paths.entries()) fs.renameSync(path, (paths[at] = `${path}${forgotten}`));
    const restored = restore(this.#folder, paths, this.#system.log);
    if (!restored.every(({ isWhole }) => isWhole)) throw new Error('not all of it could be written again');
    await syncAll(restored.flatMap(({ places }) => places));
  }
}

/** Syncs the file systems of these places, each once; of a place that has gone, that of its parent. */
async function syncAll(places: readonly string[]): Promise<void> {
  const fileSystems = new Map<number, string>();
  for (let at of places) {
    while (!fs.existsSync(at)) at = dirname(at);
    fileSystems.set(fs.statSync(at).dev, at);
  }
  if (fileSystems.size > 0) await run('sync', ['-f', '--', ...fileSystems.values()], { timeout: syncTimeoutMs });
}

function remove(fd: number, path: string): void {
  fs.closeSync(fd);
  fs.unlinkSync(path);
}

/** A record: lengths of both parts and a checksum, the names as JSON, the message. */
function encode({ files, parts }: JournalRecord, salt: number): readonly Buffer[] {
  const names = Buffer.from(JSON.stringify(files.map(({ final, temporary }) => [final, temporary])));
  const head = Buffer.alloc(12);
  head.writeUInt32LE(names.length, 0);
  head.writeUInt32LE(sizeOf(parts), 4);
  head.writeUInt32LE(
    [names, ...parts].reduce((sum, part) => crc32(part, sum), salt),
    8,
  );
  return [head, names, ...parts];
}

/** The records of a segment, up to one that is torn: that was never acknowledged, and nothing follows it. */
function* recordsIn(path: string): Generator<{ names: readonly (readonly [string, string])[]; content: Buffer }> {
  const fd = fs.openSync(path, 'r');
  try {
    const end = fs.fstatSync(fd).size;
    const head = Buffer.alloc(12);
    fs.readSync(fd, head, 0, 4, 0);
    const salt = head.readUInt32LE(0);
    if (salt === 0) return;
    for (let at = 4; fs.readSync(fd, head, 0, 12, at) === 12;) {
      const [length, octets] = [head.readUInt32LE(0), head.readUInt32LE(4)];
      if (at + 12 + length + octets > end) return;
      const rest = Buffer.alloc(length + octets);
      if (fs.readSync(fd, rest, 0, rest.length, at + 12) !== rest.length || crc32(rest, salt) !== head.readUInt32LE(8))
        return;
      yield {
        names: JSON.parse(rest.toString('utf8', 0, length)) as [string, string][],
        content: rest.subarray(length),
      };
      at += 12 + rest.length;
    }
  } finally {
    fs.closeSync(fd);
  }
}

const segmentsIn = (folder: string): string[] => fs.readdirSync(folder).map(name => `${folder}/${name}`);

/** Writes what is missing or torn of the files of these segments, or all where the disk may have forgotten them; but none that is to be gone. */
function restore(folder: string, paths: readonly string[], log: Log) {
  const gone = new Set<string>();
  for (const path of segmentsIn(folder))
    for (const { names } of recordsIn(path))
      for (const [final, temporary] of names) if (temporary === '') gone.add(final);
  return paths.map(path => restoreSegment(path, gone, log));
}

function restoreSegment(path: string, gone: ReadonlySet<string>, log: Log) {
  const places = new Set<string>();
  const read = new Map<string, ReadonlyMap<string, string>>();
  let [count, isWhole] = [0, true];
  for (const { names, content } of recordsIn(path))
    for (const [final, temporary] of names)
      try {
        if (gone.has(final)) continue;
        const cur = `${dirname(dirname(final))}/cur`; // of a Maildir: mail that somebody has read
        const inCur = read.has(cur) || !fs.existsSync(cur) ? [] : fs.readdirSync(cur);
        if (!read.has(cur)) read.set(cur, new Map(inCur.map(name => [name.split(':', 1).join(), name])));
        const seen = read.get(cur)?.get(basename(final));
        const place = seen === undefined || fs.existsSync(final) ? final : `${cur}/${seen}`;
        places.add(dirname(final));
        const isThere = fs.existsSync(place) && fs.readFileSync(place).equals(content);
        fs.rmSync(temporary, { force: true });
        if (isThere && !path.endsWith(forgotten)) continue;
        fs.closeSync(create(temporary, [content]));
        fs.renameSync(temporary, place);
        count += 1;
      } catch (error) {
        isWhole = false;
        log.error(
          { file: final, journal: path, error: String(error) },
          'mail could not be restored: it stays in the journal',
        );
      }
  if (count > 0) log.warn({ files: count }, 'mail was restored from the journal');
  return { path, places: [...places], isWhole };
}
