// A new image on old volumes: an old version leaves mail in its queue, in its journal and in Maildirs, accounts, a
// generated password and a certificate, and is killed; today's image starts on its volumes. Everything that waited is
// delivered, once; all else is as it was.
// Promise: the old ones are built from this repository's own history; without that history the test fails.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { after, before, test } from 'node:test';
import { connect as connectTls } from 'node:tls';
import { promisify } from 'node:util';
import { deliver, dial, eventually } from '../integration/client.ts';
import { capabilities, docker, image, openStage, root } from '../integration/compose-lib.ts';
import { letter, login, marker, operate, transact } from '../integration/peer-lib.ts';
import { type Neighbours, openNeighbours } from './neighbour-lib.ts';

/** The first version that could send, and the last one before the rooms were rebuilt, which had a journal. */
const versions = ['a3324c9', '7dd8d67'];
const lateMails = 5;
const stage = openStage(after);
let neighbours: Neighbours;

before(
  async () => {
    for (const version of versions) {
      const build = `git archive ${version} | docker build -q -t slimsmtp:${version} -`;
      await promisify(execFile)('sh', ['-c', `set -e; git cat-file -e ${version}; ${build}`], { cwd: root });
    }
    neighbours = await openNeighbours(stage, ['one', 'two']);
  },
  { timeout: 1_200_000 },
);

async function newVolumes(): Promise<string[]> {
  return Promise.all(
    ['/var/lib/slimsmtp', '/var/mail', '/home'].map(async target => {
      const name = (await docker('volume', 'create')).trim();
      stage.own(() => docker('volume', 'rm', '--force', name));
      return `${name}:${target}`;
    }),
  );
}

const environment = {
  SLIM_DOMAINS: 'example.com',
  SLIM_HOSTNAME: 'mail.example.com',
  SLIM_ACCOUNTS: 'anton:secret berta',
  SLIM_STORAGES: '@PAM default=/var/mail/default',
  SLIM_USERS: 'carla:@GENERATE @PAM',
  SLIM_RETRY: '1s',
};

/** As hardened as in compose.yaml. */
async function start(name: string, volumes: readonly string[]) {
  const options = ['--detach', '--read-only', '--cap-drop', 'ALL', '--security-opt', 'no-new-privileges'];
  options.push('--network', neighbours.network, '-v', `${neighbours.resolvConf}:/etc/resolv.conf:ro`);
  options.push(...capabilities.flatMap(each => ['--cap-add', each]), ...volumes.flatMap(each => ['-v', each]));
  options.push(...Object.entries(environment).flatMap(([key, value]) => ['-e', `${key}=${value}`]));
  options.push(...['25', '465'].flatMap(port => ['-p', `127.0.0.1::${port}`]));
  const id = (await docker('run', ...options, name)).trim();
  stage.own(() => docker('rm', '--force', id));
  const log = () => docker('logs', id);
  await eventually('it is ready', async () => (await log()).includes('"msg":"ready"'), 60_000).catch(async error =>
    assert.fail(`${error}\n${await log()}`),
  );
  return { id, ...operate({ getId: () => id }) };
}

type Running = Awaited<ReturnType<typeof start>>;

/**
 * What an operator or a user would miss: accounts with their numbers, logins, the certificate, each mail in each
 * Maildir.
 */
async function possessions(server: Running): Promise<Record<string, string>> {
  const port = await server.port(465);
  const password = (await server.slimsmtp('password', '--show', 'carla')).trim();
  for (const [name, secret] of [
    ['carla', password],
    ['anton', 'secret'],
  ] as const)
    (await login(port, { name, password: secret })).socket.destroy();
  const certificate = await new Promise<string>((resolve, reject) => {
    const socket = connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false }, () => {
      resolve(socket.getPeerCertificate().fingerprint256);
      socket.destroy();
    }).on('error', reject);
  });
  return {
    accounts: (await server.slimsmtp('account', 'list')) + (await server.shell('ls -ln /home')),
    password,
    certificate,
    mail: await server.shell(
      'cd /; find home/*/Maildir var/mail -type f -exec sha256sum {} + -exec stat -c "%n %u %g %a" {} + | sort',
    ),
  };
}

for (const version of versions)
  test(`the newest image delivers what ${version} left, and keeps accounts, passwords, certificate and mail`, t =>
    upgrade(version, t));

async function upgrade(version: string, t: { diagnostic(text: string): void }): Promise<void> {
  const volumes = await newVolumes();
  const old = await start(`slimsmtp:${version}`, volumes);
  for (const hop of ['one', 'two']) neighbours.tell(hop, 'drop MAIL');
  const text = marker();
  const bodies: Record<string, string> = {};
  let session = await login(await old.port(465), { name: 'anton' });
  const send = async (
    name: string,
    to: readonly string[],
    body = 'x\r\n',
    how: { mail?: string; rcpt?: string } = {},
  ) => {
    bodies[name] = letter(`${text}${name}`, body);
    assert.match(await transact(session, to, bodies[name], how), /^250/);
  };
  for (let at = 0; at < 20; at += 1) await send(`plain${at}-`, ['x@one.example']);
  await send('large', ['x@one.example'], `${'y'.repeat(98)}\r\n`.repeat(30_000));
  await send('dots-and-8-bit', ['x@one.example'], '.\r\n..\r\n\xe4\x80\r\n');
  await send('many', ['x@one.example', 'y@one.example', 'x@sub.two.example']);
  await send('noticed', ['x@two.example'], 'x\r\n', {
    mail: ` RET=HDRS ENVID=${text}`,
    rcpt: ' NOTIFY=SUCCESS,FAILURE',
  });
  await send('held', ['x@held.one.example']);
  session.socket.destroy();
  // The first version ends when a control client leaves early; its steward starts it again.
  const command = (...words: string[]): Promise<void> =>
    eventually(
      `queue ${words.join(' ')}`,
      () =>
        old.slimsmtp('queue', ...words).then(
          () => true,
          () => false,
        ),
      60_000,
    );
  await command('hold', '--domain', 'held.one.example');
  // One of its recipients has got it when the old one ends.
  neighbours.tell('two', '');
  await eventually('one of two hops took it', async () => neighbours.took('two').includes(`${text}many`), 60_000);
  const port = await old.port(25);
  for (const to of ['anton', 'berta', 'nobody', 'anton'])
    assert.match(await deliver(port, [`${to}@example.com`], `Subject: here ${to}\r\n\r\nx\r\n`), /^250/);
  neighbours.tell('two', 'drop MAIL');
  const wait = (server: Running) => async (): Promise<string> =>
    (await server.queue())
      .flatMap(({ id, isHeld, recipients }) => recipients.map(({ address }) => `${id} ${isHeld} ${address}`))
      .toSorted()
      .join('\n');
  const unknown = (): string => 'sub.two';
  await eventually(
    'only what the hops refuse waits',
    async () => !(await wait(old)().catch(unknown)).includes('sub.two'),
    20_000,
  );
  const [waited, had] = [await wait(old)(), await possessions(old)];
  // What has its 250 in the last moment is in the journal alone, where there is one.
  session = await login(await old.port(465), { name: 'anton' });
  for (let at = 0; at < lateMails; at += 1) {
    await send(`late${at}-`, ['x@one.example']);
    assert.match(await deliver(port, ['nobody@example.com'], `Subject: late ${at}\r\n\r\nx\r\n`), /^250/);
  }
  await docker('kill', '--signal', 'KILL', old.id);
  await docker('rm', old.id);
  session.socket.destroy();

  const now = await start(image, volumes);
  const waits = (await wait(now)()).split('\n');
  assert.deepEqual(
    waited.split('\n').filter(line => !waits.includes(line)),
    [],
    'something that waited is gone',
  );
  assert.equal(waits.length, waited.split('\n').length + lateMails);
  const { mail: mailBefore = '', ...rest } = had;
  const { mail: mailNow = '', ...restNow } = await possessions(now);
  assert.deepEqual(restNow, rest);
  const files = mailNow.split('\n');
  assert.deepEqual(
    mailBefore.split('\n').filter(line => !files.includes(line)),
    [],
    'a mail is gone, or not as it was',
  );
  const late = await now.shell('grep -rlE "^Subject: late [0-9]" /var/mail | wc -l');
  assert.equal(late.trim(), String(lateMails));
  for (const hop of ['one', 'two']) neighbours.tell(hop, '');
  const left = async (): Promise<number> => (await now.queue()).length;
  await eventually('only what is held waits', async () => (await left()) === 1, 60_000);
  await now.slimsmtp('queue', 'release', '--all');
  await eventually('nothing waits', async () => (await left()) === 0, 30_000);
  const took = ['one', 'two'].flatMap(hop => neighbours.took(hop)).filter(subject => subject.startsWith(text));
  const expected = Object.keys(bodies).flatMap(name =>
    name === 'many' ? [`${text}${name}`, `${text}${name}`] : [`${text}${name}`],
  );
  assert.deepEqual(took.toSorted(), expected.toSorted());
  for (const [name, body] of Object.entries(bodies)) {
    const whole = createHash('sha256').update(body.replaceAll(/^\./gm, '..'), 'latin1').digest('hex');
    const found = neighbours.digests().filter(({ subject }) => subject === `${text}${name}`);
    for (const { digest } of found) assert.equal(digest, whole, name);
  }
  const notices = await now.shell(`grep -rlF '${text}' /home/anton/Maildir/new | wc -l`);
  assert.equal(notices.trim(), '1', 'the one notice that was asked for');
  assert.match(await deliver(await now.port(25), ['anton@example.com'], 'Subject: new\r\n\r\n'), /^250 /);
  const { say, socket } = await dial(await now.port(25));
  assert.match(await say('RCPT TO:<x>'), /^503/);
  socket.destroy();
  t.diagnostic(`${version}: ${Object.keys(bodies).length} messages waited, ${took.length} copies came, none twice`);
}
