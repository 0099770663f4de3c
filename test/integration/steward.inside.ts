// Runs in a container of the image, as root with only the capabilities of compose.yaml (steward.test.ts starts it):
// real accounts in libnss-extrausers, a network process of another uid, and an account that attacks its own home.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { after, before, test } from 'node:test';
import { CannotTell, type Prepared, type Storage } from '../../src/mail/ports.ts';
import { type Route, readMessage } from '../../src/mail/message.ts';
import {
  addAccount,
  decoy,
  ensureAccounts,
  ensureDecoy,
  listAccounts,
  removeAccount,
  setPassword,
} from '../../src/steward/account-files.ts';
import { createAccounts, findUser } from '../../src/steward/nss.ts';
import { systemClock, systemRandom } from '../../src/system/world.ts';
import { storageContract } from '../contract/storage.ts';
import { RunningSteward } from './steward.harness.ts';

const data = '/var/lib/slimsmtp';
const spoolFolder = `${data}/spool`;
const files = { folder: `${data}/accounts`, homes: '/home', clock: systemClock, random: systemRandom };
const key = `${data}/key.pem`;
let steward: RunningSteward;
let runAs = { uid: 0, gid: 0 };

before(async () => {
  runAs = (await findUser('slim')) ?? assert.fail('the image has no user slim');
  fs.mkdirSync(spoolFolder, { recursive: true, mode: 0o700 });
  fs.chownSync(spoolFolder, runAs.uid, runAs.gid);
  fs.writeFileSync(key, '-----BEGIN KEY----- for root only', { mode: 0o600 });
  await ensureAccounts(files, [{ name: 'anton', password: 'sésame' }, { name: 'berta' }]);
  steward = new RunningSteward({
    runAs,
    spoolFolder,
    settings: { spoolFolder },
    mailFolders: ['anton/swapped', 'anton/deep/mail', 'berta/full'].map(path => `/home/${path}`),
    sockets: [{ port: 25 }],
    tlsFiles: { key },
  });
});
after(() => steward.stop());

const account = (name: string, folder = 'Maildir'): Route => ({ kind: 'account', account: name, folder });
const text = 'Subject: x\n\ny\n';
const message = { kind: 'memory', base64: Buffer.from(text).toString('base64') } as const;
const deliver = (...routes: Route[]) => steward.ask({ ask: 'deliver', routes, message });
const mails = (home: string): string[] =>
  fs.readdirSync(`${home}/Maildir/new`).map(name => `${home}/Maildir/new/${name}`);
/** Past the five seconds that an answer of the name service is remembered. */
const later = () => new Promise(resolve => setTimeout(resolve, 5_100));
const uidOf = (name: string): number =>
  listAccounts(files).find(found => found.name === name)?.uid ?? assert.fail(name);

test('accounts are kept in the format of passwd(5), the hashes for root alone', () => {
  assert.match(
    fs.readFileSync(`${files.folder}/passwd`, 'utf8'),
    /^anton:x:1000:1000::\/home\/anton:\/usr\/sbin\/nologin\n/,
  );
  assert.match(fs.readFileSync(`${files.folder}/group`, 'utf8'), /^anton:x:1000:\nberta:x:1001:\n$/);
  const day = Math.floor(Date.now() / 86_400_000);
  const shadow = new RegExp(`^anton:\\$y\\$[^:]+:${day}:0:99999:7:::\nberta:!:${day}:`);
  assert.match(fs.readFileSync(`${files.folder}/shadow`, 'utf8'), shadow);
  const modes = ['passwd', 'group', 'shadow'].map(name => fs.statSync(`${files.folder}/${name}`).mode & 0o777);
  assert.deepEqual(modes, [0o644, 0o644, 0o600]);
  const { mode, uid, gid } = fs.statSync('/home/anton');
  assert.deepEqual([mode & 0o777, uid, gid], [0o700, 1000, 1000]);
});

test('the network process has the uid and gid of slim, no other group and no capability', async () => {
  const { status } = await steward.ask({ ask: 'self' });
  assert.match(String(status), new RegExp(`^Uid:(\t${runAs.uid}){4}$`, 'm'));
  assert.match(String(status), new RegExp(`^Gid:(\t${runAs.gid}){4}$`, 'm'));
  assert.match(String(status), /^Groups:\s*$/m);
  assert.match(String(status), /^CapEff:\t0+$/m);
  assert.match(String(status), /^CapPrm:\t0+$/m);
});

test('port 25 is served on IPv4, by a process that could not open it', async () => {
  assert.equal((await steward.line('port'))['port'], 25);
});

test('the decoy has a password like an account, and is none: made once, not listed, never found', async () => {
  await ensureDecoy(files);
  const line = fs
    .readFileSync(`${files.folder}/shadow`, 'utf8')
    .split('\n')
    .find(each => each.startsWith(decoy));
  assert.match(String(line), /:\$y\$|:\$6\$/);
  await ensureDecoy(files);
  assert.ok(fs.readFileSync(`${files.folder}/shadow`, 'utf8').includes(`${line}\n`), 'made once');
  assert.ok(!listAccounts(files).some(({ name }) => name === decoy));
  assert.equal(await steward.ask({ ask: 'find', of: decoy }), null);
});

test('a deposit belongs to the account, file 0600 and folders 0700, and nothing stays in the spool', async () => {
  assert.deepEqual(await deliver(account('anton'), account('berta')), []);
  for (const name of ['anton', 'berta']) {
    const [path = '', ...more] = mails(`/home/${name}`);
    assert.deepEqual(more, []);
    assert.equal(fs.readFileSync(path, 'utf8'), text);
    for (const [what, wanted] of [
      [path, 0o600],
      [`/home/${name}/Maildir/tmp`, 0o700],
      [`/home/${name}/Maildir`, 0o700],
    ] as const) {
      const { uid, gid, mode, nlink } = fs.statSync(what);
      assert.deepEqual([uid, gid, mode & 0o777], [uidOf(name), uidOf(name), wanted]);
      if (what === path) assert.equal(nlink, 1);
    }
  }
});

test('a large message comes from its file', async () => {
  const path = `${spoolFolder}/large`;
  fs.writeFileSync(path, Buffer.alloc(20_000_000, 'large\n'));
  fs.chownSync(path, runAs.uid, runAs.gid);
  const rest = await steward.ask({
    ask: 'deliver',
    routes: [account('berta', 'Maildir/.big')],
    message: { kind: 'file', path, sizeBytes: 20_000_000 },
  });
  assert.deepEqual(rest, ['large']);
  const [name = ''] = fs.readdirSync('/home/berta/Maildir/.big/new');
  assert.ok(fs.readFileSync(`/home/berta/Maildir/.big/new/${name}`).equals(fs.readFileSync(path)));
  fs.unlinkSync(path);
});

test('an account that the network process runs as gets no mail', async () => {
  const uid = uidOf('anton');
  assert.equal((await createAccounts(525).find('anton'))?.uid, uid);
  assert.equal(await createAccounts(uid).find('anton'), undefined);
});

test('a network process that hangs, and that root may not signal, does not keep the steward from ending', async () => {
  const sockets = [{ host: '127.0.0.1', port: 0 }];
  const second = new RunningSteward({ runAs, spoolFolder, settings: { spoolFolder }, sockets, stopWithinMs: 300 });
  await second.line('port');
  void second.ask({ ask: 'block' });
  await new Promise(resolve => setTimeout(resolve, 300));
  const asked = Date.now();
  assert.equal(await second.stop(), 1);
  assert.ok(Date.now() - asked < 2000);
});

test('root, slim, numbers and paths are no accounts, and get no mail', async () => {
  for (const who of ['root', 'slim', '1000', '0']) {
    assert.equal(await steward.ask({ ask: 'find', of: who }), null, who);
    const { error, name } = await deliver(account(who));
    assert.match(String(error), /there is no account/);
    assert.equal(name, 'CannotTell');
  }
  assert.ok(!fs.existsSync('/root/Maildir'));
});

test('an account that cannot get its copy keeps the others from theirs', async () => {
  const count = mails('/home/anton').length;
  const { name } = await deliver(account('anton'), account('nosuch'));
  assert.equal(name, 'CannotTell');
  assert.equal(mails('/home/anton').length, count);
  assert.deepEqual(fs.readdirSync('/home/anton/Maildir/tmp'), []);
});

test('a path in a home belongs to that account, any other to none', async () => {
  const owner = async (of: string) => (await steward.ask({ ask: 'owner', of }))?.['name'];
  assert.equal(await owner('/home/anton/Maildir/not/there'), 'anton');
  assert.equal(await owner('/home/anton'), 'anton');
  assert.equal(await owner('/home/antonia'), undefined);
  assert.equal(await owner('/home/anton/../x'), undefined);
  assert.equal(await owner('/var/mail/default'), undefined);
});

test('a key that only root can read is handed over, and no other file is within reach', async () => {
  assert.deepEqual(await steward.ask({ ask: 'tls' }), { key: '-----BEGIN KEY----- for root only' });
  const path = `${files.folder}/shadow`;
  const { cause, name } = await steward.ask({
    ask: 'deliver',
    routes: [account('anton')],
    message: { kind: 'file', path, sizeBytes: 1 },
  });
  assert.equal(name, 'CannotTell', String(cause));
});

test('a TLS file in a folder of the network process, where it could be a link to anything, is not read as root', async t => {
  const folder = `${data}/own`;
  fs.mkdirSync(`${folder}/deeper`, { recursive: true });
  fs.chownSync(folder, runAs.uid, runAs.gid);
  fs.symlinkSync(`${files.folder}/shadow`, `${folder}/deeper/key.pem`);
  const tlsFiles = { cert: key, key: `${folder}/deeper/key.pem` };
  const sockets = [{ host: '127.0.0.1', port: 0 }];
  const second = new RunningSteward({ runAs, spoolFolder, settings: { spoolFolder }, sockets, tlsFiles });
  t.after(() => second.stop());
  assert.deepEqual(await second.ask({ ask: 'tls' }), { cert: '-----BEGIN KEY----- for root only' });
});

test('mail is put into a Maildir, its subfolders and folders that the settings name, and nowhere else in a home', async () => {
  for (const folder of ['Maildir', 'Maildir/.Junk', 'deep/mail', 'deep/mail/.Junk'])
    assert.deepEqual(await deliver(account('anton', folder)), [], folder);
  const wrong = [
    '',
    '.ssh',
    '.config/autostart',
    'Mail',
    'Maildir/new',
    'Maildir/.Junk/x',
    'Maildir/x',
    'deep',
    'maildir',
  ];
  for (const folder of [...wrong, 'Maildir.old', 'deep/mail/x', 'deep/.Junk', 'Maildir/..x']) {
    const earlier = fs.readdirSync('/home/anton', { recursive: true }).length;
    const { error, name } = await deliver(account('anton', folder));
    assert.match(String(error), /is no folder for the mail of anton/, folder);
    assert.equal(name, 'CannotTell');
    assert.equal(fs.readdirSync('/home/anton', { recursive: true }).length, earlier);
  }
});

test("a folder of root's in a home is not touched, unless it is empty and so a crash's", async () => {
  fs.mkdirSync('/home/berta/full/secret', { recursive: true });
  assert.match(String((await deliver(account('berta', 'full')))['error']), /belongs to uid 0/);
  assert.equal(fs.statSync('/home/berta/full').uid, 0);
  fs.mkdirSync('/home/berta/Maildir/.crashed', { mode: 0o700 });
  assert.deepEqual(await deliver(account('berta', 'Maildir/.crashed')), []);
  assert.equal(fs.statSync('/home/berta/Maildir/.crashed').uid, uidOf('berta'));
});

test("an account that swaps its folders all the time never leads root into another's home", async () => {
  const script = `
    const fs = require('fs'), act = (what, ...args) => { try { fs[what](...args) } catch {} }, end = Date.now() + 4000;
    process.chdir('/home/anton');
    process.stdout.write('ready');
    for (let n = 0; Date.now() < end; n++) {
      act('mkdirSync', 'swapped'); act('renameSync', 'swapped', 'old' + n); act('rmdirSync', 'old' + n);
      act('symlinkSync', '/home/berta/Maildir', 'swapped'); act('unlinkSync', 'swapped');
    }`;
  const earlier = mails('/home/berta').length;
  const [uid, gid] = [uidOf('anton'), uidOf('anton')];
  const attacker = spawn(process.execPath, ['-e', script], { uid, gid, stdio: ['ignore', 'pipe', 'inherit'] });
  await once(attacker.stdout, 'data');
  const outcomes = { delivered: 0, refused: 0 };
  while (attacker.exitCode === null)
    outcomes[Array.isArray(await deliver(account('anton', 'swapped'))) ? 'delivered' : 'refused'] += 1;
  assert.equal(mails('/home/berta').length, earlier);
  const own = fs.readdirSync('/home/berta/Maildir').filter(name => !name.startsWith('.'));
  assert.deepEqual(own.toSorted(), ['cur', 'new', 'tmp']);
  assert.deepEqual(fs.readdirSync('/home/berta/Maildir/tmp'), []);
  assert.ok(
    outcomes.delivered > 0 && outcomes.refused > 0,
    `an attack that decides nothing: ${JSON.stringify(outcomes)}`,
  );
});

test('an account added, removed or locked is seen as such within five seconds', async () => {
  const carla = await addAccount(files, 'carla', 'secret');
  assert.equal((await steward.ask({ ask: 'find', of: 'carla' }))['uid'], carla.uid);
  assert.deepEqual(
    listAccounts(files).map(({ name, locked }) => [name, locked]),
    [
      ['anton', false],
      ['berta', true],
      ['carla', false],
    ],
  );
  await setPassword(files, 'carla', undefined);
  await setPassword(files, 'berta', 'new');
  assert.deepEqual(
    listAccounts(files).map(({ locked }) => locked),
    [false, false, true],
  );
  await removeAccount(files, 'carla');
  await later();
  assert.equal(await steward.ask({ ask: 'find', of: 'carla' }), null);
  assert.ok(fs.existsSync('/home/carla'));
});

test("a home that was left keeps its uid: a stranger never gets it, its name's next account does", async () => {
  const left = fs.statSync('/home/carla').uid;
  assert.notEqual((await addAccount(files, 'dora')).uid, left);
  assert.equal((await addAccount(files, 'carla')).uid, left);
  await removeAccount(files, 'carla', true);
  assert.ok(!fs.existsSync('/home/carla'));
  await removeAccount(files, 'dora', true);
});

test('names that are taken, unfit or unknown are refused, and SLIM_ACCOUNTS leaves what is there alone', async () => {
  const kept = fs.readFileSync(`${files.folder}/shadow`, 'utf8');
  for (const name of ['root', 'slim', 'anton']) await assert.rejects(addAccount(files, name), /already/);
  for (const name of ['', '1000', '-x', 'a:b', 'a/b', '..', 'Anton', 'a\nb'])
    await assert.rejects(addAccount(files, name), /cannot name/);
  for (const name of ['root', 'nosuch']) {
    await assert.rejects(removeAccount(files, name, true), /no account/);
    await assert.rejects(setPassword(files, name, 'x'), /no account/);
  }
  assert.deepEqual(await ensureAccounts(files, [{ name: 'anton', password: 'other' }, { name: 'root' }]), []);
  assert.equal(fs.readFileSync(`${files.folder}/shadow`, 'utf8'), kept);
});

test('several changes at once, and a lock left by a crash, lose nothing', async () => {
  const old = new Date(Date.now() - 11_000);
  fs.writeFileSync(`${files.folder}/.lock`, '');
  fs.utimesSync(`${files.folder}/.lock`, old, old);
  const names = ['n1', 'n2', 'n3', 'n4', 'n5'];
  const made = await Promise.all(names.map(name => addAccount(files, name)));
  assert.equal(new Set(made.map(({ uid }) => uid)).size, 5);
  await Promise.all(names.map(name => removeAccount(files, name, true)));
  assert.deepEqual(
    listAccounts(files).map(({ name }) => name),
    ['anton', 'berta'],
  );
  assert.deepEqual(fs.readdirSync(files.folder).toSorted(), ['group', 'passwd', 'shadow']);
});

test("a folder of accounts that is not root's alone, or lies in one that is not, is refused", async () => {
  for (const folder of [files.folder, data]) {
    fs.chownSync(folder, runAs.uid, runAs.gid);
    await assert.rejects(setPassword(files, 'anton', 'x'), /must be root's alone/);
    fs.chownSync(folder, 0, 0);
  }
});

test('a deposit that is taken back before it is prepared leaves nothing', async () => {
  fs.writeFileSync(`${spoolFolder}/early`, Buffer.alloc(5_000_000));
  fs.chownSync(`${spoolFolder}/early`, runAs.uid, runAs.gid);
  const targets = [{ account: 'anton', folder: 'Maildir/.early' }];
  const prepare = { id: 1_000_900, kind: 'prepare', spool: 'early', targets };
  await steward.ask({ ask: 'raws', messages: [prepare, { id: 1_000_901, kind: 'abort', token: 1_000_900 }] });
  const { error } = await steward.ask({ ask: 'raw', message: { id: 1_000_902, kind: 'commit', token: 1_000_900 } });
  assert.match(String(error), /no such deposit/);
  for (const folder of ['tmp', 'new']) assert.deepEqual(fs.readdirSync(`/home/anton/Maildir/.early/${folder}`), []);
  fs.unlinkSync(`${spoolFolder}/early`);
});

test('what a dead network process had prepared is removed', async () => {
  await steward.ask({ ask: 'prepare', routes: [account('anton', 'Maildir/.dead')], message });
  assert.equal(fs.readdirSync('/home/anton/Maildir/.dead/tmp').length, 1);
  const seen = steward.lines.length;
  await steward.ask({ ask: 'exit', status: 1 });
  await steward.line('port', seen);
  for (const folder of ['tmp', 'new']) assert.deepEqual(fs.readdirSync(`/home/anton/Maildir/.dead/${folder}`), []);
});

/** The storage of the network process, which is another one than this. */
const remote: Storage = {
  async prepare(routes, given) {
    if (given.kind === 'file') fs.chownSync(given.path, runAs.uid, runAs.gid);
    const written =
      given.kind === 'file'
        ? given
        : ({ kind: 'memory', base64: readMessage(given, 0, given.sizeBytes).toString('base64') } as const);
    const { error, name, ticket } = await steward.ask({ ask: 'prepare', routes, message: written });
    if (error !== undefined) throw name === 'CannotTell' ? new CannotTell(String(error)) : new Error(String(error));
    const end = (ask: 'commit' | 'abort') => async () => void (await steward.ask({ ask, ticket: String(ticket) }));
    return { commit: end('commit'), abort: end('abort') } satisfies Prepared;
  },
};

let places = 0;
storageContract('mail for accounts', async () => {
  const folder = `Maildir/.place${(places += 1)}-`;
  return {
    storage: remote,
    route: name => account('anton', `${folder}${name}`),
    maildir: name => `/home/anton/${folder}${name}`,
    spool: spoolFolder,
    dispose: async () => {
      for (const name of fs.readdirSync(spoolFolder)) fs.unlinkSync(`${spoolFolder}/${name}`);
    },
  };
});
