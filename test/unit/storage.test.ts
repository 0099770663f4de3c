import assert from 'node:assert/strict';
import fs from 'node:fs';
import { mkdir, mkdtemp, readdir, rename, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { tmpdir } from 'node:os';
import { afterEach, beforeEach, test } from 'node:test';
import { CannotTell } from '../../src/mail/ports.ts';
import type { Log } from '../../src/system/log.ts';
import type { Route } from '../../src/mail/message.ts';
import { MaildirStorage } from '../../src/storage/maildir.ts';
import { FolderSync } from '../../src/durable/folder-sync.ts';
import { sweep } from '../../src/storage/sweep.ts';
import { systemClock, systemRandom } from '../../src/system/world.ts';
import { contents, memory, storageContract } from '../contract/storage.ts';

let root = '';
let logged: string[] = [];
const note = (fields: Record<string, unknown>, message: string): unknown =>
  logged.push(`${message} ${JSON.stringify(fields)}`);
const log: Log = { debug: note, info: note, warn: note, error: note };
const make = (): MaildirStorage => new MaildirStorage({ clock: systemClock, random: systemRandom, log });
const route = (name: string, below = root): Route => ({ kind: 'maildir', root: below, path: `${below}/${name}` });
const cannotTell =
  (words: RegExp) =>
  (error: unknown): boolean =>
    error instanceof CannotTell && words.test(error.message);

beforeEach(async () => {
  root = await mkdtemp(`${tmpdir()}/storage-`);
  logged = [];
});
afterEach(async () => {
  undoFaults();
  await rm(root, { recursive: true, force: true });
});

// Faults and their order: the file calls that the storage makes, replaced for one test.
const real = { ...fs };
function replace(calls: Partial<typeof fs>): void {
  Object.assign(fs, calls);
  syncBuiltinESMExports();
}
const undoFaults = (): void =>
  replace({
    fsync: real.fsync,
    writevSync: real.writevSync,
    renameSync: real.renameSync,
    linkSync: real.linkSync,
  });
const fault = (code: string): Error => Object.assign(new Error(`${code}: made by the test`), { code });
/** Whether a path is that of a message in tmp/ (the test's root itself may lie in /tmp). */
const isMail = (path: string): boolean => /\/tmp\/\d+\.M\d+P/.test(path);
const pathOf = (fd: number): string => real.readlinkSync(`/proc/self/fd/${fd}`);
type Done = (error: Error | null) => void;
/** Replaces fsync by one that is told the path. */
const replaceFsync = (run: (path: string, sync: () => void, done: Done) => void): void =>
  replace({
    fsync: ((fd: number, done: Done) => run(pathOf(fd), () => real.fsync(fd, done), done)) as typeof fs.fsync,
  });

storageContract('a Maildir', async () => {
  const folder = await mkdtemp(`${tmpdir()}/storage-contract-`);
  await mkdir(`${folder}/mail/example.com`, { recursive: true });
  await mkdir(`${folder}/spool`);
  return {
    storage: make(),
    route: name => route(`example.com/${name}`, `${folder}/mail`),
    maildir: name => `${folder}/mail/example.com/${name}`,
    spool: `${folder}/spool`,
    dispose: () => rm(folder, { recursive: true }),
  };
});

test('the file is synced before it is renamed, and new/ after; made folders are synced up to the root', async () => {
  const calls: string[] = [];
  replaceFsync((path, sync) => {
    calls.push(`sync ${path.slice(root.length).replace(/[^/]*Q[^/]*$/, 'FILE')}`);
    sync();
  });
  replace({
    renameSync: (from, to) => {
      calls.push('rename');
      real.renameSync(from, to);
    },
  });
  const storage = make();
  const prepared = await storage.prepare([route('example.com/anton')], memory('x\n'));
  assert.deepEqual(calls.splice(0).toSorted(), [
    'sync ',
    'sync /example.com',
    'sync /example.com/anton',
    'sync /example.com/anton/tmp/FILE',
  ]);
  await prepared.commit();
  assert.deepEqual(calls.splice(0), ['rename', 'sync /example.com/anton/new']);
  await (await storage.prepare([route('example.com/anton')], memory('x\n'))).commit();
  assert.deepEqual(calls, ['sync /example.com/anton/tmp/FILE', 'rename', 'sync /example.com/anton/new']);
});

test('the journal is told what stands in each file: a record for each head, and one for all that have none', async () => {
  const told: (readonly [files: number, text: string])[] = [];
  const storage = make();
  storage.use({
    append: async records => {
      for (const { files, parts } of records) told.push([files.length, Buffer.concat(parts).toString()]);
      return () => {};
    },
  });
  const head = 'Delivered-To: x@example.com\n';
  const copies = [route('anton'), { ...route('berta'), head }, route('carla'), { ...route('dora'), head }];
  await (await storage.prepare(copies, memory('x\n'))).commit();
  assert.deepEqual(told, [
    [2, 'x\n'],
    [2, `${head}x\n`],
  ]);
});

test('a delivery waits for the folders that another one has made and not yet synced', async () => {
  const held: (() => void)[] = [];
  replaceFsync((path, sync) => (path === root ? held.push(sync) : sync()));
  const storage = make();
  const first = storage.prepare([route('anton')], memory('1\n'));
  let isSecondReady = false;
  const second = storage.prepare([route('anton')], memory('2\n')).then(prepared => {
    isSecondReady = true;
    return prepared;
  });
  await settle();
  assert.equal(isSecondReady, false);
  for (const release of held) release();
  await (await first).commit();
  await (await second).commit();
  assert.deepEqual(await contents(`${root}/anton`, 'new'), ['1\n', '2\n']);
});

test('a folder sync that began before a delivery asked does not satisfy it, and one round serves all who wait', async () => {
  const held: (() => void)[] = [];
  replaceFsync((_path, sync) => held.push(sync));
  const folders = new FolderSync();
  const ended: number[] = [];
  const ask = (number: number) => folders.sync(root).then(() => ended.push(number));
  const all = [ask(1)];
  await settle();
  assert.equal(held.length, 1);
  all.push(ask(2), ask(3));
  held[0]?.();
  await all[0];
  await settle();
  assert.deepEqual([ended, held.length], [[1], 2]);
  held[1]?.();
  await Promise.all(all);
  assert.deepEqual([ended, held.length], [[1, 2, 3], 2]);
});

test('a folder sync that fails fails those who wait for the next round too, and only those', async () => {
  const ends: Done[] = [];
  replaceFsync((_path, _sync, done) => ends.push(done));
  const folders = new FolderSync();
  const first = folders.sync(root);
  await settle();
  const both = Promise.allSettled([first, folders.sync(root)]);
  ends[0]?.(fault('EIO'));
  assert.deepEqual(
    (await both).map(({ status }) => status),
    ['rejected', 'rejected'],
  );
  const later = folders.sync(root);
  await settle();
  ends[1]?.(null);
  await later;
  const [end, afterwards] = [ends.length, folders.sync(root)];
  await settle();
  ends[end]?.(null);
  await afterwards;
});

test('an fsync of the file that fails names it, and neither copy is left', async () => {
  const storage = make();
  replaceFsync((path, sync, done) => (isMail(path) ? done(fault('EIO')) : sync()));
  await assert.rejects(storage.prepare([route('anton'), route('berta')], memory('x\n')), /EIO.*anton/);
  await assertNothingLeft('anton', 'berta');
});

test('an fsync of new/ that fails names it, and no copy is left, not even in new/', async () => {
  const prepared = await make().prepare([route('anton'), route('berta')], memory('x\n'));
  replaceFsync((path, sync, done) => (path.endsWith('berta/new') ? done(fault('EIO')) : sync()));
  await assert.rejects(prepared.commit(), /EIO.*berta/);
  await assertNothingLeft('anton', 'berta');
});

test('a rename that fails removes what was renamed before it', async () => {
  const prepared = await make().prepare([route('anton'), route('berta')], memory('x\n'));
  replace({
    renameSync: (from, to) => {
      if (String(to).includes('berta')) throw fault('EACCES');
      real.renameSync(from, to);
    },
    linkSync: () => {
      throw fault('EACCES');
    },
  });
  await assert.rejects(prepared.commit(), { code: 'EACCES' });
  await assertNothingLeft('anton', 'berta');
});

test('a reader that takes mail out of new/ at once does not keep the others from theirs', async () => {
  const prepared = await make().prepare([route('anton'), route('berta')], memory('x\n'));
  replace({
    renameSync: (from, to) => {
      real.renameSync(from, to);
      real.renameSync(to, String(to).replace('/new/', '/cur/'));
    },
  });
  await prepared.commit();
  assert.deepEqual(await contents(`${root}/berta`, 'new'), ['x\n']);
});

test('a link into new/ that cannot be made becomes a copy, and the next message is made ready before anything shows', async () => {
  const storage = make();
  const prepared = await storage.prepare([route('anton'), route('berta')], memory('x\n'));
  assert.deepEqual(await contents(`${root}/berta`, 'tmp'), []);
  replace({
    linkSync: () => {
      throw fault('EPERM');
    },
  });
  await prepared.commit();
  for (const name of ['anton', 'berta']) assert.deepEqual(await contents(`${root}/${name}`, 'new'), ['x\n']);
  const next = await storage.prepare([route('anton'), route('berta')], memory('y\n'));
  for (const name of ['anton', 'berta']) assert.deepEqual(await contents(`${root}/${name}`, 'tmp'), ['y\n']);
  await next.commit();
  for (const name of ['anton', 'berta']) assert.deepEqual(await contents(`${root}/${name}`, 'new'), ['x\n', 'y\n']);
});

for (const code of ['ENOSPC', 'EDQUOT']) {
  test(`${code} is passed on, for its reply of its own, and nothing is left`, async () => {
    replace({
      writevSync: () => {
        throw fault(code);
      },
    });
    await assert.rejects(make().prepare([route('anton')], memory('x\n')), { code });
    await assertNothingLeft('anton');
  });
}

test('no file stays open, neither after success nor after failure', async () => {
  const storage = make();
  const isOpen = (): number =>
    real.readdirSync('/proc/self/fd').filter(fd => tryLink(fd).startsWith(`${root}/`)).length;
  await (await storage.prepare([route('anton'), route('berta')], memory('x\n'))).commit();
  replace({
    writevSync: () => {
      throw fault('ENOSPC');
    },
  });
  await assert.rejects(storage.prepare([route('anton')], memory('x\n')));
  undoFaults();
  replaceFsync((path, sync, done) => (isMail(path) ? done(fault('EIO')) : sync()));
  await assert.rejects(storage.prepare([route('anton')], memory('x\n')));
  assert.equal(isOpen(), 0);
});

test('further Maildirs of the file system share one inode, and it is written and synced once', async () => {
  let synced = 0;
  const storage = make();
  const routes = ['anton', 'berta', 'carla'].map(name => route(name));
  await (await storage.prepare(routes, memory('x\n'))).commit();
  replaceFsync((path, sync) => {
    if (isMail(path)) synced += 1;
    sync();
  });
  await (await storage.prepare(routes, memory('y\n'))).commit();
  const inodes = await Promise.all(
    ['anton', 'berta', 'carla'].map(async name => {
      const files = (await readdir(`${root}/${name}/new`)).toSorted();
      return (await stat(`${root}/${name}/new/${files.at(-1)}`)).ino;
    }),
  );
  assert.deepEqual([new Set(inodes).size, synced], [1, 1]);
});

test('a Maildir on another file system gets a copy, synced by itself, and links within it', async () => {
  const other = await mkdtemp('/dev/shm/storage-');
  try {
    const synced: string[] = [];
    replaceFsync((path, sync) => {
      if (isMail(path)) synced.push(path.startsWith(other) ? 'other' : 'here');
      sync();
    });
    assert.notEqual((await stat(other)).dev, (await stat(root)).dev, 'this test needs two file systems');
    await writeFile(`${root}/spooled`, 'x\n', { mode: 0o600 });
    const routes = [route('anton'), route('berta', other), route('carla', other), route('dora')];
    const file = { kind: 'file', path: `${root}/spooled`, sizeBytes: 2 } as const;
    for (const message of [memory('x\n'), file]) {
      await (await make().prepare(routes, message)).commit();
      assert.deepEqual(synced.splice(0).toSorted(), ['here', 'other']);
    }
    for (const maildir of [`${root}/anton`, `${other}/berta`, `${other}/carla`, `${root}/dora`]) {
      assert.deepEqual(await contents(maildir, 'new'), ['x\n', 'x\n']);
    }
  } finally {
    await rm(other, { recursive: true });
  }
});

test('where no link can be made, each Maildir gets a copy', async () => {
  replace({
    linkSync: () => {
      throw fault('EMLINK');
    },
  });
  await (await make().prepare([route('anton'), route('berta')], memory('x\n'))).commit();
  assert.deepEqual(await contents(`${root}/anton`, 'new'), ['x\n']);
  assert.deepEqual(await contents(`${root}/berta`, 'new'), ['x\n']);
});

test('a root that has gone is 451 and a log line, and it is not made again', async () => {
  const storage = make();
  const gone = { kind: 'maildir', root: `${root}/mail`, path: `${root}/mail/anton` } as const;
  await mkdir(`${root}/mail`);
  await (await storage.prepare([gone], memory('x\n'))).commit();
  await rename(`${root}/mail`, `${root}/elsewhere`);
  await assert.rejects(storage.prepare([gone], memory('x\n')), { code: 'ENOENT' });
  await assert.rejects(storage.prepare([gone], memory('x\n')), cannotTell(/mail is gone/));
  assert.deepEqual(await readdir(root), ['elsewhere']);
  assert.match(logged.join('\n'), /gone/);
  await rename(`${root}/elsewhere`, `${root}/mail`);
  await (await storage.prepare([gone], memory('y\n'))).commit();
  assert.deepEqual(await contents(gone.path, 'new'), ['x\n', 'y\n']);
});

test('a Maildir that someone removed is made again once a delivery has failed, in prepare or in commit', async () => {
  const storage = make();
  const prepared = await storage.prepare([route('anton')], memory('1\n'));
  await rm(`${root}/anton`, { recursive: true });
  await assert.rejects(prepared.commit(), { code: 'ENOENT' });
  await (await storage.prepare([route('anton')], memory('2\n'))).commit();
  await rm(`${root}/anton`, { recursive: true });
  await assert.rejects(storage.prepare([route('anton')], memory('3\n')), { code: 'ENOENT' });
  await (await storage.prepare([route('anton')], memory('4\n'))).commit();
  assert.deepEqual(await contents(`${root}/anton`, 'new'), ['4\n']);
});

for (const path of ['/etc/x', '..', '../x', 'a/../../x', 'a/./b', 'a//b', 'a/', '']) {
  test(`a path that is not plainly below the root is refused: '${path}'`, async () => {
    await mkdir(`${root}/mail`);
    const attempt = {
      kind: 'maildir',
      root: `${root}/mail`,
      path: path.startsWith('/') ? path : `${root}/mail/${path}`,
    };
    await assert.rejects(make().prepare([attempt as Route], memory('x\n')), cannotTell(/not below/));
    assert.deepEqual([await readdir(root), await readdir(`${root}/mail`)], [['mail'], []]);
  });
}

test('a neighbour whose name begins like the root is not below it', async () => {
  await mkdir(`${root}/mail`);
  const attempt: Route = { kind: 'maildir', root: `${root}/mail`, path: `${root}/mailbox` };
  await assert.rejects(make().prepare([attempt], memory('x\n')), cannotTell(/not below/));
  assert.deepEqual(await readdir(root), ['mail']);
});

test('the sweep removes files of tmp/ that are older than 36 hours, and nothing else', async () => {
  const now = systemClock.now();
  const hoursAgo = (hours: number): Date => new Date(now - hours * 3600_000);
  for (const maildir of [
    '',
    '/postmaster',
    '/example.com/anton',
    '/example.com/anton/.Junk',
    '/a/b/too-deep',
    '/tmp/anton',
  ]) {
    for (const folder of ['new', 'cur', 'tmp/folder']) await mkdir(`${root}${maildir}/${folder}`, { recursive: true });
    await writeAged(`${root}${maildir}/tmp/old`, hoursAgo(36.1), hoursAgo(36.1));
    await writeAged(`${root}${maildir}/tmp/read`, hoursAgo(35.9), hoursAgo(99));
    await writeAged(`${root}${maildir}/tmp/written`, hoursAgo(99), hoursAgo(35.9));
    await writeAged(`${root}${maildir}/new/old`, hoursAgo(99), hoursAgo(99));
    await writeAged(`${root}${maildir}/cur/old`, hoursAgo(99), hoursAgo(99));
  }
  await mkdir(`${root}/no-maildir/tmp`, { recursive: true });
  await writeAged(`${root}/no-maildir/tmp/old`, hoursAgo(99), hoursAgo(99));
  await symlink(`${root}/a/b/too-deep`, `${root}/example.com/link`);
  const before = await tree();
  await utimes(`${root}/example.com/anton/tmp/folder`, hoursAgo(99), hoursAgo(99));
  await sweep(root, { clock: { now: () => now }, log });
  const removed = before.filter(path => !real.existsSync(`${root}/${path}`)).toSorted();
  const ofAnton = ['example.com/anton/.Junk/tmp/old', 'example.com/anton/tmp/old'];
  assert.deepEqual(removed, [...ofAnton, 'postmaster/tmp/old', 'tmp/old']);
  assert.equal(logged.length, 4);
});

test('the sweep of a folder that it cannot read warns', async () => {
  await writeFile(`${root}/file`, '');
  await sweep(`${root}/file`, { clock: systemClock, log });
  assert.match(logged.join('\n'), /could not look/);
});

async function writeAged(path: string, atime: Date, mtime: Date): Promise<void> {
  await writeFile(path, '');
  await utimes(path, atime, mtime);
}

async function tree(): Promise<string[]> {
  return (await readdir(root, { recursive: true })).toSorted();
}

async function assertNothingLeft(...names: readonly string[]): Promise<void> {
  for (const name of names) {
    assert.deepEqual(await contents(`${root}/${name}`, 'new'), [], name);
    assert.deepEqual(await contents(`${root}/${name}`, 'tmp'), [], name);
  }
}

function tryLink(fd: string): string {
  try {
    return real.readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return '';
  }
}

/** Long enough for everything that is not held back to end. */
function settle(): Promise<void> {
  return new Promise(resolve => {
    setTimeout(resolve, 50);
  });
}
