// The journal of small messages: what a crash or a power cut leaves of it, and that it never stands in the way of mail.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { afterEach, beforeEach, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { type Message, inMemory } from '../../src/mail/message.ts';
import type { Prepared } from '../../src/mail/ports.ts';
import { DiskJournal } from '../../src/durable/journal.ts';
import { MaildirStorage } from '../../src/storage/maildir.ts';
import { systemClock as clock, systemRandom as random } from '../../src/system/world.ts';

let root = '';
let said: string[] = [];
const note = (_fields: object, text: string): void => void said.push(text);
const system = { clock, random, log: { debug: note, info: note, warn: note, error: note } };
const running = new Map<MaildirStorage, DiskJournal | undefined>();

beforeEach(async () => {
  root = await mkdtemp(`${tmpdir()}/journal-`);
  fs.mkdirSync(`${root}/journal`);
  fs.mkdirSync(`${root}/mail`);
  said = [];
});
afterEach(async () => {
  for (const journal of running.values()) await journal?.close();
  running.clear();
  await rm(root, { recursive: true });
});

async function start(): Promise<MaildirStorage> {
  const storage = new MaildirStorage(system);
  const journal = await DiskJournal.open(`${root}/journal`, system);
  storage.use(journal);
  running.set(storage, journal);
  return storage;
}
const memory = (...texts: string[]): Message => inMemory(...texts.map(text => Buffer.from(text)));
const prepare = (storage: MaildirStorage, names: string[], ...texts: string[]): Promise<Prepared> =>
  storage.prepare(
    names.map(name => ({ kind: 'maildir', path: `${root}/mail/${name}`, root: `${root}/mail` })),
    memory(...texts),
  );
const deliver = async (storage: MaildirStorage, names: string[], ...texts: string[]): Promise<void> =>
  (await prepare(storage, names, ...texts)).commit();
const list = (name: string, folder = 'new'): string[] => fs.readdirSync(`${root}/mail/${name}/${folder}`);
const mail = (name: string, folder = 'new'): string[] =>
  list(name, folder)
    .map(file => fs.readFileSync(`${root}/mail/${name}/${folder}/${file}`, 'utf8'))
    .toSorted();
const segments = (): string[] => fs.readdirSync(`${root}/journal`);
/** The journal as a crash would leave it, with the storage that wrote it out of the way. */
async function crash(storage: MaildirStorage): Promise<void> {
  const left = segments().map(name => [name, fs.readFileSync(`${root}/journal/${name}`)] as const);
  await running.get(storage)?.close();
  running.delete(storage);
  for (const [name, content] of left) fs.writeFileSync(`${root}/journal/${name}`, content);
}

test('what the power cut took of a Maildir is written again at the start, and the journal is done', async () => {
  const first = await start();
  await deliver(first, ['anton', 'berta'], 'Subject: 1\n', '\none\n');
  await deliver(first, ['anton'], 'two\n');
  await crash(first);
  for (const name of list('anton')) fs.rmSync(`${root}/mail/anton/new/${name}`);
  await start();
  assert.deepEqual([mail('anton'), mail('berta')], [['Subject: 1\n\none\n', 'two\n'], ['Subject: 1\n\none\n']]);
  assert.equal(fs.statSync(`${root}/mail/anton/new/${list('anton')[0]}`).mode & 0o777, 0o600);
  assert.deepEqual([segments(), list('anton', 'tmp')], [[], []]);
});

test('a file that was torn is made whole in its place, also where a reader has moved it', async () => {
  const first = await start();
  await deliver(first, ['anton'], 'one\n');
  await deliver(first, ['berta'], 'two\n');
  await crash(first);
  const [name = '', other = ''] = [list('anton')[0], list('berta')[0]];
  fs.truncateSync(`${root}/mail/anton/new/${name}`, 0);
  fs.renameSync(`${root}/mail/berta/new/${other}`, `${root}/mail/berta/cur/${other}:2,S`);
  fs.truncateSync(`${root}/mail/berta/cur/${other}:2,S`, 2);
  await start();
  assert.deepEqual([mail('anton'), list('anton')], [['one\n'], [name]]);
  assert.deepEqual([mail('berta', 'cur'), list('berta', 'cur'), list('berta')], [['two\n'], [`${other}:2,S`], []]);
});

test('what is there already is left as it is: no message comes twice', async () => {
  const first = await start();
  await deliver(first, ['anton'], 'one\n');
  await crash(first);
  const before = fs.statSync(`${root}/mail/anton/new/${list('anton')[0]}`).ino;
  await start();
  assert.equal(list('anton').length, 1);
  assert.equal(fs.statSync(`${root}/mail/anton/new/${list('anton')[0]}`).ino, before);
  assert.ok(!said.includes('mail was restored from the journal'));
});

test('a message that was stable, and not yet in its Maildir, is delivered at the start', async () => {
  const first = await start();
  await prepare(first, ['anton'], 'one\n');
  assert.deepEqual([list('anton').length, list('anton', 'tmp').length, segments().length], [0, 1, 1]);
  await crash(first);
  await start();
  assert.deepEqual([mail('anton'), list('anton', 'tmp')], [['one\n'], []]);
});

test('a message that was refused after all is not delivered at the start', async () => {
  const first = await start();
  await (await prepare(first, ['anton', 'berta'], 'aborted\n')).abort();
  const prepared = await prepare(first, ['anton'], 'cannot be committed\n');
  fs.rmSync(`${root}/mail/anton/new`, { recursive: true });
  await assert.rejects(prepared.commit());
  fs.mkdirSync(`${root}/mail/anton/new`);
  await crash(first);
  await start();
  assert.deepEqual([mail('anton'), mail('berta'), segments()], [[], [], []]);
});

test('a record that was cut short is no message; those before it are', async () => {
  const first = await start();
  await deliver(first, ['anton'], 'one\n');
  await deliver(first, ['anton'], 'two\n');
  await crash(first);
  for (const name of list('anton')) fs.rmSync(`${root}/mail/anton/new/${name}`);
  const path = `${root}/journal/${segments()[0]}`;
  fs.truncateSync(
    path,
    fs
      .readFileSync(path)
      .toString('latin1')
      .trimEnd()
      .replace(/[\0\n]*$/, '').length,
  );
  await start();
  assert.deepEqual(mail('anton'), ['one\n']);
  assert.deepEqual(segments(), []);
});

test('a record that is spoilt within is no message', async () => {
  const first = await start();
  await deliver(first, ['anton'], 'one\n');
  await crash(first);
  for (const name of list('anton')) fs.rmSync(`${root}/mail/anton/new/${name}`);
  const path = `${root}/journal/${segments()[0]}`;
  const content = fs.readFileSync(path);
  content[content.indexOf('one\n') + 2] = 0;
  fs.writeFileSync(path, content);
  await start();
  assert.deepEqual(mail('anton'), []);
});

test('a segment goes at a checkpoint, but not while a message of it is still to be put in place', async () => {
  const journal = await DiskJournal.open(`${root}/journal`, system);
  fs.mkdirSync(`${root}/mail/x/new`, { recursive: true });
  const file = { final: `${root}/mail/x/new/1`, temporary: `${root}/mail/x/tmp/1`, fileSystem: 1 };
  const release = await journal?.append([{ files: [file], parts: [Buffer.from('x\n')] }]);
  await journal?.checkpoint();
  assert.equal(segments().length, 1);
  release?.();
  await journal?.close();
  assert.deepEqual(segments(), []);
});

test('a segment is written over, and nothing of its former life comes back', async () => {
  const journal = await DiskJournal.open(`${root}/journal`, system);
  const inodes = (): number[] => segments().map(name => fs.statSync(`${root}/journal/${name}`).ino);
  for (const name of ['new', 'cur', 'tmp']) fs.mkdirSync(`${root}/mail/x/${name}`, { recursive: true });
  const append = async (name: string): Promise<void> => {
    const file = { final: `${root}/mail/x/new/${name}`, temporary: `${root}/mail/x/tmp/${name}`, fileSystem: 1 };
    (await journal?.append([{ files: [file], parts: [Buffer.from(`${name}\n`)] }]))?.();
  };
  for (const name of ['a', 'b', 'c']) await append(name);
  await journal?.checkpoint();
  const before = inodes();
  const [left = ''] = segments();
  const empty = fs.readFileSync(`${root}/journal/${left}`);
  assert.ok(empty.includes('c\n'), 'the records are still there');
  await append('d');
  assert.deepEqual(inodes(), before, 'the same file');
  const whole = fs.readFileSync(`${root}/journal/${left}`);
  assert.ok(whole.includes('c\n'), 'behind the new one');
  assert.equal(whole.length, empty.length);
  await journal?.close();
  for (const [content, mails] of [
    [empty, []],
    [whole, ['d\n']],
  ] as const) {
    fs.writeFileSync(`${root}/journal/${left}`, content);
    await start();
    assert.deepEqual([mail('x'), segments()], [mails, []]);
  }
});

test('mail that cannot be restored stays in the journal until it can', async () => {
  const first = await start();
  await deliver(first, ['anton'], 'one\n');
  await crash(first);
  fs.renameSync(`${root}/mail`, `${root}/away`); // a volume that is not mounted
  await start();
  assert.equal(segments().length, 1);
  assert.ok(said.includes('mail could not be restored: it stays in the journal'));
  fs.renameSync(`${root}/away`, `${root}/mail`);
  fs.rmSync(`${root}/mail/anton/new/${list('anton')[0]}`);
  await start();
  assert.deepEqual([mail('anton'), segments()], [['one\n'], []]);
});

test('a journal that cannot be written stops no mail', async () => {
  const storage = await start();
  fs.rmdirSync(`${root}/journal`);
  await deliver(storage, ['anton'], 'one\n');
  await deliver(storage, ['anton'], 'two\n');
  assert.deepEqual(mail('anton'), ['one\n', 'two\n']);
  assert.equal(said.filter(text => text.startsWith('the journal cannot be written now')).length, 1);
  fs.mkdirSync(`${root}/journal`);
});

for (const isGone of [false, true])
  test(`after a sync -f that failed files are written anew, and ${isGone ? 'where that fails the journal keeps them' : 'the journal is done'}`, async () => {
    const { PATH } = process.env;
    const journal = await DiskJournal.open(`${root}/journal`, system);
    for (const name of ['new', 'cur', 'tmp']) fs.mkdirSync(`${root}/mail/x/${name}`, { recursive: true });
    const file = { final: `${root}/mail/x/new/1`, temporary: `${root}/mail/x/tmp/1`, fileSystem: 1 };
    fs.writeFileSync(file.final, 'what the disk forgot');
    (await journal?.append([{ files: [file], parts: [Buffer.from('x\n')] }]))?.();
    if (isGone) fs.rmSync(`${root}/mail/x`, { recursive: true });
    // Fails once, as a kernel does that has dropped the pages.
    fs.writeFileSync(`${root}/sync`, `#!/bin/sh\n[ -e ${root}/told ] || { : >${root}/told; exit 1; }\n`, {
      mode: 0o755,
    });
    process.env.PATH = root;
    try {
      await journal?.close();
    } finally {
      process.env.PATH = PATH;
    }
    assert.ok(fs.existsSync(`${root}/told`));
    assert.equal(segments().length, isGone ? 1 : 0);
    if (!isGone) return assert.equal(fs.readFileSync(file.final, 'utf8'), 'x\n');
    for (const name of ['new', 'cur', 'tmp']) fs.mkdirSync(`${root}/mail/x/${name}`, { recursive: true });
    fs.writeFileSync(file.final, 'x\n');
    const before = fs.statSync(file.final).ino;
    await start();
    assert.notEqual(fs.statSync(file.final).ino, before, 'what the disk may have forgotten is written anew');
    assert.deepEqual([mail('x'), segments()], [['x\n'], []]);
  });

test('where there is no `sync -f` each file is synced by itself', async () => {
  const { PATH } = process.env;
  process.env.PATH = '';
  try {
    const storage = await start();
    await deliver(storage, ['anton'], 'one\n');
    assert.deepEqual([mail('anton'), segments()], [['one\n'], []]);
  } finally {
    process.env.PATH = PATH;
  }
});

test('a large message is not written twice: it stays out of the journal', async () => {
  const storage = await start();
  const path = `${root}/spooled`;
  fs.writeFileSync(path, 'large\n');
  const route = { kind: 'maildir', path: `${root}/mail/anton`, root: `${root}/mail` } as const;
  await (await storage.prepare([route], { kind: 'file', path, sizeBytes: 6 })).commit();
  assert.deepEqual([mail('anton'), segments()], [['large\n'], []]);
});

test('many at once are all kept, in few segments', async () => {
  const storage = await start();
  await Promise.all(Array.from({ length: 200 }, (_, at) => deliver(storage, ['anton'], `${at}\n`)));
  await crash(storage);
  for (const name of list('anton')) fs.rmSync(`${root}/mail/anton/new/${name}`);
  await pause(1);
  await start();
  assert.equal(list('anton').length, 200);
});
