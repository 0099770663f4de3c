// Runs as root inside a container of the image (security-image.test.ts): homes whose owners arrange things while a
// deposit is under way, and links to TLS files. What a single deposit meets is in test/unit/steward-deposit.test.ts and
// test/integration/steward.inside.ts.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { after, before, test } from 'node:test';
import { ensureAccounts } from '../../src/steward/account-files.ts';
import { findUser } from '../../src/steward/nss.ts';
import { systemClock, systemRandom } from '../../src/system/world.ts';
import { RunningSteward } from '../integration/steward.harness.ts';

const data = '/var/lib/slimsmtp';
const spoolFolder = `${data}/spool`;
const files = { folder: `${data}/accounts`, homes: '/home', clock: systemClock, random: systemRandom };
const shadow = `${files.folder}/shadow`;
let steward: RunningSteward;
let runAs = { uid: 0, gid: 0 };

before(async () => {
  runAs = (await findUser('slim')) ?? assert.fail('the image has no user slim');
  fs.mkdirSync(spoolFolder, { recursive: true, mode: 0o700 });
  fs.chownSync(spoolFolder, runAs.uid, runAs.gid);
  await ensureAccounts(files, [{ name: 'anton', password: 'secret' }, { name: 'berta' }]);
  steward = new RunningSteward({
    runAs,
    spoolFolder,
    settings: { spoolFolder },
    mailFolders: ['fifo', 'shared/hers'].map(path => `/home/anton/${path}`),
    sockets: [{ host: '127.0.0.1', port: 0 }],
  });
});
after(() => steward.stop());

const message = { kind: 'memory', base64: Buffer.from('Subject: x\n\ny\n').toString('base64') } as const;
const routes = (folder: string) => [{ kind: 'account', account: 'anton', folder }] as const;
/** A shell script as that account, in its home. */
const as = (name: 'anton' | 'berta', script: string): string => {
  const { uid, gid } = fs.statSync(`/home/${name}`);
  return execFileSync('sh', ['-ec', script], { uid, gid, cwd: `/home/${name}`, encoding: 'utf8' });
};
/** All that must stay as it is, whatever anton does. */
const treasure = (): unknown[] =>
  [shadow, `${files.folder}/passwd`, files.folder, '/home/berta', '/home/berta/private', '/etc/passwd'].map(path => {
    const { uid, gid, mode, nlink, size, mtimeMs } = fs.lstatSync(path);
    return [path, uid, gid, mode, nlink, size, mtimeMs, fs.lstatSync(path).isFile() && fs.readFileSync(path, 'utf8')];
  });

const swaps: readonly (readonly [what: string, script: string])[] = [
  ['a link to shadow', `ln -s ${shadow} it`],
  ['a link to a file of berta', 'ln -s /home/berta/private it'],
  ['another name of a file of his own', 'echo own >own; ln own it'],
  ['a FIFO', 'mkfifo it'],
  ['a folder with something in it', 'mkdir it; echo x >it/x'],
  ['a socket', 'perl -MIO::Socket::UNIX -e "IO::Socket::UNIX->new(Local => q(it), Listen => 1) or die"'],
  ['nothing', 'true'],
];

for (const [at, [what, script]] of swaps.entries())
  for (const place of ['the file in tmp/', 'what would be its name in new/', 'new/ itself'] as const)
    for (const end of ['commit', 'abort'] as const)
      test(`${what}, put in the place of ${place} before the ${end}, harms nobody`, async () => {
        if (!fs.existsSync('/home/berta/private')) as('berta', 'umask 077; echo private >private');
        const earlier = treasure();
        const folder = `Maildir/.m${at}-${place.replaceAll(/\W/g, '')}-${end}`;
        const { ticket } = await steward.ask({ ask: 'prepare', routes: routes(folder), message });
        const [name = ''] = fs.readdirSync(`/home/anton/${folder}/tmp`);
        const target = {
          'the file in tmp/': `tmp/${name}`,
          'what would be its name in new/': `new/${name}`,
          'new/ itself': 'new',
        }[place];
        as('anton', `cd ${folder}; ${script}; rm -rf ${target}; [ ! -e it -a ! -h it ] || mv -T it ${target}`);
        const began = Date.now();
        // Done or refused, but soon, and the next deposit works.
        await steward.ask({ ask: end, ticket: String(ticket) });
        assert.ok(Date.now() - began < 5000);
        assert.deepEqual(treasure(), earlier);
        assert.deepEqual(await steward.ask({ ask: 'deliver', routes: routes('Maildir/.after'), message }), []);
      });

for (const part of ['', '/new', '/cur', '/tmp'])
  test(`a FIFO as Maildir${part} neither blocks nor is used`, async () => {
    as('anton', `rm -rf fifo; mkdir -p fifo; [ -z "${part}" ] && rmdir fifo; mkfifo fifo${part}`);
    const began = Date.now();
    assert.equal((await steward.ask({ ask: 'deliver', routes: routes('fifo'), message }))['name'], 'CannotTell');
    assert.ok(Date.now() - began < 5000);
  });

test('a folder of another account in a home is not entered, nor given away, though it was put there on purpose', async () => {
  as('anton', 'mkdir -p shared; chmod 777 shared; chmod 711 .');
  as('berta', 'mkdir /home/anton/shared/hers; chmod 777 /home/anton/shared/hers');
  const { error } = await steward.ask({ ask: 'deliver', routes: routes('shared/hers'), message });
  assert.match(String(error), /belongs to uid 1001/);
  assert.equal(fs.statSync('/home/anton/shared/hers').uid, fs.statSync('/home/berta').uid);
});

test("a hard link in the spool to an account's file is refused, and so is a file that an account has put there", async () => {
  as('anton', 'umask 077; echo secret >mine');
  fs.linkSync('/home/anton/mine', `/home/anton/linked`);
  fs.writeFileSync(`${spoolFolder}/foreign`, 'x');
  fs.chownSync(`${spoolFolder}/foreign`, 1000, 1000);
  const ask = (spool: string) =>
    steward.ask({
      ask: 'raw',
      message: { id: 77, kind: 'prepare', spool, targets: [{ account: 'anton', folder: 'Maildir' }] },
    });
  assert.match(String((await ask('foreign'))['error']), /refused/);
  fs.chownSync(`${spoolFolder}/foreign`, runAs.uid, runAs.gid);
  fs.linkSync(`${spoolFolder}/foreign`, `${spoolFolder}/second`);
  assert.match(String((await ask('foreign'))['error']), /refused/);
  for (const name of ['foreign', 'second']) fs.unlinkSync(`${spoolFolder}/${name}`);
});

test("a TLS file that a link of root's leads to, in a folder of the network process or of an account, is not read as root", async t => {
  for (const [index, [owner, uid]] of [
    ['slim', runAs.uid],
    ['anton', fs.statSync('/home/anton').uid],
  ].entries()) {
    // As certbot has it: a folder of root's with a link to where the files are; and those who may write there make a
    // link of it.
    const [folder, link] = [`${data}/of-${owner}`, `${data}/live${index}`];
    fs.mkdirSync(folder);
    fs.symlinkSync(shadow, `${folder}/key.pem`);
    fs.chownSync(folder, Number(uid), Number(uid));
    fs.symlinkSync(folder, link);
    const tlsFiles = { key: `${link}/key.pem` };
    const sockets = [{ host: '127.0.0.1', port: 0 }];
    const second = new RunningSteward({ runAs, spoolFolder, settings: { spoolFolder }, sockets, tlsFiles });
    t.after(() => second.stop());
    assert.doesNotMatch(JSON.stringify(await second.ask({ ask: 'tls' })), /anton/, String(owner));
  }
});
