// The journal when something is wrong for a while: a volume that is not mounted, `sync -f` that fails or cannot be
// started, a disk that takes no record. What was delivered, and is known as such, never goes again.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { tmpdir } from 'node:os';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { crc32 } from 'node:zlib';
import { DiskJournal } from '../../src/durable/journal.ts';
import { readSegment } from '../../src/durable/record.ts';
import { systemClock as clock, systemRandom as random } from '../../src/system/world.ts';

let root = '';
let said: string[] = [];
const note = (_fields: object, text: string): void => void said.push(text);
const system = { clock, random, log: { debug: note, info: note, warn: note, error: note } };
const path = process.env.PATH;
const { fdatasync } = fs;
let journal: DiskJournal | undefined;

beforeEach(async () => {
  root = await mkdtemp(`${tmpdir()}/journal-trouble-`);
  fs.mkdirSync(`${root}/journal`);
  for (const place of ['here', 'away', 'queue']) volume(place);
  said = [];
});
afterEach(async () => {
  process.env.PATH = path;
  fs.fdatasync = fdatasync;
  syncBuiltinESMExports();
  await journal?.close();
  await rm(root, { recursive: true });
});

const volume = (place: string): void => {
  for (const name of ['new', 'cur', 'tmp']) fs.mkdirSync(`${root}/${place}/${name}`, { recursive: true });
};
const unmount = (): void => fs.renameSync(`${root}/away`, `${root}/elsewhere`);
const mount = (): void => fs.renameSync(`${root}/elsewhere`, `${root}/away`);
const start = async (): Promise<DiskJournal> =>
  (journal = (await DiskJournal.open(`${root}/journal`, system)) ?? assert.fail('no journal'));
const file = (place: string, name: string) => ({
  final: `${root}/${place}/new/${name}`,
  temporary: `${root}/${place}/tmp/${name}`,
  fileSystem: 1,
});
/** Mail whose record is stable; `isPlaced`: its file is in its place, too. */
async function mail(place: string, name: string, isPlaced = true): Promise<() => void> {
  const release = await journal?.append([{ files: [file(place, name)], parts: [Buffer.from(`${name}\n`)] }]);
  if (isPlaced) fs.writeFileSync(file(place, name).final, `${name}\n`);
  if (isPlaced) release?.();
  return release ?? (() => undefined);
}
const list = (place: string): string[] => fs.readdirSync(`${root}/${place}/new`).toSorted();
const read = (place: string): string[] =>
  list(place).map(name => fs.readFileSync(`${root}/${place}/new/${name}`, 'utf8'));
const remove = (place: string, name: string): void => fs.unlinkSync(`${root}/${place}/new/${name}`);
const segments = (): string[] => fs.readdirSync(`${root}/journal`).map(name => `${root}/journal/${name}`);
/** The files that the journal would still write. */
function inJournal(): string[] {
  const files = segments().flatMap(segment => readSegment(segment).records.flatMap(record => record.files));
  const gone = new Set(files.filter(({ temporary }) => temporary === '').map(({ final }) => final));
  return files.flatMap(({ final }) => (gone.has(final) ? [] : final.slice(root.length + 1))).toSorted();
}
/** The process dies now: the journal stays as it is on disk, and nobody waits for it. */
async function crash(): Promise<void> {
  const left = segments().map(segment => [segment, fs.readFileSync(segment)] as const);
  await journal?.close();
  for (const segment of segments()) fs.unlinkSync(segment);
  for (const [segment, content] of left) fs.writeFileSync(segment, content);
}
/** `sync -f` as it shall be: a shell script in its place. */
function replaceSync(script: string): void {
  fs.mkdirSync(`${root}/bin`, { recursive: true });
  fs.writeFileSync(`${root}/bin/sync`, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  process.env.PATH = `${root}/bin`;
}
const failing = '[ "$3" = /proc ]'; // the probe at a start succeeds

describe('a volume that is not mounted', () => {
  it('at four starts lets the other mail of the segment be restored once', async () => {
    await start();
    await mail('away', 'a', false);
    await mail('here', 'h', false);
    await mail('queue', 'q', false);
    await crash();
    unmount();
    await start();
    assert.deepEqual([read('here'), read('queue'), inJournal()], [['h\n'], ['q\n'], ['away/new/a']]);
    remove('here', 'h'); // its reader
    remove('queue', 'q'); // it was sent
    for (let starts = 0; starts < 3; starts += 1) {
      await crash();
      await start();
      assert.deepEqual([list('here'), list('queue'), inJournal()], [[], [], ['away/new/a']]);
    }
    await crash();
    mount();
    await start();
    assert.deepEqual([read('away'), list('here'), inJournal()], [['a\n'], [], []]);
    remove('away', 'a');
    await crash();
    await start();
    assert.deepEqual(list('away'), []);
  });

  it('or a file of two that belong together: content and envelope stay in the journal, and neither in its place', async () => {
    await start();
    const parts = [Buffer.from('x\n')];
    const temporary = `${root}/queue/new/q.json.tmp`;
    const [content, envelope] = [`${root}/queue/new/q`, `${root}/queue/new/q.json`];
    await journal?.append([
      { files: [{ final: content, temporary }], parts },
      { files: [{ final: envelope, temporary }], parts },
    ]);
    await crash();
    fs.mkdirSync(envelope); // cannot be written
    await start();
    assert.deepEqual([list('queue'), inJournal()], [['q.json'], ['queue/new/q', 'queue/new/q.json']]);
    fs.rmdirSync(envelope);
    await crash();
    await start();
    assert.deepEqual([list('queue'), inJournal()], [['q', 'q.json'], []]);
  });

  it('and comes back while the server runs, has its mail within a minute', async () => {
    await start();
    await mail('away', 'a', false);
    await crash();
    unmount();
    await start();
    mount();
    assert.deepEqual(read('away'), []);
    for (let checkpoints = 0; checkpoints < 12; checkpoints += 1) await journal?.checkpoint();
    assert.deepEqual([read('away'), inJournal()], [['a\n'], []]);
  });
});

describe('`sync -f` that fails', () => {
  it('lets files be written anew that stand in their places, and brings back none that was taken away', async () => {
    await start();
    for (const name of ['1', '2', '3']) await mail('here', name);
    remove('here', '1'); // its reader, before the failure is known
    fs.renameSync(`${root}/here/new/2`, `${root}/here/cur/2:2,S`);
    const before = fs.statSync(`${root}/here/new/3`).ino;
    replaceSync(failing);
    await journal?.checkpoint();
    assert.deepEqual([list('here'), fs.readdirSync(`${root}/here/cur`)], [['3'], ['2:2,S']]);
    assert.notEqual(fs.statSync(`${root}/here/new/3`).ino, before, 'the disk may have forgotten it');
    assert.deepEqual(inJournal(), []);
    remove('here', '3');
    await crash();
    process.env.PATH = path;
    await start();
    assert.deepEqual(list('here'), []);
  });

  it('for some time, while files cannot be written either, keeps only what is left to do', async () => {
    await start();
    await mail('here', 'h');
    await mail('away', 'a');
    unmount();
    replaceSync(failing);
    await journal?.checkpoint();
    assert.deepEqual(inJournal(), ['away/new/a']);
    remove('here', 'h');
    mount();
    remove('away', 'a'); // its reader: we know that it was delivered
    process.env.PATH = path;
    for (let checkpoints = 0; checkpoints < 12; checkpoints += 1) await journal?.checkpoint();
    assert.deepEqual([list('here'), list('away'), inJournal()], [[], [], []]);
  });

  it('at a start lets each file be written anew and synced by itself', async () => {
    await start();
    await mail('here', '1');
    await mail('here', '2', false);
    await crash();
    const before = fs.statSync(`${root}/here/new/1`).ino;
    replaceSync(failing);
    await start();
    assert.notEqual(fs.statSync(`${root}/here/new/1`).ino, before);
    assert.deepEqual([read('here'), segments()], [['1\n', '2\n'], []]);
  });
});

describe('`sync -f` that cannot be started', () => {
  it('has not failed: nothing is written anew, and it is tried again', async () => {
    await start();
    await mail('here', '1');
    const before = fs.statSync(`${root}/here/new/1`).ino;
    process.env.PATH = `${root}/nowhere`;
    await journal?.checkpoint();
    assert.deepEqual(inJournal(), ['here/new/1']);
    assert.ok(segments().every(segment => !readSegment(segment).isSuspect));
    process.env.PATH = path;
    await journal?.checkpoint();
    assert.equal(fs.statSync(`${root}/here/new/1`).ino, before);
    assert.deepEqual(inJournal(), []);
  });

  it('leaves nothing for the next start where the server stops', async () => {
    await start();
    await mail('here', '1');
    process.env.PATH = `${root}/nowhere`;
    await journal?.close();
    assert.deepEqual([read('here'), segments()], [['1\n'], []]);
  });

  it('since there is no such program, lets a start restore once all the same', async () => {
    await start();
    await mail('here', '1', false);
    await crash();
    process.env.PATH = `${root}/nowhere`;
    assert.equal(await DiskJournal.open(`${root}/journal`, system), undefined);
    assert.deepEqual([read('here'), segments()], [['1\n'], []]);
  });
});

describe('a journal that cannot be written for a moment', () => {
  it('says later that a file is not its business any more, and that what it refused is not', async () => {
    await start();
    const release = await mail('queue', 'q', false);
    await mail('here', 'slow', false); // keeps the segment from being done
    fs.fdatasync = ((_fd: number, done: (error: Error) => void) =>
      done(new Error('EIO: made by the test'))) as typeof fs.fdatasync;
    syncBuiltinESMExports();
    const gone = [{ files: [{ final: file('queue', 'q').final, temporary: '' }], parts: [] }];
    await assert.rejects(journal?.append(gone) ?? Promise.resolve());
    await assert.rejects(mail('queue', 'r', false));
    fs.fdatasync = fdatasync;
    syncBuiltinESMExports();
    // What the disk has of the refused groups is torn.
    for (const segment of segments()) {
      const [, { content } = assert.fail()] = readSegment(segment).records;
      fs.truncateSync(segment, content.at + content.length);
    }
    release();
    await new Promise(resolve => setTimeout(resolve, 5100));
    await mail('here', 'h');
    await crash();
    await start();
    assert.deepEqual([list('queue'), read('here')], [[], ['h\n', 'slow\n']]);
  });
});

describe('a journal whose own disk is full', () => {
  const { writevSync } = fs;
  const fill = (): void => {
    fs.writevSync = ((fd: number, parts: Buffer[]) => {
      if (fs.readlinkSync(`/proc/self/fd/${fd}`).startsWith(`${root}/journal`))
        throw Object.assign(new Error('ENOSPC: made by the test'), { code: 'ENOSPC' });
      return writevSync(fd, parts);
    }) as typeof fs.writevSync;
    syncBuiltinESMExports();
  };
  const empty = (): void => {
    fs.writevSync = writevSync;
    syncBuiltinESMExports();
  };
  afterEach(empty);

  it('at a start remembers what is done, though it cannot write it down', async () => {
    await start();
    await mail('away', 'a', false);
    await mail('here', 'h', false);
    await crash();
    unmount();
    fill();
    await start();
    assert.deepEqual([read('here'), inJournal()], [['h\n'], ['away/new/a', 'here/new/h']]);
    remove('here', 'h'); // its reader
    for (let checkpoints = 0; checkpoints < 12; checkpoints += 1) await journal?.checkpoint();
    assert.deepEqual([list('here'), inJournal()], [[], ['away/new/a', 'here/new/h']]);
    empty();
    for (let checkpoints = 0; checkpoints < 12; checkpoints += 1) await journal?.checkpoint();
    assert.deepEqual([list('here'), inJournal()], [[], ['away/new/a']]);
    mount();
    await crash();
    await start();
    assert.deepEqual([list('here'), read('away'), inJournal()], [[], ['a\n'], []]);
  });

  it('keeps a suspect segment where it is, and those behind it, until it can be written', async () => {
    await start();
    await mail('away', 'a');
    await mail('here', 'g');
    unmount();
    replaceSync(failing);
    fill();
    await journal?.checkpoint();
    empty();
    await mail('here', 'h');
    fill();
    process.env.PATH = path;
    await journal?.checkpoint();
    assert.deepEqual(inJournal(), ['away/new/a', 'here/new/g', 'here/new/h']);
    mount();
    await journal?.checkpoint();
    assert.deepEqual([read('away'), read('here'), inJournal()], [['a\n'], ['g\n', 'h\n'], []]);
  });
});

describe('a reader that moves mail while it is written anew', () => {
  it('finds it once, in the place that he has moved it to', async () => {
    await start();
    for (const name of ['1', '2']) await mail('here', name);
    replaceSync(failing);
    const { fsync } = fs;
    const [one, two] = [`${root}/here/new/1`, `${root}/here/new/2`];
    fs.fsync = ((fd: number, done: () => void) => {
      // While the first file is synced.
      if (fs.existsSync(one)) fs.renameSync(one, `${root}/here/cur/1:2,S`);
      fs.rmSync(two, { force: true });
      fsync(fd, done);
    }) as typeof fs.fsync;
    syncBuiltinESMExports();
    await journal?.checkpoint();
    fs.fsync = fsync;
    syncBuiltinESMExports();
    assert.deepEqual([list('here'), fs.readdirSync(`${root}/here/cur`)], [[], ['1:2,S']]);
    assert.deepEqual([fs.readdirSync(`${root}/here/tmp`), inJournal()], [[], []]);
  });
});

describe('a journal in a volume of its own', () => {
  it('may have a folder in it that is none of its segments', async () => {
    fs.mkdirSync(`${root}/journal/lost+found`);
    await start();
    await mail('here', '1', false);
    fs.rmdirSync(`${root}/journal/lost+found`);
  });
});

describe('the journal of an older server', () => {
  it('is read as it was written', async () => {
    const [salt, final, temporary] = [77, `${root}/here/new/old`, `${root}/here/tmp/old`];
    const names = Buffer.from(JSON.stringify([[final, temporary]]));
    const content = Buffer.from('old\n');
    const head = Buffer.alloc(16);
    head.writeUInt32LE(salt, 0);
    head.writeUInt32LE(names.length, 4);
    head.writeUInt32LE(content.length, 8);
    head.writeUInt32LE(crc32(content, crc32(names, salt)), 12);
    fs.writeFileSync(`${root}/journal/mb1xyz`, Buffer.concat([head, names, content, Buffer.alloc(5000)]));
    fs.writeFileSync(`${root}/journal/mb2xyz.forgotten`, Buffer.concat([head, names, content]));
    await start();
    assert.deepEqual([read('here'), segments()], [['old\n'], []]);
  });
});
