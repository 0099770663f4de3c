// Deposits into a home that its owner has arranged to lead root astray. Here the account is whoever runs the tests, so
// no root is needed; other uids are in test/integration/steward.test.ts.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, beforeEach, test } from 'node:test';
import type { Account } from '../../src/mail/ports.ts';
import { deposit, type AccountFolder } from '../../src/steward/deposit.ts';
import { systemClock, systemRandom } from '../../src/system/world.ts';

const base = fs.mkdtempSync(join(tmpdir(), 'slim-deposit-'));
after(() => fs.rmSync(base, { recursive: true }));

let [home, elsewhere, spoolFolder] = ['', '', ''];
let account: Account;
const [uid, gid] = [process.getuid?.() ?? 0, process.getgid?.() ?? 0];
const text = 'Subject: test\n\nbody\n';

beforeEach(() => {
  const folder = fs.mkdtempSync(join(base, 't'));
  [home = '', elsewhere = '', spoolFolder = ''] = ['home', 'elsewhere', 'spool'].map(name => join(folder, name));
  for (const path of [home, elsewhere, spoolFolder]) fs.mkdirSync(path, { mode: 0o700 });
  fs.writeFileSync(join(spoolFolder, 'mail'), text);
  account = { name: 'anton', uid, gid, home };
});

const to = (...folders: AccountFolder[]) =>
  deposit({ spoolFolder, spoolUid: uid, clock: systemClock, random: systemRandom }, 'mail', folders);
const place = (folder = 'Maildir'): AccountFolder => ({ account, folder });
/** Every file below a folder. */
const files = (folder: string): string[] =>
  fs
    .readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter(entry => !entry.isDirectory())
    .map(entry => join(entry.parentPath, entry.name).slice(folder.length + 1));
const descriptors = (): number => fs.readdirSync('/proc/self/fd').length;

test('a message is in tmp/ once prepared, in new/ once committed, and its folders are made 0700, the file 0600', async () => {
  const before = descriptors();
  const prepared = await to(place('mail/of anton/Maildir'));
  assert.match(files(home).join(), /^mail\/of anton\/Maildir\/tmp\/[^,]+$/);
  await prepared.commit();
  const [path = '', ...more] = files(home);
  assert.match(path, /^mail\/of anton\/Maildir\/new\/\d+\.M\d+P/);
  assert.deepEqual(more, []);
  assert.equal(fs.readFileSync(join(home, path), 'utf8'), text);
  assert.equal(fs.statSync(join(home, path)).mode & 0o777, 0o600);
  for (const folder of ['mail', 'mail/of anton/Maildir/cur', 'mail/of anton/Maildir/tmp'])
    assert.equal(fs.statSync(join(home, folder)).mode & 0o777, 0o700);
  assert.equal(descriptors(), before);
});

test('a subfolder by Maildir++ has the file that says so, once', async () => {
  for (const _ of [1, 2]) await (await to(place('Maildir/.Junk'))).commit();
  const found = files(home).toSorted();
  assert.equal(found.length, 3);
  assert.equal(found[0], 'Maildir/.Junk/maildirfolder');
  assert.match(found.slice(1).join(), /^Maildir\/\.Junk\/new\/[^,]+,Maildir\/\.Junk\/new\/[^,]+$/);
});

test('an aborted deposit leaves nothing, neither a file nor a descriptor', async () => {
  const before = descriptors();
  await (await to(place(), place('other'))).abort();
  assert.deepEqual(files(home), []);
  assert.equal(descriptors(), before);
});

for (const size of [0, 262_144, 262_145, 1_000_003])
  test(`${size} octets arrive octet for octet, in each of three copies`, async () => {
    const content = Buffer.alloc(size, 'slim\r\n\0\xff', 'latin1');
    fs.writeFileSync(join(spoolFolder, 'mail'), content);
    await (await to(place('a'), place('b'), place(''))).commit();
    const found = files(home);
    assert.equal(found.length, 3);
    for (const path of found) assert.ok(fs.readFileSync(join(home, path)).equals(content));
  });

test('when one of several places fails, none gets anything', async () => {
  const before = descriptors();
  fs.writeFileSync(join(home, 'file'), '');
  await assert.rejects(to(place(), place('file')), { code: 'ENOTDIR' });
  assert.deepEqual(files(home), ['file']);
  assert.equal(descriptors(), before);
});

test('a rename that fails takes back the copies that were already visible', async () => {
  const prepared = await to(place('a'), place('b'));
  for (const name of fs.readdirSync(join(home, 'b/tmp'))) fs.unlinkSync(join(home, 'b/tmp', name));
  await assert.rejects(prepared.commit(), { code: 'ENOENT' });
  assert.deepEqual(files(home), []);
});

for (const folder of ['Maildir', 'Maildir/new', 'Maildir/tmp', 'Maildir/cur'])
  test(`a symlink in place of ${folder} is not followed`, async () => {
    fs.mkdirSync(join(home, 'Maildir'));
    if (folder === 'Maildir') fs.rmdirSync(join(home, folder));
    fs.symlinkSync(elsewhere, join(home, folder));
    await assert.rejects(to(place()), { code: /ELOOP|ENOTDIR/ });
    assert.deepEqual(fs.readdirSync(elsewhere), []);
  });

test('a home that is a symlink is not followed', async () => {
  fs.rmdirSync(home);
  fs.symlinkSync(elsewhere, home);
  await assert.rejects(to(place()));
  assert.deepEqual(fs.readdirSync(elsewhere), []);
});

test('a home that is missing is not made', async () => {
  fs.rmdirSync(home);
  await assert.rejects(to(place()), { code: 'ENOENT' });
  assert.ok(!fs.existsSync(home));
});

test('a folder that becomes a symlink after the deposit was prepared changes nothing', async () => {
  const prepared = await to(place());
  fs.renameSync(join(home, 'Maildir'), join(home, 'moved'));
  fs.symlinkSync(elsewhere, join(home, 'Maildir'));
  await prepared.commit();
  assert.match(files(join(home, 'moved')).join(), /^new\//);
  assert.deepEqual(fs.readdirSync(elsewhere), []);
});

test('a FIFO in place of a folder neither blocks nor is used', async () => {
  execFileSync('mkfifo', [join(home, 'Maildir')]);
  await assert.rejects(to(place()), { code: 'ENOTDIR' });
});

test('a folder that belongs to someone else is not entered', async () => {
  account = { ...account, uid: uid + 1 };
  await assert.rejects(to(place()), /belongs to uid/);
});

test('a spool file that is a symlink, a FIFO, a folder, a second name or of another user is refused', async () => {
  const spool = join(spoolFolder, 'mail');
  const again = (make: () => unknown): void => {
    fs.rmSync(spool);
    make();
  };
  again(() => fs.symlinkSync('/etc/passwd', spool));
  await assert.rejects(to(place()), { code: 'ELOOP' });
  again(() => execFileSync('mkfifo', [spool]));
  await assert.rejects(to(place()), /refused/);
  again(() => fs.mkdirSync(spool));
  await assert.rejects(to(place()), /refused/);
  fs.rmdirSync(spool);
  fs.writeFileSync(spool, 'x');
  fs.linkSync(spool, join(spoolFolder, 'second'));
  await assert.rejects(to(place()), /refused/);
  const options = { spoolFolder, spoolUid: uid + 1, clock: systemClock, random: systemRandom };
  fs.unlinkSync(join(spoolFolder, 'second'));
  await assert.rejects(deposit(options, 'mail', [place()]), /refused/);
  assert.deepEqual(files(home), []);
});

test('what a crash left in tmp/ is removed after 36 hours, and nothing else, whatever its age', async () => {
  const kept = ['1.note.txt', '1.M1P1.other.host', '1.M1P1Q1R00000000.folder/x'];
  for (const name of kept) {
    fs.mkdirSync(join(home, 'Maildir/tmp', name, '..'), { recursive: true });
    fs.writeFileSync(join(home, 'Maildir/tmp', name), '');
  }
  await to(place());
  const before = descriptors();
  const leftAfter = async (hours: number): Promise<number> => {
    const clock = { now: () => Date.now() + hours * 3_600_000 };
    await (await deposit({ spoolFolder, spoolUid: uid, clock, random: systemRandom }, 'mail', [place()])).commit();
    return files(join(home, 'Maildir/tmp')).length - kept.length;
  };
  assert.equal(await leftAfter(35.9), 1);
  assert.equal(await leftAfter(36.1), 0);
  assert.deepEqual(files(join(home, 'Maildir/tmp')).toSorted(), kept.toSorted());
  assert.equal(descriptors(), before);
});
