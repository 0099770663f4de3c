// A file that is replaced is the old one or the new one, whole; a second name for a file is a link, or a copy where it
// must be.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { tmpdir } from 'node:os';
import { after, afterEach, beforeEach, describe, it } from 'node:test';
import { isLinked, linkOrCopy } from '../../src/durable/link.ts';
import { replaceFile, replaceFileSync } from '../../src/durable/replace.ts';

const folder = mkdtempSync(`${tmpdir()}/replace-`);
after(() => rmSync(folder, { recursive: true }));
const path = `${folder}/file`;

// The file calls, told in their order, or failing in their place.
const real = { ...fs };
let calls: string[] = [];
const nameOf = (fd: number): string => real.readlinkSync(`/proc/self/fd/${fd}`).slice(folder.length) || 'folder';
function replace(functions: Partial<typeof fs>): void {
  Object.assign(fs, functions);
  syncBuiltinESMExports();
}
const fault = Object.assign(new Error('EIO: made by the test'), { code: 'EIO' });

beforeEach(() => {
  calls = [];
  writeFileSync(path, 'old');
  replace({
    fsync: ((fd: number, done: (error: null) => void) => {
      calls.push(`sync ${nameOf(fd)}`);
      real.fsync(fd, () => done(null));
    }) as typeof fs.fsync,
    fsyncSync: fd => {
      calls.push(`sync ${nameOf(fd)}`);
      real.fsyncSync(fd);
    },
    renameSync: (from, to) => {
      calls.push('rename');
      real.renameSync(from, to);
    },
  });
});
afterEach(() =>
  replace({ fsync: real.fsync, fsyncSync: real.fsyncSync, renameSync: real.renameSync, linkSync: real.linkSync }),
);

const ways = [
  ['in its turn', (content: string) => replaceFile(path, content)],
  ['at once', async (content: string) => replaceFileSync(path, content)],
] as const;
for (const [way, run] of ways)
  describe(`a file replaced ${way}`, () => {
    it('is synced before it has its name, and its folder after', async () => {
      await run('new');
      assert.deepEqual(calls, ['sync /file.new', 'rename', 'sync folder']);
      assert.deepEqual([readFileSync(path, 'utf8'), readdirSync(folder)], ['new', ['file']]);
    });

    it('is written over what a crash has left', async () => {
      writeFileSync(`${path}.new`, 'much more than there will be');
      await run('new');
      assert.equal(readFileSync(path, 'utf8'), 'new');
    });

    it('stays the old one where it cannot be synced, and nothing else is left', async () => {
      replace({
        fsync: ((_fd: number, done: (error: Error) => void) => done(fault)) as typeof fs.fsync,
        fsyncSync: () => {
          throw fault;
        },
      });
      await assert.rejects(run('new'), { code: 'EIO' });
      assert.deepEqual([readFileSync(path, 'utf8'), readdirSync(folder)], ['old', ['file']]);
    });
  });

it('a file replaced at once has the mode that is asked for, whatever the umask is', () => {
  const umask = process.umask(0o077);
  replaceFileSync(path, 'new', { mode: 0o644 });
  process.umask(umask);
  assert.equal(statSync(path).mode & 0o777, 0o644);
});

describe('a second name', () => {
  afterEach(() => rmSync(`${folder}/second`, { force: true }));

  it('is a link', async () => {
    await linkOrCopy(path, `${folder}/second`);
    assert.equal(statSync(`${folder}/second`).ino, statSync(path).ino);
  });

  it('is a copy where there can be no link', async () => {
    replace({
      linkSync: () => {
        throw fault;
      },
    });
    assert.equal(isLinked(path, `${folder}/second`), false);
    await linkOrCopy(path, `${folder}/second`);
    assert.notEqual(statSync(`${folder}/second`).ino, statSync(path).ino);
    assert.equal(readFileSync(`${folder}/second`, 'utf8'), 'old');
  });

  it('never replaces a file', async () => {
    writeFileSync(`${folder}/second`, 'another');
    await assert.rejects(linkOrCopy(path, `${folder}/second`), { code: 'EEXIST' });
    assert.equal(readFileSync(`${folder}/second`, 'utf8'), 'another');
  });
});
