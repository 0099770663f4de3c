// What the shipped image gives away: to whoever runs code as its network process, to whoever reads the log, the process
// list or the disk, and to whoever guesses names of Unix accounts. With PAM, PostgreSQL and a relay; hardened as in
// compose.yaml. Homes that lie in wait for root: security-inside.ts, in a container of its own.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { text } from 'node:stream/consumers';
import { after, before, test } from 'node:test';
import type { StartedTestContainer } from 'testcontainers';
import { eventually } from '../integration/client.ts';
import { capabilities, docker, openStage, root } from '../integration/compose-lib.ts';
import { type Operator, letter, login, marker, openWorld, operate, submit } from '../integration/peer-lib.ts';
import { openDatabase } from './soak-database.ts';
import { TlsClient } from './soak-client.ts';
import { distance, middle } from './security-statistics.ts';

const stage = openStage(after);
const secrets = {
  inline: 'Inlinesecret7',
  account: 'Accountsecret7',
  relay: 'Relaysecret7',
  table: 'Tablesecret7',
  guess: 'Guessedsecret7',
};
const accounts = Array.from({ length: 12 }, (_, at) => `known${at}`);
let server: StartedTestContainer;
let operator: Operator;
let sql: (statement: string) => Promise<string>;
let database: Record<string, string>;

before(async () => {
  const world = await openWorld(stage, 'good');
  const postgres = await openDatabase(stage, world.network.getName());
  database = postgres.environment;
  sql = statement =>
    docker(
      'exec',
      postgres.id,
      'psql',
      '-U',
      database['PGUSER'] ?? '',
      '-d',
      database['PGDATABASE'] ?? '',
      '-tAc',
      statement,
    );
  server = await world.server({
    environment: {
      ...database,
      SLIM_STORAGES: '@POSTGRESQL default=/var/mail/default',
      SLIM_ACCOUNTS: ['anton', ...accounts].map(name => `${name}:${secrets.account}`).join(' '),
      SLIM_USERS: `@PAM @POSTGRESQL app:${secrets.inline} made:@GENERATE`,
      SLIM_SENDER_CHECK: 'strict',
      SLIM_RELAY_HOST: 'good.peer.example',
      SLIM_RELAY_USER: 'relay@peer.example',
      SLIM_RELAY_PASSWORD: secrets.relay,
      SLIM_LOG_LEVEL: 'debug',
    },
  });
  operator = operate(server);
  await sql(`INSERT INTO smtp (mailbox, domain, account_backend) VALUES ('box', 'example.com', 'MAILDIR')`);
});

/**
 * Runs something in the container, with that on its standard input, so that no secret stands in an argument of ours.
 */
async function slimsmtp(input: string, ...words: string[]): Promise<string> {
  const child = spawn('docker', ['exec', '-i', server.getId(), 'slimsmtp', ...words], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  child.stdin.end(input);
  return text(child.stdout);
}
/** A script of Node's, as the network process: its user, its group, nothing else. What it prints, as JSON. */
async function asSlim<T>(script: string): Promise<T> {
  // Docker gives whoever comes by exec the container's environment, which the network process has not.
  const words = ['exec', '-u', '525:525', server.getId(), 'env', '-i', '/usr/local/bin/node', '-e', script];
  return JSON.parse(await docker(...words)) as T;
}

test('everything that makes files, processes and log lines is used once', async () => {
  const port = server.getMappedPort(465);
  const mark = marker();
  const to = ['anton@example.com', 'facebook@example.com', 'box@example.com', 'nobody@example.com'];
  assert.match(
    await submit(port, [...to, 'x@peer.example'], letter(mark), { password: secrets.account }),
    /^250 2\.0\.0 Queued/,
  );
  const verifier = JSON.parse(await slimsmtp(secrets.table, 'password', '--json')).verifier;
  await sql(`INSERT INTO users VALUES ('tabled', '${verifier}')`);
  for (const [name, password] of [
    ['tabled', secrets.table],
    ['app', secrets.inline],
  ] as const)
    (await login(port, { name, password })).socket.destroy();
  const wrong = ['anton', 'tabled', 'app', 'made', 'nobody'].map(name =>
    login(port, { name, password: secrets.guess }),
  );
  for (const attempt of await Promise.allSettled(wrong))
    assert.match(String(attempt.status === 'rejected' && attempt.reason), /535 5\.7\.8/);
  // Nobody believes the relay's certificate: that is logged, and the mail waits.
  await eventually(
    'the relay was tried',
    async () => (await operator.log()).some(({ msg }) => /relay cannot be used/.test(String(msg))),
    10_000,
  );
});

test('the network process has no right of any kind, and can get none', async () => {
  const all = await operator.shell(
    'for p in /proc/[0-9]*; do tr "\\0" " " <$p/cmdline; echo; cat $p/status; echo END; done',
  );
  const [network, ...more] = all.split('END\n').filter(each => / network \n/.test(each));
  assert.deepEqual(more, []);
  const fields = new Map([...(network ?? '').matchAll(/^(\w+):[ \t]*(.*)$/gm)].map(([, name, value]) => [name, value]));
  const ids = Array(4).fill('525').join('\t');
  const wanted = { Uid: ids, Gid: ids, Groups: '', NoNewPrivs: '1', Seccomp: '2', Umask: '0077' };
  const none = Object.fromEntries(['CapInh', 'CapPrm', 'CapEff', 'CapAmb'].map(name => [name, '0'.repeat(16)]));
  for (const [name, value] of Object.entries({ ...wanted, ...none }))
    assert.equal(fields.get(name)?.trim(), value, name);
});

test('code that runs as the network process reads and changes only what is its own', async () => {
  const script = `
    const fs = require('fs'), { spawnSync } = require('child_process');
    const cmd = pid => { try { return fs.readFileSync('/proc/' + pid + '/cmdline', 'latin1') } catch { return '' } };
    const find = word => fs.readdirSync('/proc').find(pid => cmd(pid).endsWith('\\0' + word + '\\0'));
    const pam = find('pam'), own = find('network'), data = '/var/lib/slimsmtp';
    const tries = {
      'own environment': () => fs.readFileSync('/proc/' + own + '/environ'),
      'own queue': () => fs.writeFileSync(data + '/queue/probe', 'x') ?? fs.unlinkSync(data + '/queue/probe'),
      'own mail': () => fs.mkdirSync('/var/mail/probe') ?? fs.rmdirSync('/var/mail/probe'),
      shadow: () => fs.readFileSync(data + '/accounts/shadow'),
      'system shadow': () => fs.readFileSync('/etc/shadow'),
      'accounts: a new file': () => fs.writeFileSync(data + '/accounts/x', ''),
      'accounts: passwd': () => fs.appendFileSync(data + '/accounts/passwd', 'evil:x:0:0::/:/bin/sh'),
      'accounts: moved away': () => fs.renameSync(data + '/accounts', data + '/queue/accounts'),
      'accounts: by the link': () => fs.writeFileSync('/var/lib/extrausers/x', ''),
      'data: a folder moved': () => fs.renameSync(data + '/queue', data + '/other'),
      'data: a new folder': () => fs.mkdirSync(data + '/x'),
      'a home': () => fs.readdirSync('/home/anton'),
      'a Maildir': () => fs.readdirSync('/home/anton/Maildir/new'),
      'a file in a Maildir': () => fs.writeFileSync('/home/anton/Maildir/new/x', ''),
      'a new home': () => fs.mkdirSync('/home/evil'),
      "the steward's environment": () => fs.readFileSync('/proc/1/environ'),
      "the steward's memory": () => fs.openSync('/proc/1/mem'),
      "the steward's descriptors": () => fs.readdirSync('/proc/1/fd'),
      "the steward's end": () => process.kill(1, 'SIGKILL'),
      "the PAM child's environment": () => fs.readFileSync('/proc/' + pam + '/environ'),
      "the PAM child's end": () => process.kill(Number(pam), 'SIGKILL'),
      'the programs': () => fs.appendFileSync('/usr/local/lib/slimsmtp/slimsmtp.mjs', ' '),
      'the PAM service': () => fs.appendFileSync('/etc/pam.d/slimsmtp', ' '),
      'a place to put programs': () => fs.writeFileSync('/tmp/x', ''),
      'uid 0': () => process.setuid(0),
      "an account's uid": () => process.setuid(1000),
      'gid 0': () => process.setgid(0),
      'other groups': () => process.setgroups([0, 42]),
      'a folder given away': () => fs.chownSync(data + '/queue', 1000, 1000),
      ...Object.fromEntries(spawnSync('find', ['/', '-xdev', '-perm', '/6000', '-type', 'f']).stdout.toString().match(/.+/g).map(path => [path + ' as root', () => {
        const { stdout } = spawnSync(path, ['root', '-c', 'id'], { input: '', timeout: 5000 });
        if (!/uid=0/.test(stdout)) throw 0;
      }])),
    };
    const done = Object.keys(tries).filter(name => { try { tries[name](); return true } catch { return false } });
    console.log(JSON.stringify({ done, count: Object.keys(tries).length, pam, own }));`;
  const { done, count, pam, own } = await asSlim<{ done: string[]; count: number; pam?: string; own?: string }>(script);
  assert.ok(pam && own && count >= 29, JSON.stringify({ pam, own, count }));
  assert.deepEqual(done, ['own environment', 'own queue', 'own mail']);
});

test('no secret is in the log at level debug, nor anywhere in /proc that the network process may read', async () => {
  // While passwords are being handled, everything readable is read, over and over.
  const script = `
    const fs = require('fs'), seen = new Set(), read = path => { try { seen.add(fs.readFileSync(path, 'latin1')) } catch {} };
    for (const end = Date.now() + 6000; Date.now() < end;)
      for (const pid of fs.readdirSync('/proc')) if (/^\\d+$/.test(pid)) for (const name of ['cmdline', 'environ']) read('/proc/' + pid + '/' + name);
    console.log(JSON.stringify([...seen]));`;
  const watching = asSlim<string[]>(script);
  await slimsmtp(`${secrets.account}\n`, 'account', 'add', 'late', '--password');
  await slimsmtp(`${secrets.account}\n`, 'account', 'passwd', 'late');
  await slimsmtp(`${secrets.table}\n`, 'auth', 'tabled');
  (await login(server.getMappedPort(465), { name: 'late', password: secrets.account })).socket.destroy();
  const seen = (await watching).join('\n');
  // The watcher works: it has seen the hidden verbs, and one that it was to catch.
  for (const word of ['\0network\0', '\0pam\0', '\0account\0']) assert.ok(seen.includes(word), word);
  const generated = (await slimsmtp('', 'password', '--show', 'made')).trim();
  const shadow = (await operator.shell('cat /var/lib/slimsmtp/accounts/shadow')).match(/\$y\$[^:]+/g) ?? [];
  const verifiers = (await sql('SELECT password FROM users')).trim().split('\n');
  const key = (await operator.shell('grep -v -e - /var/lib/slimsmtp/tls/self-signed.pem | tail -n 1')).trim();
  const hidden = [...Object.values(secrets), database['PGPASSWORD'] ?? '', generated, ...shadow, ...verifiers, key];
  assert.ok(hidden.length > 15 && hidden.every(each => each.length >= 4), hidden.join());
  const log = await docker('logs', server.getId());
  for (const secret of [...hidden, ...hidden.map(each => Buffer.from(each).toString('base64').slice(0, -3))]) {
    assert.ok(!seen.includes(secret), `${secret} is in /proc`);
    assert.ok(!log.includes(secret), `${secret} is in the log`);
  }
});

test('every file and folder has the owner and the mode that it should have', async () => {
  const uids = Object.fromEntries(
    (await operator.shell('cat /var/lib/slimsmtp/accounts/passwd'))
      .trim()
      .split('\n')
      .map(line => [line.split(':')[0] ?? '', line.split(':')[2] ?? '']),
  );
  const listing = await operator.shell(
    String.raw`find /var/lib/slimsmtp /var/mail /home -printf '%p\t%y\t%U:%G\t%m\n'`,
  );
  /** The first that fits; `account` stands for whose home it is. */
  const rules: readonly (readonly [RegExp, string])[] = [
    [/^\/var\/lib\/slimsmtp\/accounts\/shadow$/, 'f 0:0 600'],
    [/^\/var\/lib\/slimsmtp\/accounts\/(?:passwd|group)$/, 'f 0:0 644'],
    [/^\/var\/lib\/slimsmtp(?:\/accounts)?$|^\/home$/, 'd 0:0 755'],
    [/^\/var\/lib\/slimsmtp\/run\/control$/, 's 525:525 600'],
    [/^\/var\/lib\/slimsmtp\/(?:queue|spool|journal|state|tls|dkim|run)$/, 'd 525:525 700'],
    [
      /^\/var\/lib\/slimsmtp\/(?:queue\/[a-z0-9]+(?:\.json)?|journal\/[^/]+|state\/(?:domains|passwords|shapes|in-flight)|tls\/self-signed\.pem)$/,
      'f 525:525 600',
    ],
    [/^\/var\/mail$/, 'd 525:525 755'],
    [/^\/var\/mail\/.*\/(?:new|cur|tmp)\/[^/]+$/, 'f 525:525 600'],
    [/^\/var\/mail\//, 'd 525:525 700'],
    [/^\/home\/\w+\/.*\/(?:new|cur|tmp)\/[^/]+$/, 'f account 600'],
    [/^\/home\/\w+/, 'd account 700'],
  ];
  const entries = listing
    .trim()
    .split('\n')
    .map(line => line.split('\t'));
  assert.ok(
    entries.length > 40 &&
      ['/queue/', '/state/domains', '/anton/Maildir/new/', '/box/new/'].every(part => listing.includes(part)),
    listing,
  );
  for (const [path = '', type, owner, mode] of entries) {
    const uid = uids[/^\/home\/(\w+)/.exec(path)?.[1] ?? ''];
    const [, wanted = 'nothing: no rule'] = rules.find(([pattern]) => pattern.test(path)) ?? [];
    assert.equal(`${type} ${owner} ${mode}`, wanted.replace('account', `${uid}:${uid}`), path);
  }
});

test('quotes and statements in logins, senders and recipients change no table', async () => {
  const sum = `SELECT (SELECT md5(string_agg(smtp::text, '|' ORDER BY id)) FROM smtp) || (SELECT md5(string_agg(users::text, '|' ORDER BY username)) FROM users)`;
  const earlier = await sql(sum);
  assert.match(earlier, /^[0-9a-f]{64}/);
  const port = server.getMappedPort(465);
  const evil = [
    `'; DROP TABLE users; --`,
    `' OR ''='`,
    `tabled'--`,
    `\\'; DELETE FROM smtp; --`,
    `$1`,
    `%`,
    `_`,
    `{tabled,anton}`,
    `tabled\\`,
    `ANY(ARRAY['tabled'])`,
  ];
  const attempt = async (name: string): Promise<void> => {
    await assert.rejects(login(port, { name, password: secrets.table }), /535 5\.7\.8/, name);
    const client = await login(port, { name: 'app', password: secrets.inline });
    const quoted = `"${name.replaceAll(/["\\]/g, '\\$&')}"@example.com`;
    assert.match(await client.say(`MAIL FROM:<${quoted}>`), /^553 5\.7\.1/, quoted);
    assert.match(await client.say('MAIL FROM:<app@example.com>'), /^250/);
    // To the catch-all, as any name that is in no row.
    assert.match(await client.say(`RCPT TO:<${quoted}>`), /^250/, quoted);
    client.socket.destroy();
  };
  await Promise.all(evil.map(attempt));
  assert.equal(await sql(sum), earlier);
});

type Guess = { readonly words: string; readonly ms: number };
/** A failed login by @PAM; what was said, and after how many milliseconds. */
async function guess(name: string): Promise<Guess> {
  const client = await TlsClient.open(server.getMappedPort(465), { isImplicit: true });
  const startedAt = performance.now();
  const words = await client.say(`AUTH PLAIN ${Buffer.from(`\0${name}\0${secrets.guess}`).toString('base64')}`);
  const ms = performance.now() - startedAt;
  client.close();
  return { words, ms };
}

test('a Unix account cannot be told from a name that is none, by words or by time', async t => {
  const [known, unknown]: [number[], number[]] = [[], []];
  const words = new Set<string>();
  // Two of each at a time, known and unknown next to each other.
  for (let at = 0; at < accounts.length * 2; at += 2) {
    const names = [0, 1].flatMap(step => [accounts[(at + step) % accounts.length] ?? '', `unknown${at + step}`]);
    const outcomes = await Promise.all(names.map(guess));
    for (const [index, outcome] of outcomes.entries()) {
      words.add(outcome.words);
      (index % 2 ? unknown : known).push(outcome.ms);
    }
  }
  assert.deepEqual([...words], ['535 5.7.8 Authentication failed']);
  const z = distance(known, unknown);
  t.diagnostic(
    `known ${middle(known).toFixed(1)} ms, unknown ${middle(unknown).toFixed(1)} ms, ${z.toFixed(2)} standard deviations apart`,
  );
  assert.ok(Math.abs(z) < 4, `${z} standard deviations apart: ${known.join()} and ${unknown.join()}`);
});

test('nor when forty logins come at once, half of them for an account', async t => {
  const [known, unknown]: [number[], number[]] = [[], []];
  const names = Array.from({ length: 40 }, (_, at) =>
    at % 2 ? `stranger${at}` : (accounts[at % accounts.length] ?? ''),
  );
  const outcomes = await Promise.all(names.map(guess));
  for (const [at, { words, ms }] of outcomes.entries()) {
    assert.equal(words, '535 5.7.8 Authentication failed');
    (at % 2 ? unknown : known).push(ms);
  }
  const z = distance(known, unknown);
  t.diagnostic(`known ${middle(known)} ms, unknown ${middle(unknown)} ms, ${z.toFixed(2)} standard deviations apart`);
  assert.ok(Math.abs(z) < 4, `${z} standard deviations apart: ${known.join()} and ${unknown.join()}`);
});

test('no home leads root astray, and no link to a TLS file', () => {
  const node = [
    '--disallow-code-generation-from-strings',
    '--disable-proto=delete',
    '--test',
    '--test-reporter',
    'spec',
  ];
  const limits = [
    '--init',
    '--network',
    'none',
    '--read-only',
    '--security-opt',
    'no-new-privileges',
    '--cap-drop',
    'ALL',
  ];
  const places = ['/tmp', '/home', '/var/lib/slimsmtp'].flatMap(path => ['--tmpfs', `${path}:mode=0755`]);
  const rights = capabilities.flatMap(capability => ['--cap-add', capability]);
  const what = ['-v', `${root}:/project:ro`, '--entrypoint', 'node', 'slimsmtp:test'];
  const script = '/project/test/torture/security-inside.ts';
  const words = ['run', '--rm', ...limits, ...rights, ...places, ...what, ...node, script];
  const run = spawnSync('docker', words, { encoding: 'utf8' });
  assert.equal(run.status, 0, `${run.stdout}${run.stderr}${run.error?.message ?? ''}`);
});
