import assert from 'node:assert/strict';
import { chmodSync, chownSync, lstatSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { prepareData, prepareDataAsRoot, prepareRoot, prepareRootAsRoot } from '../../src/system/folders.ts';
import type { Log } from '../../src/system/log.ts';

const isRoot = process.getuid?.() === 0;
const owner = { uid: 4711, gid: 4712 };
let folder = '';
let data = '';
let lines: { readonly level: string; readonly text: string; readonly [field: string]: unknown }[] = [];
const note = (level: string) => (fields: Record<string, unknown>, text: string) =>
  void lines.push({ ...fields, level, text });
const log: Log = { debug: note('debug'), info: note('info'), warn: note('warn'), error: note('error') };
/** uid and mode. */
const facts = (path: string): string => {
  const { uid, mode } = lstatSync(path);
  return `${uid} ${(mode & 0o777).toString(8)}`;
};
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'folders-'));
  data = join(folder, 'data');
  lines = [];
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

/**
 * Runs code as an ordinary user, who is ourselves where we are one; gives the message of what it threw. The user need not
 * be able to read the sources: they are loaded before we become him.
 */
function asUser(call: string): string {
  chmodSync(folder, 0o755);
  const become = isRoot ? `process.setgroups([]); process.setgid(${owner.gid}); process.setuid(${owner.uid});` : '';
  const source = JSON.stringify(join(import.meta.dirname, '../../src/system/folders.ts'));
  const script = `import(${source}).then(m => { ${become} m.${call}; }).catch(e => console.log(e.message))`;
  return spawnSync(process.execPath, ['-e', script], { encoding: 'utf8', cwd: '/' }).stdout.trim();
}

describe('SLIM_DATA', () => {
  it('is made with its parts, for us alone', () => {
    prepareData(data);
    for (const name of ['queue', 'spool', 'state', 'tls', 'run']) assert.match(facts(join(data, name)), / 700$/);
  });

  it('that cannot be written is answered with the exact chown', () => {
    mkdirSync(data, { mode: 0o555 });
    const [uid, gid] = isRoot ? [4711, 4712] : [process.getuid?.(), process.getgid?.()];
    assert.equal(
      asUser(`prepareData(${JSON.stringify(data)})`),
      `SLIM_DATA cannot be written: EACCES: permission denied, mkdir '${data}/queue'; run chown ${uid}:${gid} ${data}`,
    );
  });

  it('whose parts cannot be written is answered with a chown of these, never of the accounts', () => {
    for (const name of ['accounts', 'queue', 'spool', 'state']) mkdirSync(join(data, name), { recursive: true });
    chmodSync(join(data, 'queue'), 0o555);
    const [uid, gid] = isRoot ? [4711, 4712] : [process.getuid?.(), process.getgid?.()];
    assert.equal(
      asUser(`prepareData(${JSON.stringify(data)})`),
      `SLIM_DATA cannot be written: EACCES: permission denied, open '${data}/queue/.probe'; run chown -R ${uid}:${gid} ${data}/queue ${data}/spool ${data}/state`,
    );
  });

  it('that is a file is said to be one', () => {
    writeFileSync(data, '');
    assert.throws(() => prepareData(data), /^Error: SLIM_DATA cannot be written: (?:ENOTDIR|EEXIST)/);
  });
});

describe('SLIM_DATA prepared by root', { skip: isRoot ? false : 'needs root' }, () => {
  const parts = (): string[] => ['.', 'accounts', 'queue', 'run'].map(name => facts(join(data, name)));
  const wanted = ['0 755', '0 755', '4711 700', '4711 700'];

  it("is root's, and open to all as far as the accounts; only its parts are given away", () => {
    const umask = process.umask(0o077);
    prepareDataAsRoot(join(folder, 'deep', 'data'), owner);
    process.umask(umask);
    data = join(folder, 'deep', 'data');
    assert.deepEqual(parts(), wanted);
    assert.equal(facts(join(folder, 'deep')), '0 755');
  });

  it('is taken back from whoever owned it before, with all that a server without root had made', () => {
    mkdirSync(join(data, 'queue'), { recursive: true, mode: 0o700 });
    for (const path of [data, join(data, 'queue')]) chownSync(path, 1000, 1000);
    prepareDataAsRoot(data, owner);
    assert.deepEqual(parts(), wanted);
  });

  it('never follows a link, nor trusts accounts that another user made', () => {
    mkdirSync(join(data, 'accounts'), { recursive: true });
    mkdirSync(join(folder, 'etc'));
    symlinkSync(join(folder, 'etc'), join(data, 'spool'));
    assert.throws(() => prepareDataAsRoot(data, owner), /spool must be a folder, not a link/);
    assert.match(facts(join(folder, 'etc')), /^0 /);
    chownSync(join(data, 'accounts'), 1000, 1000);
    assert.throws(
      () => prepareDataAsRoot(data, owner),
      /accounts belongs to uid 1000: look into it, then run chown -R 0:0 /,
    );
  });
});

describe('a root of mail', () => {
  it('that is missing is made and logged; one that is there is not', () => {
    const path = join(folder, 'mail', 'deep');
    prepareRoot(path, log);
    assert.deepEqual(
      lines.map(({ level, path: made }) => [level, made]),
      [['warn', path]],
    );
    prepareRoot(path, log);
    assert.equal(lines.length, 1);
    assert.match(facts(path), / 700$/);
  });

  it('that cannot be made is an error in the log, with the chown, and no more', () => {
    const path = join(folder, 'file', 'mail');
    writeFileSync(join(folder, 'file'), '');
    prepareRoot(path, log);
    assert.deepEqual(
      lines.map(({ level, command }) => [level, command]),
      [['error', `chown ${process.getuid?.()}:${process.getgid?.()} ${path}`]],
    );
  });

  it(
    "is made for the network process, and logged, only where every parent is root's own",
    { skip: isRoot ? false : 'needs root' },
    () => {
      prepareRootAsRoot(join(folder, 'mail', 'deep'), owner, log);
      assert.equal(facts(join(folder, 'mail')), '4711 700');
      assert.equal(lines[0]?.['path'], join(folder, 'mail'));
      mkdirSync(join(folder, 'home'));
      chownSync(join(folder, 'home'), 1000, 1000);
      prepareRootAsRoot(join(folder, 'home', 'mail'), owner, log);
      assert.equal(lstatSync(join(folder, 'home', 'mail'), { throwIfNoEntry: false }), undefined);
      assert.equal(lines.length, 1);
    },
  );
});
