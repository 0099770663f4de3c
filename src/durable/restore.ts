// What a set of journal segments means: which files are to be written, which records are still to be kept, and which
// segments can go. A pure function, so that a model test can run it through random histories.
//
// A record says: these files are to stand in their places with this content. Another record may say that a file is not
// the journal's business any more: its mail was delivered, or its own files were made and synced. Such a mark counts
// wherever it stands in the set, since no name is ever used for a second message.
// Promises: every file is written, or its record is kept, or somebody has taken it. A record that is kept names only
// the files that could not be written. So what was restored once, and delivered then, is never restored again because
// of another file that could not be. Segments may come, and be removed, in any order, if the marks for `done` are
// stable first.

/**
 * Where a file is to stand at last, and on its way there; `temporary` is empty in a mark: the file is not ours any
 * more.
 */
export type FileName = { readonly final: string; readonly temporary: string };
export type StoredRecord<Content> = { readonly files: readonly FileName[]; readonly content: Content };
/** `isSuspect`: the disk may have forgotten its files, also those that seem to stand there whole. */
export type Segment<Content> = {
  readonly path: string;
  readonly isSuspect: boolean;
  readonly records: readonly StoredRecord<Content>[];
};

/** What is found of a file. */
export type Standing =
  | 'whole'
  | 'missing'
  | 'torn'
  /** It stood there, and somebody has taken it away since: a mail reader, or the queue. */
  | 'taken'
  /** It cannot be read or written now: its volume is not mounted, its disk is full. */
  | 'unreachable';

export type Restoration<Content> = {
  readonly write: readonly (FileName & { readonly content: Content })[];
  /** To go into a new segment, before those of `drop` are removed. */
  readonly keep: readonly StoredRecord<Content>[];
  /** Whether some of `keep` are of a suspect segment. */
  readonly isSuspect: boolean;
  /** Segments to remove. A segment stays if all of its files are to be kept. */
  readonly drop: readonly string[];
  /** All other files that the segments of `drop` name. The journal is done with them once `write` is carried out. */
  readonly done: readonly string[];
};

/**
 * `gone`: files that are known to be gone, besides those of which a record says so. `standing` is asked once for each
 * file.
 */
export function restore<Content>(
  segments: readonly Segment<Content>[],
  gone: Iterable<string>,
  standing: (file: FileName, content: Content) => Standing,
): Restoration<Content> {
  const found = look(segments, gone, standing);
  // Files that share their temporary name belong together, as content and envelope in the queue: all are kept, or none.
  const incomplete = new Set<string>();
  for (const { files } of segments.flatMap(segment => segment.records))
    for (const { final, temporary } of files) if (found.get(final) === 'unreachable') incomplete.add(temporary);
  const isToKeep = ({ final, temporary }: FileName): boolean =>
    found.get(final) !== 'taken' && incomplete.has(temporary);

  const write: (FileName & { content: Content })[] = [];
  const keep: StoredRecord<Content>[] = [];
  const drop: string[] = [];
  const done = new Set<string>();
  let isSuspect = false;
  // A crash may have left one record in two segments: the old one, and the one that it was kept in. The first one
  // counts.
  const seen = new Set<string>();
  for (const { path, records, ...segment } of segments) {
    const left: StoredRecord<Content>[] = [];
    const others: string[] = [];
    for (const { files, content } of records) {
      const kept: FileName[] = [];
      for (const file of files) {
        const isFirst = !seen.has(file.final);
        if (isFirst && isToKeep(file)) kept.push(file);
        else others.push(file.final);
        if (isFirst && !isToKeep(file) && isToWrite(found.get(file.final), segment.isSuspect))
          write.push({ ...file, content });
        seen.add(file.final);
      }
      if (kept.length > 0) left.push({ files: kept, content });
    }
    if (left.length > 0 && others.length === 0) continue;
    drop.push(path);
    keep.push(...left);
    for (const final of others) done.add(final);
    isSuspect ||= left.length > 0 && segment.isSuspect;
  }
  for (const { files } of segments.flatMap(segment => segment.records))
    for (const file of files) if (isToKeep(file)) done.delete(file.final);
  return { write, keep, isSuspect, drop, done: [...done] };
}

/** What is found of each file; 'taken' where it is not the journal's business. */
function look<Content>(
  segments: readonly Segment<Content>[],
  gone: Iterable<string>,
  standing: (file: FileName, content: Content) => Standing,
): ReadonlyMap<string, Standing> {
  const found = new Map<string, Standing>();
  for (const final of gone) found.set(final, 'taken');
  const records = segments.flatMap(segment => segment.records);
  for (const { files } of records)
    for (const { final, temporary } of files) if (temporary === '') found.set(final, 'taken');
  for (const { files, content } of records)
    for (const file of files) if (!found.has(file.final)) found.set(file.final, standing(file, content));
  return found;
}

function isToWrite(standing: Standing | undefined, isSuspect: boolean): boolean {
  switch (standing) {
    case 'missing':
    case 'torn':
      return true;
    case 'whole':
      return isSuspect;
    case 'taken':
    case 'unreachable':
    case undefined:
      return false;
    default:
      return standing satisfies never;
  }
}
