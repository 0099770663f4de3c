// The journal of small messages: a write-ahead log that makes them stable before their own files are.
// Promises: a message whose append() has resolved survives a power cut; what is missing or torn of its files is written
// at the next start. A file that has a mark is never written again. Mail is never refused: where the journal has
// trouble, append() rejects, and its caller syncs each file instead.
//
// Group commit. append() puts its records into a queue. While one group is being written and synced, the next one
// gathers. A group costs one write and one fdatasync, however many sessions wait for it; without the journal each of
// them would sync its own file and folder.
//
// The life of a segment. Records go into the one *open* segment. It becomes *full* at a checkpoint, which comes every
// five seconds, or when it is large, or when it cannot be written. No group begins in a full segment any more. A full
// segment is *done* when every message in it has been released (its files are in their places, or are not to be), and
// all earlier segments are done, too: a later segment may hold the mark that a file of an earlier one is not the
// journal's business any more, so it must not go first. Then `sync -f` syncs the file systems of its files. There are
// three ways to go on:
//   - All is synced. The segment is marked as empty, and kept as a spare to be written over. (A sync of octets where
//     there were some before leaves the file system's own journal alone, which else makes everybody wait.)
//   - `sync -f` could not be started. Nothing has changed, and it is tried again at the next checkpoint. When too many
//     segments wait for that, and when the server stops, each file is synced by itself.
//   - `sync -f` has failed. The segment is *suspect*: the disk may have forgotten any of its files. replay() writes
//     anew all files that still stand in their places, each with an fsync of its own, and puts the records of those
//     that it cannot write into a new segment, which is *left*. If even that cannot be written, the suspect segment
//     stays where it is.
// A left segment is replayed once a minute, until nothing is left of it. A start replays all segments that it finds.
//
// What can be true at once: there is at most one open segment. Full segments stand in the order in which they were
// begun; the first ones of them may be done or suspect. There are left segments in any order, and at most two spares.
// At most one group and one checkpoint are under way. They may be under way at the same time, because the segment of
// the group is not done before the group has ended.
import fs from 'node:fs';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import type { Journal, JournalRecord } from '../mail/ports.ts';
import type { World } from '../system/world.ts';
import { encodeRecord, encodeSalt, newSalt, newSegmentPath, saltBytes } from './record.ts';
import { marksIn, segmentsIn, suspectName } from './record.ts';
import { type Replayed, replay } from './replay.ts';
import { create, datasync, isShortage, noSpace, sizeOf, sync, syncFileSystems } from './sync.ts';

const checkpointMs = 5000;
/** So long after trouble the journal is not written. */
const pauseMs = 5000;
/** Left segments are replayed at every so many checkpoints. */
const leftEvery = 12;
const maxSegmentOctets = 64 * 1024 * 1024;
/** With more full segments than this (80 seconds of them) `sync -f` is not waited for any longer. */
const maxFull = 16;
/** The zeros by which a segment grows at a time. */
const zeros = Buffer.alloc(1024 * 1024);
/** So many spares are kept: one is written over while another segment waits for `sync -f`. */
const maxSpare = 2;

const writev = promisify(fs.writev);

type Segment = {
  path: string;
  readonly fd: number;
  readonly salt: number;
  /** Messages that were not released yet. */
  users: number;
  octets: number;
  /** The length of the file: zeros at its end. */
  reserved: number;
  /** A write or sync of it has failed: its file is not written over by another segment. */
  isSpoilt?: boolean;
  isSuspect?: boolean;
  /** For each file system that it has files on, one of its folders. */
  readonly folders: Map<number, string>;
};
type Waiting = {
  readonly records: readonly JournalRecord[];
  readonly resolve: (release: () => void) => void;
  readonly reject: (error: unknown) => void;
};

export class DiskJournal implements Journal {
  readonly #folder: string;
  readonly #world: World;
  readonly #timer: NodeJS.Timeout;
  readonly #waiting: Waiting[] = [];
  #open: Segment | undefined;
  readonly #full: Segment[] = [];
  readonly #spare: Segment[] = [];
  /** The paths of left segments, and whether their files have stood in their places. */
  readonly #left = new Map<string, boolean>();
  /** Files that are not the journal's business any more, whose marks could not be written yet. */
  readonly #gone = new Set<string>();
  /** Files of left segments that are done all the same. */
  #settled: readonly string[];
  #isWriting = false;
  #isPaused = false;
  #checking: Promise<void> | undefined;
  #checkpoints = 0;

  private constructor(folder: string, world: World, { left, settled }: Replayed) {
    this.#folder = folder;
    this.#world = world;
    this.#settled = settled;
    for (const path of left) this.#left.set(path, false);
    this.#timer = setInterval(() => void this.checkpoint(), checkpointMs).unref();
  }

  /**
   * Puts right what a crash has left, then begins. undefined: this system has no `sync -f`. Call it before mail is
   * taken.
   */
  static async open(folder: string, world: World): Promise<DiskJournal | undefined> {
    const { log } = world;
    const replayed = await replay({ folder, paths: segmentsIn(folder), isPlaced: false, gone: [] }, world);
    const probed = await syncFileSystems(['/proc']); // there is nothing to sync: whether the program is there
    if (probed.kind === 'synced' || (probed.kind === 'not started' && isShortage(probed.error)))
      return new DiskJournal(folder, world, replayed);
    const text = 'file systems cannot be synced by sync -f: each file is synced by itself, which is slower';
    log.warn({ error: String(probed.error) }, text);
    return undefined;
  }

  append(records: readonly JournalRecord[]): Promise<() => void> {
    return new Promise((resolve, reject) => {
      if (this.#isPaused) {
        this.#remember(marksIn(records));
        return reject(new Error('the journal has trouble'));
      }
      this.#waiting.push({ records, resolve, reject });
      if (!this.#isWriting) void this.#write();
    });
  }

  /**
   * Segments that wait for `sync -f`, those with files that cannot be written yet, and whether it can be written now.
   */
  get state(): Readonly<{ full: number; left: number; isWritable: boolean }> {
    return { full: this.#full.length, left: this.#left.size, isWritable: !this.#isPaused };
  }

  /** Lets go of what is in place and on the disk. Never rejects. */
  checkpoint(): Promise<void> {
    return (this.#checking ??= this.#check(false).finally(() => (this.#checking = undefined)));
  }

  /** To be called after the last message: leaves nothing for the next start to look at. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#checking;
    await this.#check(true);
    for (const { fd, path } of this.#spare.splice(0)) remove(fd, path);
  }

  async #write(): Promise<void> {
    this.#isWriting = true;
    await new Promise(setImmediate); // all who come in this turn of the event loop are in the first group
    for (let group; (group = this.#waiting.splice(0)).length > 0;) {
      const records = group.flatMap(waiting => waiting.records);
      let begun: Segment | undefined;
      try {
        const segment = (begun = this.#open ??= await this.#begin());
        segment.users += group.length;
        const marks = [...this.#gone];
        if (marks.length > 0) records.push({ files: marks.map(final => ({ final, temporary: '' })), parts: [] });
        await this.#append(segment, records);
        for (const final of marks) this.#gone.delete(final);
        for (const { resolve } of group) resolve(() => void (segment.users -= 1));
        if (segment.octets > maxSegmentOctets) this.#retire();
      } catch (error) {
        if (begun) begun.users -= group.length;
        if (begun) begun.isSpoilt = true;
        // Nothing is written behind what may be torn, and no sync of it is tried again as if all were well.
        this.#retire();
        this.#isPaused = true;
        setTimeout(() => (this.#isPaused = false), pauseMs).unref();
        const fields = { folder: this.#folder, error: String(error) };
        this.#world.log.warn(fields, 'the journal cannot be written now: each file is synced by itself');
        // Some of these records may stand in the segment all the same.
        this.#remember(records.flatMap(({ files }) => files.map(({ final }) => final)));
        for (const { reject } of group) reject(error);
      }
    }
    this.#isWriting = false;
  }

  /** Appends records by one write and one fdatasync. */
  async #append(segment: Segment, records: readonly JournalRecord[]): Promise<void> {
    for (const { files } of records)
      for (const { final, fileSystem } of files)
        if (fileSystem !== undefined && !segment.folders.has(fileSystem))
          segment.folders.set(fileSystem, dirname(final));
    const parts = records.flatMap(record => encodeRecord(record, segment.salt));
    const at = segment.octets;
    segment.octets += sizeOf(parts);
    if (segment.octets > segment.reserved) {
      parts.push(zeros.subarray(segment.octets % zeros.length));
      segment.reserved = at + sizeOf(parts);
    }
    const { bytesWritten } = await writev(segment.fd, parts, at);
    if (bytesWritten !== sizeOf(parts)) throw noSpace(segment.path);
    await datasync(segment.fd);
  }

  async #begin(): Promise<Segment> {
    const salt = newSalt(this.#world);
    const begun = { salt, users: 0, octets: saltBytes, folders: new Map<number, string>() };
    const spare = this.#spare.pop();
    if (spare) {
      fs.writeSync(spare.fd, encodeSalt(salt), 0, saltBytes, 0);
      return { ...spare, ...begun };
    }
    const path = newSegmentPath(this.#folder, this.#world);
    const fd = create(path, [encodeSalt(salt)]);
    await sync(this.#folder);
    return { path, fd, reserved: 0, ...begun };
  }

  #retire(): void {
    if (this.#open) this.#full.push(this.#open);
    this.#open = undefined;
  }

  /** Keeps the marks that say that these files are gone, until the next group is written: they go along with it. */
  #remember(files: readonly string[]): void {
    for (const final of files) this.#gone.add(final);
  }

  async #check(isLast: boolean): Promise<void> {
    try {
      this.#retire();
      const end = this.#full.findIndex(({ users }) => users > 0);
      const done = end < 0 ? [...this.#full] : this.#full.slice(0, end);
      if (done.length > 0) await this.#finish(done, isLast || this.#full.length > maxFull);
      this.#checkpoints += 1;
      if (isLast || this.#checkpoints % leftEvery === 0)
        for (const isPlaced of [true, false]) await this.#replayLeft(isPlaced);
      // No segment speaks of them any more.
      if (this.#full.length === 0 && this.#open === undefined) this.#gone.clear();
    } catch (error) {
      const segments = this.#full.map(({ path }) => path);
      this.#world.log.error({ segments, error: String(error) }, 'a part of the journal cannot be finished now');
    }
  }

  /** Takes the first full segments, which are done, as far as the disk lets it. */
  async #finish(done: readonly Segment[], isUrgent: boolean): Promise<void> {
    const { log } = this.#world;
    let isSuspect = done.some(segment => segment.isSuspect);
    if (!isSuspect) {
      const synced = await syncFileSystems(done.flatMap(({ folders }) => [...folders.values()]));
      if (synced.kind === 'synced') return this.#clear(done);
      const error = String(synced.error);
      if (synced.kind === 'failed') log.error({ error }, 'sync -f has failed: what it was to sync is written anew');
      else log.warn({ error }, 'sync -f could not be started: it is tried again');
      if (synced.kind === 'not started' && !isUrgent) return;
      isSuspect = synced.kind === 'failed';
    }
    if (isSuspect) for (const segment of done) suspect(segment);
    const paths = done.map(({ path }) => path);
    const replayed = await replay(
      { folder: this.#folder, paths, isPlaced: true, isSuspect, gone: this.#gone },
      this.#world,
    );
    // Nothing could be written down: the segments stay, in their order.
    if (!replayed.isWritten) return;
    for (const { fd } of this.#full.splice(0, done.length)) fs.closeSync(fd);
    for (const path of replayed.left) this.#left.set(path, true);
  }

  /** Says in each segment that there is nothing in it, for good, and keeps it as a spare; or removes it. */
  async #clear(done: readonly Segment[]): Promise<void> {
    for (const segment of done) {
      const { fd, path, isSpoilt } = segment;
      let isKept = !isSpoilt && this.#spare.length < maxSpare;
      try {
        if (isKept) fs.writeSync(fd, zeros, 0, saltBytes, 0);
        if (isKept) await datasync(fd);
      } catch {
        isKept = false;
      }
      this.#full.shift();
      if (isKept) this.#spare.push(segment);
      else {
        this.#left.set(path, true); // until it is gone
        remove(fd, path);
        this.#left.delete(path);
        // Before a later segment goes: else a power cut could bring this one back without the marks in the later one.
        await sync(this.#folder);
      }
    }
  }

  async #replayLeft(isPlaced: boolean): Promise<void> {
    const paths = [...this.#left].filter(([, wasPlaced]) => wasPlaced === isPlaced).map(([path]) => path);
    if (paths.length === 0) return;
    const gone = [...this.#gone, ...this.#settled];
    const replayed = await replay({ folder: this.#folder, paths, isPlaced, gone }, this.#world);
    for (const path of paths) this.#left.delete(path);
    for (const path of replayed.left) this.#left.set(path, isPlaced);
    if (!isPlaced) this.#settled = replayed.isWritten ? [] : [...this.#settled, ...replayed.settled];
  }
}

/**
 * Makes a segment suspect. Its name says so, too, because a start must know. Where it cannot be renamed, the present
 * server knows all the same.
 */
function suspect(segment: Segment): void {
  segment.isSuspect = true;
  const name = suspectName(segment.path);
  try {
    fs.renameSync(segment.path, name);
    segment.path = name;
  } catch {}
}

function remove(fd: number, path: string): void {
  fs.closeSync(fd);
  fs.unlinkSync(path);
}
