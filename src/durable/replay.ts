// Carries out what journal segments mean (restore.ts): looks at the files, writes what is missing, makes it stable, and
// keeps what could not be written in a new segment. It runs at a start, after `sync -f` has failed, and for what was
// left then.
// Promises: a segment is removed only when each of its files is stable, taken away, or kept in another segment that is
// stable. At a start no file that we wrote stays in its place unless it is stable: nobody shall act on mail that may
// vanish and come back.
import fs from 'node:fs';
import { basename, dirname } from 'node:path';
import type { JournalRecord } from '../mail/ports.ts';
import type { World } from '../system/world.ts';
import { type StoredContent, marksIn, readContent, readSegment, segmentsIn, writeSegment } from './record.ts';
import { type FileName, type Restoration, type Segment, type Standing, type StoredRecord, restore } from './restore.ts';
import { create, isShortage, sync, syncFileSystems } from './sync.ts';

type Replay = {
  readonly folder: string;
  readonly paths: readonly string[];
  /**
   * true: every file was once in its place, so a missing one was taken by a reader or the queue. false (at a start): a
   * missing file is written.
   */
  readonly isPlaced: boolean;
  /** A sync of their file systems has failed. */
  readonly isSuspect?: boolean;
  /** Files that are not the journal's business any more, and whose marks may be in no segment. */
  readonly gone: Iterable<string>;
};
/**
 * The segments that are left. `isWritten`: they say what is left to do, and nothing else. Otherwise the journal's own
 * disk took nothing, the old segments are still there, and their files in `settled` are done all the same.
 */
export type Replayed = {
  readonly left: readonly string[];
  readonly isWritten: boolean;
  readonly settled: readonly string[];
};

/** Rejects, and leaves all segments, where descriptors or memory are short just now, or a segment cannot be read. */
export async function replay({ folder, paths, ...options }: Replay, world: World): Promise<Replayed> {
  const { log } = world;
  const files = new Files(options.isPlaced);
  const others = segmentsIn(folder).filter(path => !paths.includes(path));
  const gone = [...options.gone, ...others.flatMap(path => marksIn(readSegment(path).records))];
  let segments = paths.filter(path => fs.existsSync(path)).map(path => readSegment(path));
  let { write } = restore(segments, gone, files.look);
  let isSuspect = options.isSuspect ?? segments.some(segment => segment.isSuspect);
  if (!isSuspect) {
    for (const file of write) await files.write(file, false);
    const synced = await syncFileSystems(files.folders);
    if (synced.kind === 'not started') await files.sync();
    isSuspect = synced.kind === 'failed';
  }
  if (isSuspect) {
    segments = segments.map(segment => ({ ...segment, isSuspect }));
    ({ write } = restore(segments, gone, files.look));
    for (const file of write) await files.write(file, true);
    await files.syncFolders();
  }

  const { failed, restored } = files;
  if (restored > 0) log.warn({ files: restored }, 'mail was restored from the journal');
  const [[file, error] = []] = failed;
  const fields = { files: failed.size, file, error: String(error) };
  if (failed.size > 0) log.error(fields, 'mail could not be restored: it stays in the journal');
  // Those that are done are 'whole' and not 'taken': the envelope of a message is kept with its content.
  const found = ({ final }: FileName): Standing => (failed.has(final) ? 'unreachable' : 'whole');
  const left = restore(segments, gone, found);
  if (!options.isPlaced) files.takeBack(left.keep.flatMap(record => record.files));
  try {
    return { left: await condense(folder, segments, left, world), isWritten: true, settled: [] };
  } catch (error_) {
    const text = 'the journal cannot be written: it keeps more than it needs';
    log.error({ segments: paths, error: String(error_) }, text);
    return { left: paths.filter(path => fs.existsSync(path)), isWritten: false, settled: left.done };
  }
}

/** Replaces segments by one that says what is left to do. Gives the paths of all that stay. */
async function condense(
  folder: string,
  segments: readonly Segment<StoredContent>[],
  { keep, isSuspect, drop, done }: Restoration<StoredContent>,
  world: World,
): Promise<readonly string[]> {
  const dropped = segments.filter(({ path, records }) => drop.includes(path) && records.length > 0);
  // They are removed one by one, and a power cut could leave a record without its mark. So marks for all are written
  // first, and removed last.
  const isOneStep = dropped.length <= 1 && keep.length === 0;
  const marks = { files: done.map(final => ({ final, temporary: '' })), parts: [] };
  const marked = isOneStep
    ? undefined
    : await writeSegment(folder, [() => marks], false, world).catch((error: unknown) => {
        // Where nothing is left to do, a disk that is full must not keep us from making room.
        if (keep.length > 0) throw error;
      });
  const kept = keep.length > 0 ? await writeSegment(folder, keep.map(read), isSuspect, world) : undefined;
  for (const path of drop) fs.unlinkSync(path);
  if (drop.length > 0) await sync(folder);
  if (marked !== undefined) fs.unlinkSync(marked);
  const staying = segments.map(({ path }) => path).filter(path => !drop.includes(path));
  return kept === undefined ? staying : [...staying, kept];
}

function read({ files, content }: StoredRecord<StoredContent>): () => JournalRecord {
  return () => ({ files, parts: [readContent(content)] });
}

/** The files of one replay: where they stand, and what became of them. */
class Files {
  readonly #isPlaced: boolean;
  /** The path of each file, or the one that it is to have: a reader may have moved it to cur/. */
  readonly #paths = new Map<string, string>();
  readonly #written = new Set<string>();
  /** The names in each cur/ without their flags, and with them. */
  readonly #read = new Map<string, ReadonlyMap<string, string>>();
  readonly failed = new Map<string, unknown>();

  constructor(isPlaced: boolean) {
    this.#isPlaced = isPlaced;
  }

  get restored(): number {
    return [...this.#written].filter(final => !this.failed.has(final)).length;
  }

  get folders(): readonly string[] {
    return [...new Set([...this.#paths.values()].map(path => dirname(path)))];
  }

  readonly look = ({ final, temporary }: FileName, content: StoredContent): Standing => {
    try {
      if (this.failed.has(final)) return 'unreachable';
      // A folder that is not there: its volume may not be mounted.
      fs.accessSync(dirname(final));
      const path = this.#find(final);
      if (path === undefined && this.#isPlaced) return 'taken';
      this.#paths.set(final, path ?? final);
      if (!this.#isPlaced) fs.rmSync(temporary, { force: true });
      if (path === undefined) return 'missing';
      // A suspect file is written anew, whatever is read of it now.
      return this.#isPlaced || fs.readFileSync(path).equals(readContent(content)) ? 'whole' : 'torn';
    } catch (error) {
      return this.#fail(final, error);
    }
  };

  /** Where it stands now. `isAnew`: a reader may have moved it since cur/ was read. */
  #find(final: string, isAnew = false): string | undefined {
    if (fs.existsSync(final)) return final;
    const cur = `${dirname(dirname(final))}/cur`; // of a Maildir: mail that somebody has read
    let names = this.#read.get(cur);
    if (names === undefined || isAnew) {
      const found = fs.existsSync(cur) ? fs.readdirSync(cur) : [];
      this.#read.set(cur, (names = new Map(found.map(name => [name.split(':', 1).join(), name]))));
    }
    const name = names.get(basename(final));
    return name === undefined ? undefined : `${cur}/${name}`;
  }

  async write(file: FileName & { readonly content: StoredContent }, isSynced: boolean): Promise<void> {
    const { final, temporary, content } = file;
    try {
      fs.rmSync(temporary, { force: true });
      const fd = create(temporary, [readContent(content)]);
      if (isSynced) await sync(temporary, fd);
      else fs.closeSync(fd);
      if (!this.#isStillThere(final)) return fs.unlinkSync(temporary);
      fs.renameSync(temporary, this.#paths.get(final) ?? final);
      this.#written.add(final);
    } catch (error) {
      this.#fail(final, error);
    }
  }

  /**
   * Whether a file is still there. It is not where a reader has taken it away since we looked. Where a reader has moved
   * it, it is replaced there.
   */
  #isStillThere(final: string): boolean {
    const path = this.#paths.get(final);
    if (!this.#isPlaced || path === undefined || fs.existsSync(path)) return true;
    const moved = this.#find(final, true);
    if (moved === undefined) this.#paths.delete(final);
    else this.#paths.set(final, moved);
    return moved !== undefined;
  }

  /** Syncs each file and each folder by itself. */
  async sync(): Promise<void> {
    for (const file of this.#paths) if (!this.failed.has(file[0])) await this.#sync(file[1], [file]);
    await this.syncFolders();
  }

  async syncFolders(): Promise<void> {
    const all = Map.groupBy(this.#paths, ([, path]) => dirname(path));
    for (const [folder, files] of all) await this.#sync(folder, files);
  }

  /** Removes what we wrote, and could not make stable. */
  takeBack(kept: readonly FileName[]): void {
    for (const { final } of kept)
      try {
        if (this.#written.has(final)) fs.rmSync(this.#paths.get(final) ?? final, { force: true });
      } catch {} // a disk that takes nothing: then it may come twice
  }

  async #sync(path: string, files: readonly (readonly [final: string, path: string])[]): Promise<void> {
    try {
      await sync(path);
    } catch (error) {
      // A reader may take a file away at any time.
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') for (const [final] of files) this.#fail(final, error);
    }
  }

  #fail(final: string, error: unknown): 'unreachable' {
    // Too few descriptors, for example, are no fault of the file: all is tried again later.
    if (isShortage(error)) throw error;
    this.failed.set(final, error);
    return 'unreachable';
  }
}
