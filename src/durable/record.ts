// The format of the journal's segments on disk: how a record is written, and what is read of a segment after a crash.
//
//     segment = salt (4 octets, 0: there is nothing here), records, anything
//     record  = length of the names, length of the content, checksum (4 octets each, little-endian), names, content
//     names   = JSON: [[final, temporary], …]. An empty `temporary` says that the file is not the journal's business
//     any more.
//
// Promise: a record is read whole or not at all. The checksum begins with the salt of the segment, so nothing that is
// left of a former life of the file counts. Reading ends at the first record that is torn: it was never acknowledged,
// and nothing is ever written behind it.
import { closeSync, fstatSync, openSync, readSync, readdirSync, unlinkSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import type { JournalRecord } from '../mail/ports.ts';
import { newId } from '../system/names.ts';
import type { World } from '../system/world.ts';
import type { FileName, Segment } from './restore.ts';
import { append, create, sizeOf, sync } from './sync.ts';

/** What the name of a segment ends in whose files the disk may have forgotten: `sync -f` has failed. */
const suspectEnding = '.forgotten';
export const suspectName = (path: string): string => (path.endsWith(suspectEnding) ? path : path + suspectEnding);

type Names = Pick<World, 'clock' | 'random'>;

/** Octets in front of the first record. */
export const saltBytes = 4;
const recordHeadBytes = 12;

/** Where the content of a record lies. */
export type StoredContent = { readonly path: string; readonly at: number; readonly length: number };

/** A name that no segment had before, on any host that uses this folder. */
export const newSegmentPath = (folder: string, { clock, random }: Names): string =>
  `${folder}/${newId(clock.now(), random)}`;

/** A salt for a segment; it is never 0. */
export const newSalt = ({ random }: Names): number => Number.parseInt(random.hex(4), 16) || 1;

export function encodeSalt(salt: number): Buffer {
  const octets = Buffer.alloc(saltBytes);
  octets.writeUInt32LE(salt);
  return octets;
}

export function encodeRecord({ files, parts }: JournalRecord, salt: number): readonly Buffer[] {
  const names = Buffer.from(JSON.stringify(files.map(({ final, temporary }) => [final, temporary])));
  const head = Buffer.alloc(recordHeadBytes);
  head.writeUInt32LE(names.length, 0);
  head.writeUInt32LE(sizeOf(parts), 4);
  head.writeUInt32LE(
    [names, ...parts].reduce((sum, part) => crc32(part, sum), salt),
    8,
  );
  return [head, names, ...parts];
}

/** The paths of all segments. Only files count, because the folder may be a volume of its own, with a `lost+found`. */
export function segmentsIn(folder: string): readonly string[] {
  const entries = readdirSync(folder, { withFileTypes: true });
  return entries.filter(entry => entry.isFile()).map(({ name }) => `${folder}/${name}`);
}

/** The whole records of a segment. Content is not kept in memory: a segment may have 64 MiB of it. */
export function readSegment(path: string): Segment<StoredContent> {
  const records: { files: readonly FileName[]; content: StoredContent }[] = [];
  const fd = openSync(path, 'r');
  try {
    const end = fstatSync(fd).size;
    const head = Buffer.alloc(recordHeadBytes);
    const isThere = readSync(fd, head, 0, saltBytes, 0) === saltBytes;
    const salt = isThere ? head.readUInt32LE(0) : 0;
    for (let at = salt === 0 ? end : saltBytes; readSync(fd, head, 0, head.length, at) === head.length;) {
      const namesLength = head.readUInt32LE(0);
      const length = head.readUInt32LE(4);
      at += head.length;
      if (at + namesLength + length > end) break;
      const rest = Buffer.alloc(namesLength + length);
      if (readSync(fd, rest, 0, rest.length, at) !== rest.length || crc32(rest, salt) !== head.readUInt32LE(8)) break;
      const names = JSON.parse(rest.toString('utf8', 0, namesLength)) as readonly (readonly [string, string])[];
      const files = names.map(([final, temporary]) => ({ final, temporary }));
      records.push({ files, content: { path, at: at + namesLength, length } });
      at += rest.length;
    }
  } finally {
    closeSync(fd);
  }
  return { path, isSuspect: path.endsWith(suspectEnding), records };
}

/** A new segment, which is stable then. `records` are read one after the other: all together may be large. */
export async function writeSegment(
  folder: string,
  records: readonly (() => JournalRecord)[],
  isSuspect: boolean,
  names: Names,
): Promise<string> {
  const salt = newSalt(names);
  const plain = newSegmentPath(folder, names);
  const path = isSuspect ? suspectName(plain) : plain;
  const fd = create(path, [encodeSalt(salt)]);
  try {
    for (const record of records) append(fd, encodeRecord(record(), salt), path);
  } catch (error) {
    closeSync(fd);
    unlinkSync(path);
    throw error;
  }
  await sync(path, fd);
  await sync(folder);
  return path;
}

/** The files that records say are not the journal's business any more. */
export function marksIn(records: readonly { readonly files: readonly FileName[] }[]): readonly string[] {
  const files = records.flatMap(record => record.files);
  return files.filter(({ temporary }) => temporary === '').map(({ final }) => final);
}

export function readContent({ path, at, length }: StoredContent): Buffer {
  const fd = openSync(path, 'r');
  try {
    const content = Buffer.allocUnsafe(length);
    if (readSync(fd, content, 0, length, at) !== length) throw new Error(`the journal ${path} became shorter`);
    return content;
  } finally {
    closeSync(fd);
  }
}
