// The settings as a user meets them: what a variable means, where it may stand, and what is said when it is wrong.
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, describe, it, test } from 'node:test';
import { Client } from 'pg';
import { type Settings, describeSettings, loadSettings, SettingsError } from '../../src/config/settings.ts';
import type { Environment } from '../../src/config/sources.ts';
import { extensionNames } from '../../src/smtp/extensions.ts';

const folder = mkdtempSync(join(tmpdir(), 'config-'));
after(() => rmSync(folder, { recursive: true }));

type Variables = Readonly<Record<string, string>>;
type More = Partial<Environment>;
let files = 0;

/** A file with this content, for NAME_FILE and .env. */
function file(content: string): string {
  const path = join(folder, String((files += 1)));
  writeFileSync(path, content);
  return path;
}

const environment = (variables: Variables, more: More = {}): Environment => ({
  variables: { SLIM_DOMAINS: 'example.com', ...variables },
  dotenvFile: undefined,
  isRoot: true,
  hostname: 'box',
  isTerminal: false,
  ...more,
});

const load = (variables: Variables, more?: More): Settings => loadSettings(environment(variables, more));

/** The database as pg will understand it. */
function database(variables: Variables) {
  const [connectionString = ''] = load(variables).database?.connectionStrings ?? [];
  const { host, port, user, password, database: name, ssl } = new Client({ connectionString });
  return { host, port, user, password, database: name, ssl };
}

function problems(variables: Variables, more?: More): readonly string[] {
  try {
    load(variables, more);
  } catch (error) {
    assert.ok(error instanceof SettingsError, String(error));
    return error.problems;
  }
  return [];
}

const described = (variables: Variables, name: string, more?: More) => {
  const found = describeSettings(environment(variables, more)).find(each => each.name === name);
  return found && [found.value, found.origin];
};

/** The entries of SLIM_STORAGES that name a place, each on a line. */
const placesOf = ({ places }: Settings['storages']): string[] =>
  places.map(each => {
    if ('forward' in each) return `${each.key} ${each.forward.address} ${each.forward.mailbox.domain}`;
    return `${each.key} ${'path' in each ? each.path : each.server}`;
  });

test('SLIM_DOMAINS alone is enough, and everything else has the default of the contract', () => {
  const settings = load({});
  assert.deepEqual(settings.domains, ['example.com']);
  assert.equal(settings.hostname, 'mail.example.com');
  assert.deepEqual(
    settings.listen.map(({ kind, host, port }) => [kind, host, port]),
    [
      ['smtp', undefined, 25],
      ['submission', undefined, 587],
      ['submissions', undefined, 465],
    ],
  );
  assert.deepEqual(settings.tls, { cert: undefined, key: undefined, minVersion: 'TLSv1.2', require: 'submission' });
  assert.equal(settings.maxSizeBytes, 50 * 2 ** 20);
  const places = [{ kind: 'default', key: 'default', path: '/var/mail/default' }];
  assert.deepEqual(settings.storages, { places, postgresql: false, pam: false });
  const { blockLists, rateOfClient, rateOfLogin, rspamd } = settings;
  assert.deepEqual([blockLists, rateOfClient, rateOfLogin, rspamd], [[], undefined, undefined, undefined]);
  assert.equal(settings.database, undefined);
  const { mailRoot, subaddress, dataFolder, accounts, maxSessions, maxSessionsPerClient, runAs, drainMs } = settings;
  assert.deepEqual([mailRoot, subaddress, dataFolder], ['/var/mail', '+', '/var/lib/slimsmtp']);
  assert.deepEqual([accounts, maxSessions, maxSessionsPerClient, runAs, drainMs], [[], 10_000, 50, undefined, 8_000]);
  assert.equal(settings.verify, 'on');
  assert.equal(load({ SLIM_VERIFY: 'strict' }).verify, 'strict');
  assert.equal(settings.sharesQueue, false);
  assert.deepEqual([settings.logLevel, settings.logFormat], ['info', 'json']);
  assert.equal(load({}, { isTerminal: true }).logFormat, 'pretty');
});

test('the settings are frozen through and through, and can be sent to another process', () => {
  const settings = load({ SLIM_MAX_SESSIONS: '0', SLIM_STORAGES: 'a@example.com=/a', PGHOST: 'db' });
  assert.ok(Object.isFrozen(settings.storages.places[0]) && Object.isFrozen(settings.listen[0]));
  assert.deepEqual(structuredClone(settings), settings);
  assert.equal(JSON.parse(JSON.stringify(settings)).maxSessions, 0, 'no limit stays no limit');
});

test('every mistake is reported in one go, with what is wanted', () => {
  const found = problems({
    SLIM_DOMAINS: '',
    SLIM_MAX_SIZE: '50X',
    SLIM_DRAIN: '90',
    SLIM_VERIFY: 'yes',
    SLIM_QUEUE: 'postgres',
    SLIM_TLS_MIN: 'TLSv1.1',
    SLIM_LISTEN: 'smtp://:25, http://:80, smtp://:66000, smtp://[1.2.3.4]:25, smtp://25',
    SLIM_MAX_SESSIONS: '-1',
    SLIM_SUBADDRESS: '+-',
    SLIM_RUN_AS: '1000',
    SLIM_HOSTNAME: 'my host',
    SLIM_LOG_LEVEL: 'loud',
  });
  for (const start of [
    'SLIM_DOMAINS="": a domain name is wanted',
    'SLIM_MAX_SIZE="50X": a size is wanted, such as 50M (K, M, G)',
    'SLIM_DRAIN="90": a duration',
    'SLIM_VERIFY="yes": one of on, strict, tag, off is wanted',
    'SLIM_QUEUE="postgres": one of disk, @POSTGRESQL is wanted',
    'SLIM_TLS_MIN="TLSv1.1": one of TLSv1.2, TLSv1.3 is wanted',
    'SLIM_LISTEN="http://:80": a socket is wanted',
    'SLIM_LISTEN="66000": a port',
    'SLIM_LISTEN="smtp://[1.2.3.4]:25": ',
    'SLIM_LISTEN="smtp://25": ',
    'SLIM_MAX_SESSIONS="-1": a whole number',
    'SLIM_SUBADDRESS="+-": one separator',
    'SLIM_RUN_AS="1000": a Unix account',
    'SLIM_HOSTNAME="my host": a domain name',
    'SLIM_LOG_LEVEL="loud": one of debug, info, warn, error',
  ])
    assert.equal(found.filter(line => line.startsWith(start)).length, 1, `${start}\n${found.join('\n')}`);
  assert.equal(found.length, 15, found.join('\n'));
});

test('an unknown SLIM_ name is an error that names the nearest known one, wherever it stands', () => {
  const dotenvFile = file('SLIM_TLS_KEYS=x\nOTHER=1\n');
  assert.deepEqual(
    problems({ SLIM_DOMAN: 'x', SLIM_ACCOUNT_FILE: '/x', SLIM_DATABASE_URL: 'x', PATH: '/bin' }, { dotenvFile }),
    [
      'SLIM_DOMAN is not a setting; the nearest is SLIM_DOMAINS',
      'SLIM_ACCOUNT_FILE is not a setting; the nearest is SLIM_ACCOUNTS_FILE',
      'SLIM_DATABASE_URL is not a setting; the nearest is DATABASE_URL',
      'SLIM_TLS_KEYS (.env) is not a setting; the nearest is SLIM_TLS_KEY',
    ],
  );
});

test('an empty variable counts as unset, except SLIM_SUBADDRESS', () => {
  const settings = load({
    SLIM_MAX_SIZE: '',
    SLIM_RUN_AS: '',
    SLIM_STORAGES_FILE: '',
    SLIM_UNKNOWN: '',
    SLIM_SUBADDRESS: '',
  });
  assert.equal(settings.maxSizeBytes, 50 * 2 ** 20);
  assert.equal(settings.subaddress, '');
  assert.equal(load({ SLIM_SUBADDRESS_FILE: file('\n') }).subaddress, '');
  assert.equal(load({ SLIM_SUBADDRESS_FILE: file('-\r\n') }).subaddress, '-');
});

test('NAME_FILE is the content of that file, one newline dropped; a missing file and both forms at once are errors', () => {
  assert.equal(load({ SLIM_HOSTNAME_FILE: file('mx.example.com\n') }).hostname, 'mx.example.com');
  assert.equal(database({ PGHOST: 'db', PGPASSWORD_FILE: file('a b\n\n') }).password, 'a b\n');
  assert.match(problems({ SLIM_DATA_FILE: 'gone' }).join(), /^SLIM_DATA_FILE="gone" cannot be read: ENOENT.*gone'$/);
  assert.match(problems({ SLIM_DATA_FILE: folder }).join(), /^SLIM_DATA_FILE="\/.*" cannot be read: EISDIR/);
  const both = { SLIM_DATA: '/x', SLIM_DATA_FILE: file('/y') };
  assert.deepEqual(problems(both), ['SLIM_DATA and SLIM_DATA_FILE are both set: keep one']);
});

test('a list is split on comma, space and newline, in a file on newlines only', () => {
  assert.deepEqual(load({ SLIM_DOMAINS: ' a.example,b.example  c.example\nd.example, ' }).domains.length, 4);
  const SLIM_STORAGES_FILE = file('"a, b"@example.com=/var/mail/a, b\r\n\n@PAM\n');
  const { storages } = load({ SLIM_STORAGES_FILE });
  assert.deepEqual(placesOf(storages), ['a, b@example.com /var/mail/a, b']);
  assert.equal(storages.pam, true);
  assert.deepEqual(load({ SLIM_ACCOUNTS_FILE: file('anton:a, b:c\nberta') }).accounts, [
    { name: 'anton', password: 'a, b:c' },
    { name: 'berta' },
  ]);
});

test('the environment beats .env setting by setting, either form hiding both, and the origin is told', () => {
  const dotenvFile = file(
    `SLIM_DOMAINS=dotenv.example\nSLIM_DATA=/dotenv\nSLIM_MAIL_ROOT=/dotenv # why\nSLIM_RUN_AS=nobody\nSLIM_HOSTNAME_FILE=${file('a.example')}\n`,
  );
  const name = file('/named\n');
  const variables = { SLIM_DATA_FILE: name, SLIM_HOSTNAME: 'b.example', SLIM_RUN_AS: '' };
  const settings = load(variables, { dotenvFile });
  assert.deepEqual(settings.domains, ['example.com']);
  assert.deepEqual([settings.dataFolder, settings.mailRoot, settings.hostname], ['/named', '/dotenv', 'b.example']);
  assert.equal(settings.runAs, 'nobody');
  const origin = (which: string) => described(variables, which, { dotenvFile })?.[1];
  assert.equal(origin('SLIM_DATA'), `SLIM_DATA_FILE=${name}`);
  assert.equal(origin('SLIM_MAIL_ROOT'), '.env');
  assert.equal(origin('SLIM_DOMAINS'), 'environment');
  assert.equal(origin('SLIM_DRAIN'), 'default');
  assert.match(described({}, 'SLIM_HOSTNAME', { dotenvFile })?.[1] ?? '', /^SLIM_HOSTNAME_FILE=.* \(\.env\)$/);
  assert.equal(load({}, { dotenvFile: join(folder, 'no.env') }).mailRoot, '/var/mail');
  assert.match(problems({}, { dotenvFile: folder })[0] ?? '', /cannot be read: EISDIR/);
});

test('DEFAULT_NAME counts where neither form of NAME stands anywhere else: so compose.yaml gives the demo its settings', () => {
  const demo = { DEFAULT_SLIM_DOMAINS: 'demo.example', DEFAULT_SLIM_USERS: 'anton:@GENERATE', SLIM_DOMAINS: '' };
  assert.deepEqual(load(demo).domains, ['demo.example']);
  assert.deepEqual(described(demo, 'SLIM_USERS'), ['anton:@GENERATE', 'DEFAULT_SLIM_USERS']);
  assert.equal(load({ ...demo, SLIM_USERS_FILE: file('a:x\nb:y\n') }).users.length, 2);
  assert.deepEqual(load(demo, { dotenvFile: file('SLIM_DOMAINS=dotenv.example') }).domains, ['dotenv.example']);
  assert.deepEqual(problems({ DEFAULT_SLIM_USER: 'x', DEFAULT_SLIM_DRAINS_FILE: '/x', DEFAULT_OTHER: 'x' }), [
    'DEFAULT_SLIM_USER is not a setting; the nearest is DEFAULT_SLIM_USERS',
    'DEFAULT_SLIM_DRAINS_FILE is not a setting; the nearest is DEFAULT_SLIM_DRAIN_FILE',
  ]);
});

test('a database of your own owes nothing to that of the demo; a part of it alone changes that one', () => {
  const demo = {
    DEFAULT_PGHOST: 'postgres',
    DEFAULT_PGUSER: 'slimsmtp',
    DEFAULT_PGPASSWORD: 'demo',
    DEFAULT_PGDATABASE: 'slimsmtp',
  };
  const { host, user, password, database: name } = database(demo);
  assert.deepEqual([host, user, password, name], ['postgres', 'slimsmtp', 'demo', 'slimsmtp']);
  assert.equal(database({ ...demo, PGPASSWORD_FILE: file('other\n') }).password, 'other');
  assert.equal(database({ ...demo, PGDATABASE: 'mail' }).host, 'postgres');
  for (const own of [
    { PGHOST: 'db' },
    { DATABASE_URL: 'postgres://db' },
    { DATABASE_URL_FILE: file('postgres://db\n') },
  ]) {
    const found = load({ ...demo, ...own }).database?.connectionStrings.join() ?? '';
    assert.match(found, /^postgres:\/\/db/);
    assert.doesNotMatch(found, /demo|slimsmtp/);
  }
  assert.match(
    load(demo, { dotenvFile: file('PGHOST=db') }).database?.connectionStrings.join() ?? '',
    /^postgres:\/\/db/,
  );
});

test('service links of Kubernetes are no settings, and are told in one line', () => {
  const links = {
    SLIM_SMTP_SERVICE_HOST: '10.0.0.7',
    SLIM_SMTP_SERVICE_PORT: '25',
    SLIM_SMTP_SERVICE_PORT_SUBMISSION: '587',
    SLIM_SMTP_PORT: 'tcp://10.0.0.7:25',
    SLIM_SMTP_PORT_25_TCP: 'tcp://10.0.0.7:25',
    SLIM_SMTP_PORT_25_TCP_PROTO: 'tcp',
    SLIM_SMTP_PORT_25_TCP_PORT: '25',
    SLIM_SMTP_PORT_25_TCP_ADDR: '10.0.0.7',
    SLIM_RELAY_SERVICE_HOST: 'fd00::7',
    SLIM_RELAY_PORT: 'tcp://[fd00::7]:25',
  };
  const { remarks, relay } = load({ ...links, SLIM_RELAY_HOST: 'slim-relay.example' });
  assert.equal(relay?.port, 25);
  assert.deepEqual(
    remarks.map(({ level, fields }) => [level, (fields['variables'] as string[]).toSorted()]),
    [['info', Object.keys(links).toSorted()]],
  );
  const own = { SLIM_RELAY_HOST: 'slim-relay.example', SLIM_RELAY_PORT: '2525' };
  assert.equal(load({ SLIM_RELAY_SERVICE_HOST: '10.0.0.7', ...own }).relay?.port, 2525);
  for (const wrong of [
    { SLIM_SMTP_PORT: 'tcp://10.0.0.7:25' },
    { SLIM_SMTP_SERVICE_HOST: 'a.example' },
    { SLIM_SMTP_SERVICE_HOST: '10.0.0.7', SLIM_SMTP_PORTS: '1' },
    { SLIM_SMTP_SERVICE_HOST: '10.0.0.7', SLIM_DOMAN: 'x' },
  ])
    assert.equal(problems(wrong).length, 1, JSON.stringify(wrong));
});

test('a byte order mark in a file does not count, in .env neither', () => {
  assert.equal(load({ SLIM_HOSTNAME_FILE: file('\ufeffmx.example.com\r\n') }).hostname, 'mx.example.com');
  assert.equal(load({}, { dotenvFile: file('\ufeffSLIM_HOSTNAME=mx.example.com') }).hostname, 'mx.example.com');
});

test('.env is read as Compose reads it; a $ that Compose would replace is told, and so is what cannot be read', () => {
  const dotenvFile = file('SLIM_RELAY_HOST=r.example\nSLIM_RELAY_USER="a\\"b"\nSLIM_RELAY_PASSWORD=pa#ss$word\n');
  const { relay, remarks } = load({}, { dotenvFile });
  assert.deepEqual([relay?.user, relay?.password], ['a"b', 'pa#ss$word']);
  assert.deepEqual(
    remarks.map(({ level, fields }) => [level, fields]),
    [['warn', { variables: ['SLIM_RELAY_PASSWORD'] }]],
  );
  assert.deepEqual(load({}).remarks, []);
  const broken = file('SLIM_DOMAINS=a.example\nSLIM_USERS="a:b\n');
  assert.match(
    problems({}, { dotenvFile: broken }).join(),
    /cannot be read: line 2: SLIM_USERS: the closing " is missing/,
  );
});

test('NODE_EXTRA_CA_CERTS may stand in .env, because Node itself reads the environment only', () => {
  const { extraAuthorities } = load({}, { dotenvFile: file('NODE_EXTRA_CA_CERTS=./ca.pem') });
  assert.deepEqual(extraAuthorities, { file: resolve('ca.pem'), isNodes: false });
  const given = load({ NODE_EXTRA_CA_CERTS: '/etc/ca.pem' }).extraAuthorities;
  assert.deepEqual(given, { file: '/etc/ca.pem', isNodes: true });
});

test('PEM in a variable may have its line ends written out', () => {
  const pair = { SLIM_TLS_CERT: '-----BEGIN CERTIFICATE-----\\nx\\n-----END CERTIFICATE-----\\n', SLIM_TLS_KEY: 'k' };
  assert.equal(load(pair).tls.cert?.text, '-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n');
});

test('every variable says what it is, and stands in docs/settings.md', () => {
  const all = describeSettings(environment({}));
  assert.ok(all.length > 40);
  const page = readFileSync(join(import.meta.dirname, '../../docs/settings.md'), 'utf8');
  assert.deepEqual(
    all.filter(({ name }) => !page.includes(`\`${name}\``)).map(({ name }) => name),
    [],
  );
  assert.deepEqual(
    all.filter(({ about }) => !/^[A-Z].{10,}\.$/.test(about)).map(({ name }) => name),
    [],
  );
});

test('no secret is printed, neither by description nor in an error', () => {
  const secrets = {
    SLIM_ACCOUNTS: 'anton:hush1 berta',
    DATABASE_URL: 'postgres://me:hush2@db/mail?password=hush3',
    PGPASSWORD: 'hush4',
  };
  const pair = { SLIM_TLS_CERT: '-----BEGIN CERTIFICATE-----\nx', SLIM_TLS_KEY: 'hush5' };
  const shown = JSON.stringify(describeSettings(environment({ ...secrets, ...pair })));
  assert.doesNotMatch(shown, /hush/);
  assert.deepEqual(described(secrets, 'SLIM_ACCOUNTS'), ['anton:***,berta', 'environment']);
  assert.deepEqual(described(secrets, 'DATABASE_URL'), ['postgres://me:***@db/mail?password=***', 'environment']);
  assert.deepEqual(described({}, 'PGPASSWORD'), ['', 'default'], 'what is not set shows as such');
  const wrong = problems({
    SLIM_ACCOUNTS: 'Anton:hush1 x:hu,sh!2 berta:',
    DATABASE_URL: 'postgres://me:hu/sh@db/mail',
  });
  assert.equal(wrong.length, 4, wrong.join('\n'));
  assert.doesNotMatch(wrong.join(), /hu|sh!/);
});

test('SLIM_HOSTNAME is, unless set, the name of the host when it has a dot, else mail. and the first domain', () => {
  assert.equal(load({}, { hostname: 'MX.host.example' }).hostname, 'mx.host.example');
  assert.equal(load({}, { hostname: 'bad_.-.x' }).hostname, 'mail.example.com');
  assert.deepEqual(described({}, 'SLIM_HOSTNAME'), ['mail.example.com', 'default']);
  assert.deepEqual(load({ SLIM_DOMAINS: 'Bücher.Example.' }).domains, ['xn--bcher-kva.example']);
});

test('two sockets with the same port of the same address are an error, others are not', () => {
  const hosts = (...pair: string[]) =>
    problems({ SLIM_LISTEN: pair.map(host => `smtp://${host}:25`).join(' ') }).length;
  assert.equal(hosts('0.0.0.0', '[::]') + hosts('127.0.0.1', '127.0.0.2') + hosts('[::1]', '127.0.0.1'), 0);
  assert.equal(problems({ SLIM_LISTEN: 'smtp://:25 submission://:25' }).length, 1);
  assert.equal(load({ SLIM_LISTEN: 'smtp://[::1]:2525' }).listen[0]?.host, '::1');
});

const names = (text: string) =>
  load({ SLIM_SUPPORTS: text }).supports.map(({ name, parameter }) => (parameter ? `${name} ${parameter}` : name));

test('SLIM_SUPPORTS is default, default with changes, or a whole list in its own order', () => {
  const all = names('default');
  assert.deepEqual(all, extensionNames, 'what smtp/ can announce, and nothing else');
  assert.deepEqual(
    names('default,-CHUNKING, -dsn'),
    all.filter(name => name !== 'CHUNKING' && name !== 'DSN'),
  );
  assert.deepEqual(names('DOMAIN,SIZE 10240000,STARTTLS,AUTH PLAIN,8BITMIME,DSN'), [
    'SIZE 10240000',
    'STARTTLS',
    'AUTH PLAIN',
    '8BITMIME',
    'DSN',
  ]);
  for (const [text, start] of [
    ['CHUNKIN', 'SLIM_SUPPORTS="CHUNKIN": wanted is default'],
    ['-DSN', 'SLIM_SUPPORTS="-DSN": only'],
    ['-DEFAULT', 'SLIM_SUPPORTS="-DEFAULT": only'],
    ['default,-DOMAIN', 'SLIM_SUPPORTS="-DOMAIN": '],
    ['DSN,DSN', 'SLIM_SUPPORTS="DSN": it is listed twice'],
    ['DSN 5', 'SLIM_SUPPORTS="DSN 5": '],
    ['AUTH MD5', 'SLIM_SUPPORTS="AUTH MD5": '],
    ['AUTH PLAINLOGIN', 'SLIM_SUPPORTS="AUTH PLAINLOGIN": '],
    ['SIZE many', 'SLIM_SUPPORTS="SIZE many": '],
  ] as const)
    assert.ok(problems({ SLIM_SUPPORTS: text })[0]?.startsWith(start), problems({ SLIM_SUPPORTS: text }).join());
});

test('SIZE in SLIM_SUPPORTS is the size limit, even where SLIM_MAX_SIZE is set', () => {
  assert.equal(load({ SLIM_SUPPORTS: 'default,SIZE 10240000', SLIM_MAX_SIZE: '1K' }).maxSizeBytes, 10_240_000);
  assert.equal(load({ SLIM_SUPPORTS: 'SIZE', SLIM_MAX_SIZE: '1K' }).maxSizeBytes, 1024);
  assert.equal(load({ SLIM_MAX_SIZE: '3G' }).maxSizeBytes, 3 * 2 ** 30);
  assert.equal(problems({ SLIM_MAX_SIZE: '0' }).length, 1);
});

test('durations and numbers of sessions mean what they say', () => {
  assert.deepEqual(
    ['90s', '15m', '2h', '5d', '0s'].map(text => load({ SLIM_DRAIN: text }).drainMs),
    [90e3, 900e3, 72e5, 432e6, 0],
  );
  assert.equal(problems({ SLIM_DRAIN: '25d' }).length, 1, 'longer than a timer can wait');
  assert.equal(load({ SLIM_MAX_SESSIONS_PER_CLIENT: '0' }).maxSessionsPerClient, 0);
});

test('SLIM_STORAGES: local parts and paths may hold =, quotes come off, domains are canonical, paths absolute', () => {
  const { storages } = load({
    SLIM_DOMAINS: 'example.com bücher.example',
    SLIM_STORAGES:
      'A=b@Example.COM=mail/x=y@z "q\\"x"@example.com=/q Ä@bücher.example=/a *@bücher.example=/b default=/d@x.example=y',
  });
  assert.deepEqual(placesOf(storages), [
    `a=b@example.com ${resolve('mail/x=y@z')}`,
    'q"x@example.com /q',
    'ä@xn--bcher-kva.example /a',
    '*@xn--bcher-kva.example /b',
    'default /d@x.example=y',
  ]);
  for (const item of ['a@example.com', 'a@example.com=', '@LDAP', 'postmaster=/x', 'default=~/x'])
    assert.equal(problems({ SLIM_STORAGES: item }).length, 1, item);
  assert.match(problems({ SLIM_STORAGES: 'A@example.com=/1 "a"@example.com=/1' })[0] ?? '', /listed twice/);
  assert.equal(load({ SLIM_STORAGES: 'A@example.com=/1 "a"@example.com=/2' }).storages.places.length, 2);
  assert.match(problems({ SLIM_STORAGES: 'default=/1 default=/2' })[0] ?? '', /listed twice/);
});

test('SLIM_STORAGES: lmtp:// is an LMTP server, at a host and port or at a Unix socket, and no folder', () => {
  const { storages, mailRoots } = load({
    SLIM_STORAGES:
      'a@example.com=lmtp://Dovecot:24 a@example.com=/a *@example.com=lmtp://[2001:db8::1]:2424 default=lmtp:///run/dovecot/../lmtp',
  });
  assert.deepEqual(placesOf(storages), [
    'a@example.com lmtp://dovecot:24',
    'a@example.com /a',
    '*@example.com lmtp://[2001:db8::1]:2424',
    'default lmtp:///run/lmtp',
  ]);
  assert.equal(mailRoots.length, 2);
  for (const wrong of [
    'lmtp://dovecot',
    'lmtp://:24',
    'lmtp://dovecot:70000',
    'lmtp:dovecot:24',
    'lmtp://a b:24',
    'lmtp://',
  ])
    assert.ok(problems({ SLIM_STORAGES: `a@example.com=${wrong}` }).length > 0, wrong);
  assert.match(
    problems({ SLIM_STORAGES: 'a@example.com=lmtp://x:24 a@example.com=lmtp://X:24' })[0] ?? '',
    /listed twice/,
  );
});

test('SLIM_DNSBL, SLIM_RATE_CLIENT, SLIM_RATE_LOGIN, SLIM_RSPAMD: what they may be', () => {
  const { blockLists, rateOfClient, rateOfLogin, rspamd } = load({
    SLIM_DNSBL: 'Zen.Example, bl.example',
    SLIM_RATE_CLIENT: '200/1h',
    SLIM_RATE_LOGIN: '5000/1d',
    SLIM_RSPAMD: 'http://rspamd',
  });
  assert.deepEqual(blockLists, ['zen.example', 'bl.example']);
  assert.deepEqual(rateOfClient, { count: 200, periodMs: 3_600_000 });
  assert.deepEqual(rateOfLogin, { count: 5000, periodMs: 86_400_000 });
  assert.deepEqual(rspamd, { host: 'rspamd', port: 11_333 });
  assert.deepEqual(load({ SLIM_RSPAMD: 'http://[::1]:8080/' }).rspamd, { host: '::1', port: 8080 });
  for (const [name, wrong] of Object.entries({
    SLIM_DNSBL: ['a b..c', 'http://x', '192.0.2.1'],
    SLIM_RATE_CLIENT: ['200', '0/1h', '200/0s', '200/hour', '-1/1h', '200/1h/1h', '1/30d'],
    SLIM_RATE_LOGIN: ['x/1h'],
    SLIM_RSPAMD: ['rspamd:11333', 'https://rspamd', 'http://rspamd:99999', 'http://rspamd/checkv2'],
  }))
    for (const value of wrong) assert.equal(problems({ [name]: value }).length > 0, true, `${name}=${value}`);
});

test('SLIM_STORAGES: a value with an @ and no / is a forward; an address may stand with several places; the catch-all is none', () => {
  const { storages, mailRoots } = load({
    SLIM_STORAGES:
      'a@example.com=/a a@example.com=Someone@Elsewhere.example a@example.com=b=c@bücher.example *@example.com=x@example.com p@example.com=x@y/z',
  });
  assert.deepEqual(placesOf(storages), [
    'a@example.com /a',
    'a@example.com Someone@Elsewhere.example elsewhere.example',
    'a@example.com b=c@bücher.example xn--bcher-kva.example',
    '*@example.com x@example.com example.com',
    `p@example.com ${resolve('x@y/z')}`,
  ]);
  assert.equal(mailRoots.length, 3, 'a forward is no folder');
  for (const wrong of ['a@example.com=b@', 'a@example.com=@b', 'a@example.com=b@[192.0.2.1]', 'a@example.com=b c@'])
    assert.ok(problems({ SLIM_STORAGES: wrong }).length > 0, wrong);
  assert.match(problems({ SLIM_STORAGES: 'default=x@example.net' })[0] ?? '', /a path is wanted/);
  assert.match(
    problems({ SLIM_STORAGES: 'a@example.com=b@x.example a@example.com=B@X.example' })[0] ?? '',
    /listed twice/,
  );
  assert.match(problems({ SLIM_STORAGES: 'a@other.example=b@x.example' })[0] ?? '', /not in any of SLIM_DOMAINS/);
});

test('SLIM_SRS_SECRET is not shown, and is not short', () => {
  assert.equal(load({}).srsSecret, undefined);
  assert.equal(load({ SLIM_SRS_SECRET: 'eight or more' }).srsSecret, 'eight or more');
  assert.deepEqual(described({ SLIM_SRS_SECRET: 'eight or more' }, 'SLIM_SRS_SECRET'), ['***', 'environment']);
  assert.doesNotMatch(problems({ SLIM_SRS_SECRET: 'seven77' }).join(), /seven77/);
  assert.equal(problems({ SLIM_SRS_SECRET: 'seven77' }).length, 1);
});

test('settings that contradict each other are errors', () => {
  const unprivileged = { isRoot: false };
  for (const [variables, start, more] of [
    [{ SLIM_STORAGES: 'a@other.example=/x' }, 'SLIM_STORAGES: not in any of SLIM_DOMAINS: a@other.example'],
    [{ SLIM_STORAGES: '@POSTGRESQL' }, 'SLIM_STORAGES="@POSTGRESQL": DATABASE_URL or'],
    [{ SLIM_STORAGES: '@PAM' }, 'SLIM_STORAGES="@PAM": only a server started as root', unprivileged],
    [{ SLIM_ACCOUNTS: 'anton' }, 'SLIM_ACCOUNTS: only a server started as root', unprivileged],
    [{ SLIM_ACCOUNTS: 'anton anton:x' }, 'SLIM_ACCOUNTS="anton": it is listed twice'],
    [{ SLIM_RUN_AS: 'root' }, 'SLIM_RUN_AS="root": '],
    [{ SLIM_TLS_CERT: 'pem' }, 'SLIM_TLS_CERT, SLIM_TLS_KEY: only one'],
    [{ SLIM_ACME: 'a@b.example', SLIM_TLS_CERT: 'pem', SLIM_TLS_KEY: 'key' }, 'SLIM_ACME, SLIM_TLS_CERT: '],
    [{ SLIM_ACME_NAMES: 'www.example.com' }, 'SLIM_ACME_NAMES: SLIM_ACME is not set'],
    [{ SLIM_TLS_KEY_FILE: '/key.pem' }, 'SLIM_TLS_CERT, SLIM_TLS_KEY: only one'],
    [{ SLIM_TLS_REQUIRE: 'all', SLIM_SUPPORTS: 'default,-STARTTLS' }, 'SLIM_TLS_REQUIRE="all": '],
  ] as const satisfies readonly (readonly [Variables, string, More?])[]) {
    const found = problems(variables, more);
    assert.equal(found.length, 1, `${start}\n${found.join('\n')}`);
    assert.ok(found[0]?.startsWith(start), found[0]);
  }
  assert.equal(
    problems({ SLIM_TLS_REQUIRE: 'all', SLIM_SUPPORTS: 'DSN', SLIM_LISTEN: 'submissions://:465' }).length,
    0,
  );
});

test('certificate and key are kept as files to look at again, or as text; a missing file is no error', () => {
  const { tls } = load({ SLIM_TLS_CERT_FILE: 'gone/cert.pem', SLIM_TLS_KEY: 'KEY' });
  assert.deepEqual([tls.cert, tls.key], [{ file: resolve('gone/cert.pem') }, { text: 'KEY' }]);
});

test('a database is taken from DATABASE_URL, and what it leaves out from PG names', () => {
  const { PGHOST, PGUSER, PGPASSWORD, PGDATABASE } = {
    PGHOST: 'db',
    PGUSER: 'me',
    PGPASSWORD: 'p%@:/',
    PGDATABASE: 'mail',
  };
  const plain = { host: 'db', port: 5432, user: 'me', password: 'p%@:/', database: 'mail', ssl: false };
  assert.deepEqual(database({ DATABASE_URL: 'postgresql://me:p%25%40%3A%2F@db/mail' }), plain);
  assert.deepEqual(database({ PGHOST, PGUSER, PGPASSWORD, PGDATABASE }), plain);
  assert.deepEqual(database({ DATABASE_URL: 'postgres://db/', PGHOST: 'x', PGUSER, PGPASSWORD, PGDATABASE }), plain);
  assert.deepEqual(database({ DATABASE_URL: 'postgres:///mail', PGHOST, PGUSER, PGPASSWORD, PGDATABASE: 'x' }), plain);
  assert.equal(database({ DATABASE_URL: 'postgres://m@db/x', PGUSER }).user, 'm', 'one letter is not nothing');
  assert.equal(database({ PGUSER, PGPORT: '5433' }).port, 5433);
  assert.equal(database({ PGUSER }).host, 'localhost');
  assert.equal(database({ PGHOST: '/run/postgresql' }).host, '/run/postgresql');
  assert.equal(database({ PGHOST: '::1' }).host, '::1');
  assert.equal(database({ DATABASE_URL: 'postgres://me@[::1]/x' }).host, '::1');
  assert.equal(load({ PGPORT: '1', PGSSLMODE: 'require' }).database, undefined, 'these alone name no database');
  for (const [variables, words] of [
    [{ DATABASE_URL: 'mysql://x/y' }, /^DATABASE_URL="\*\*\*": postgres:\/\/user/],
    [{ DATABASE_URL: 'postgres://me:p/w@h/d' }, /^DATABASE_URL="\*\*\*": postgres/],
    [{ PGHOST: 'db', PGPORT: 'x' }, /^PGPORT="x"/],
    [{ PGHOST: 'db', PGSSLMODE: 'some' }, /^PGSSLMODE="some": one of/],
  ] as const) {
    assert.equal(problems(variables).length, 1, String(words));
    assert.match(problems(variables)[0] ?? '', words);
  }
});

test('several hosts become a URL each, with one port for all or one for each', () => {
  const me = { PGUSER: 'me', PGPASSWORD: 'p', PGDATABASE: 'mail' };
  const hosts = (variables: Variables) =>
    load(variables).database?.connectionStrings.map(connectionString => {
      const { host, port, user, password, database: name } = new Client({ connectionString });
      return `${user}:${password}@${host}:${port}/${name}`;
    });
  for (const [variables, ...urls] of [
    [{ ...me, PGHOST: 'one,two' }, 'one:5432', 'two:5432'],
    [{ ...me, PGHOST: 'one, two', PGPORT: '6432' }, 'one:6432', 'two:6432'],
    [{ ...me, PGHOST: 'one,::1,/run/pg', PGPORT: '1,2 3' }, 'one:1', '::1:2', '/run/pg:3'],
    [{ ...me, PGHOST_FILE: file('one\ntwo\n') }, 'one:5432', 'two:5432'],
    [{ DATABASE_URL: 'postgres://me:p@one:1,two/mail', PGPORT: '7' }, 'one:1', 'two:7'],
    [{ DATABASE_URL: 'postgres://me:p@[::1]:1,two:2/mail', PGHOST: 'x,y,z' }, '::1:1', 'two:2'],
    [{ DATABASE_URL: 'postgres://me:p@/mail', PGHOST: 'one,two', PGPORT: '1,2' }, 'one:1', 'two:2'],
    [{ DATABASE_URL: 'postgres://me:p@one/mail', PGHOST: 'x,y' }, 'one:5432'],
  ] as const)
    assert.deepEqual(
      hosts(variables),
      urls.map(url => `me:p@${url}/mail`),
    );
  assert.match(
    problems({ ...me, PGHOST: 'one,two', PGPORT: '1,2,3' }).join(),
    /^PGPORT: one port is wanted, or one for/,
  );
  assert.match(problems({ DATABASE_URL: 'postgres://one:x,two/mail' }).join(), /^DATABASE_URL="\*\*\*"/);
  const secret = file('postgres://me:from-file@one:1,two:2/mail');
  const { urlFile, connectionStrings = [] } = load({ DATABASE_URL_FILE: secret }).database ?? {};
  assert.equal(urlFile, secret);
  assert.ok(connectionStrings.every(url => url.includes('from-file')));
  const several = { DATABASE_URL: 'postgres://me:secret@one:1,two:2/mail' };
  assert.equal(described(several, 'DATABASE_URL')?.[0], 'postgres://me:***@one:1,two:2/mail');
});

test('replicas cannot have what each would make, keep or know by itself, and are told why', () => {
  const replica = { SLIM_QUEUE: '@POSTGRESQL', PGHOST: 'db', SLIM_DKIM: 'off' };
  assert.equal(load(replica).sharesQueue, true);
  assert.equal(load({}).sharesQueue, false);
  const forward = { SLIM_STORAGES: 'anton@example.com=anton@example.org' };
  for (const [variables, start] of [
    [{ PGHOST: '' }, 'SLIM_QUEUE="@POSTGRESQL": DATABASE_URL or PGHOST is not set'],
    [
      { SLIM_USERS: 'a:@GENERATE,b:secret' },
      'SLIM_USERS: with SLIM_QUEUE="@POSTGRESQL" each replica would make its own password for a:',
    ],
    [{ SLIM_USERS: '@PAM' }, 'SLIM_USERS="@PAM": with SLIM_QUEUE="@POSTGRESQL" there are no Unix accounts'],
    [{ SLIM_STORAGES: '@PAM' }, 'SLIM_STORAGES="@PAM": with SLIM_QUEUE="@POSTGRESQL" there are no Unix accounts'],
    [{ SLIM_ACCOUNTS: 'anton' }, 'SLIM_ACCOUNTS: with SLIM_QUEUE="@POSTGRESQL" there are no Unix accounts'],
    [
      { SLIM_DKIM: '' },
      'SLIM_DKIM_KEYS is not set: with SLIM_QUEUE="@POSTGRESQL" each replica would sign with keys of its own',
    ],
    [forward, 'SLIM_SRS_SECRET is not set: with SLIM_QUEUE="@POSTGRESQL" a bounce to mail that SLIM_STORAGES forwards'],
  ] as const) {
    const given = { ...replica, ...variables };
    const found = problems(given);
    assert.ok(found.length === 1 && found[0]?.startsWith(start), found.join('\n'));
    // A server by itself has no trouble with it.
    assert.deepEqual(problems({ ...given, SLIM_QUEUE: 'disk', PGHOST: 'db' }), []);
  }
  assert.deepEqual(problems({ ...replica, SLIM_DKIM: 'on', SLIM_DKIM_KEYS: '/keys' }), []);
  assert.deepEqual(problems({ ...replica, SLIM_DKIM: '', SLIM_RELAY_HOST: 'relay.example' }), [], 'a relay signs');
  assert.deepEqual(problems({ ...replica, ...forward, SLIM_SRS_SECRET: 'a common secret' }), []);
  assert.match(problems({ SLIM_QUEUE: 'POSTGRESQL' })[0] ?? '', /^SLIM_QUEUE="POSTGRESQL": one of disk, @POSTGRESQL/);
});

test('PGSSLMODE and sslmode mean what they mean to libpq: require encrypts, and verifies where there is a root', () => {
  const PGHOST = 'db';
  const root = file('CA');
  assert.equal(database({ PGHOST, PGSSLMODE: 'disable' }).ssl, false);
  assert.deepEqual(database({ PGHOST, PGSSLMODE: 'require' }).ssl, { rejectUnauthorized: false });
  assert.deepEqual(database({ DATABASE_URL: 'postgres://db?sslmode=require', PGSSLMODE: 'disable' }).ssl, {
    rejectUnauthorized: false,
  });
  assert.deepEqual(database({ PGHOST, PGSSLMODE: 'verify-full', PGSSLROOTCERT: root }).ssl, { ca: 'CA' });
  const { ca, rejectUnauthorized } = Object(database({ PGHOST, PGSSLMODE: 'require', PGSSLROOTCERT: root }).ssl);
  assert.deepEqual([ca, rejectUnauthorized], ['CA', undefined]);
});

test('prefer and allow try TLS, and a Unix socket never has any', () => {
  for (const mode of ['prefer', 'allow']) {
    const { connectionStrings = [] } = load({ PGHOST: 'db', PGSSLMODE: mode }).database ?? {};
    assert.match(connectionStrings.join(), /sslmode=prefer/);
    assert.deepEqual(database({ DATABASE_URL: `postgres://db?sslmode=${mode}` }).ssl, { rejectUnauthorized: false });
  }
  assert.equal(database({ PGHOST: '/run/postgresql', PGSSLMODE: 'require' }).ssl, false);
});

test('a Unix socket may be named in the URL as libpq has it, with and without a user', () => {
  for (const DATABASE_URL of [
    'postgresql://me@/mail?host=/run/postgresql',
    'postgresql://me:p@/mail?host=/run/postgresql',
  ]) {
    const { host, user, database: name } = database({ DATABASE_URL });
    assert.deepEqual([host, user, name], ['/run/postgresql', 'me', 'mail']);
  }
  assert.equal(database({ DATABASE_URL: 'postgresql:///mail?host=/folder' }).host, '/folder');
  assert.equal(database({ DATABASE_URL: 'postgres://me@/mail', PGHOST: 'db' }).host, 'db');
});

test('the file of the database password is known, so that it can be read again', () => {
  const PGPASSWORD_FILE = file('secret\n');
  assert.equal(load({ PGHOST: 'db', PGPASSWORD_FILE }).database?.passwordFile, PGPASSWORD_FILE);
  const DATABASE_URL_FILE = file('postgres://me:secret@db/mail\n');
  assert.equal(load({ DATABASE_URL_FILE }).database?.urlFile, DATABASE_URL_FILE);
  const both = load({ DATABASE_URL: 'postgres://me:secret@db/mail', PGPASSWORD_FILE }).database;
  assert.equal(both?.passwordFile, undefined, 'the password of the URL wins');
});

test('with a database, storages default to it before the catch-all, and may be in domains that only it knows', () => {
  const { storages } = load({ PGHOST: 'db' });
  assert.deepEqual([storages.postgresql, placesOf(storages)], [true, ['default /var/mail/default']]);
  assert.deepEqual(placesOf(load({ SLIM_MAIL_ROOT: '/srv/mail' }).storages), ['default /srv/mail/default']);
  assert.equal(load({ PGHOST: 'db', SLIM_STORAGES: 'a@other.example=/x' }).storages.postgresql, false);
});

const verifier = `SCRAM-SHA-256$4096:${'a'.repeat(22)}==$${'b'.repeat(43)}=:${'c'.repeat(43)}=`;

test('SLIM_USERS: inline, generated, PAM and PostgreSQL, in their order; names are folded, secrets kept as they are', () => {
  const text = `Anton:@GENERATE Ärztin@Bücher.Example:sEcret:1 app:${verifier} @PAM @POSTGRESQL`;
  assert.deepEqual(load({ SLIM_USERS: text, PGHOST: 'db' }).users, [
    { kind: 'generate', name: 'anton' },
    { kind: 'inline', name: 'ärztin@xn--bcher-kva.example', secret: 'sEcret:1' },
    { kind: 'inline', name: 'app', secret: verifier },
    { kind: 'pam', name: '@PAM' },
    { kind: 'postgresql', name: '@POSTGRESQL' },
  ]);
  const shown = described({ SLIM_USERS: text, PGHOST: 'db' }, 'SLIM_USERS');
  assert.equal(shown?.[0], 'Anton:@GENERATE,Ärztin@Bücher.Example:***,app:***,@PAM,@POSTGRESQL');
});

test('no name has a control character in it', () => {
  const wrong = {
    SLIM_DOMAINS: 'exam\x01ple.com',
    SLIM_HOSTNAME: 'mx.example.com\x7f',
    SLIM_USERS: 'an\x01ton:secret',
    SLIM_ACCOUNTS: 'an\x01ton',
    SLIM_STORAGES: '"an\x01ton"@example.com=/mail',
    SLIM_RELAY_HOST: 'relay.example\n',
    SLIM_RELAY_USER: 'relay\nuser',
    SLIM_RUN_AS: 'slim\n',
  };
  for (const [name, text] of Object.entries(wrong))
    assert.match(problems({ [name]: text }).join('\n'), new RegExp(`^${name}=`, 'm'), name);
});

test('SLIM_USERS: mistakes are named, and no secret with them', () => {
  for (const [users, more] of [
    ['anton', {}],
    ['anton:', {}],
    ['anton:geheim,zwei', {}],
    [':geheim', {}],
    ['anton:SCRAM-SHA-256$4096:geheim', {}],
    ['anton@-x:geheim', {}],
    ['anton:geheim ANTON:geheim2', {}],
    ['@PAM', { isRoot: false }],
    ['@POSTGRESQL', {}],
  ] as const) {
    const found = problems({ SLIM_USERS: users }, more);
    assert.equal(found.length, 1, `${users}: ${found.join('\n')}`);
    assert.match(found[0] ?? '', /^SLIM_USERS/);
    assert.doesNotMatch(found.join(), /geheim/);
  }
  const scram = { SLIM_USERS: '@PAM', SLIM_SUPPORTS: 'AUTH SCRAM-SHA-256' };
  assert.match(problems(scram).join(), /^SLIM_SUPPORTS: @PAM in SLIM_USERS cannot verify SCRAM/);
});

test('SLIM_TRUSTED_NETWORKS, SLIM_PROXY_NETWORKS: never one so wide that it is an open relay', () => {
  const good = '10.0.0.0/8 192.0.2.7, 2001:DB8::/32 ::1 fd00::1/64';
  const networks = ['10.0.0.0/8', '192.0.2.7/32', '2001:db8::/32', '::1/128', 'fd00::1/64'];
  assert.deepEqual(load({ SLIM_TRUSTED_NETWORKS: good }).trustedNetworks, networks);
  assert.deepEqual(load({ SLIM_PROXY_NETWORKS: good }).proxyNetworks, networks);
  assert.deepEqual(load({}).proxyNetworks, []);
  for (const bad of [
    '0.0.0.0/0',
    '10.0.0.0/7',
    '::/0',
    '2000::/31',
    '::/32',
    '::ffff:10.0.0.0/104',
    '::ffff:0:0/96',
    '10.0.0',
    'x/8',
    '10.0.0.0/33',
    '0:0::/96',
    '::2/128',
  ])
    for (const name of ['SLIM_TRUSTED_NETWORKS', 'SLIM_PROXY_NETWORKS'])
      assert.match(problems({ [name]: bad }).join('\n'), new RegExp(`^${name}=".*": a network`), bad);
});

test('SLIM_RELAY_*: the port follows what it is for, and contradictions are named', () => {
  const relay = (more: Variables) => load({ SLIM_RELAY_HOST: 'relay.example.net', ...more }).relay;
  assert.equal(load({}).relay, undefined);
  assert.deepEqual(relay({}), { host: 'relay.example.net', port: 25, tls: 'starttls' });
  const login = { SLIM_RELAY_USER: 'u', SLIM_RELAY_PASSWORD: 'p,q' };
  assert.deepEqual(relay(login), { host: 'relay.example.net', port: 587, tls: 'starttls', user: 'u', password: 'p,q' });
  assert.equal(relay({ ...login, SLIM_RELAY_TLS: 'implicit' })?.port, 465);
  assert.equal(relay({ ...login, SLIM_RELAY_PORT: '2525' })?.port, 2525);
  assert.equal(relay({ SLIM_RELAY_TLS: 'none' })?.tls, 'none');
  assert.equal(relay({ SLIM_RELAY_PORT: '465' })?.tls, 'implicit');
  assert.equal(relay({ SLIM_RELAY_PORT: '465', SLIM_RELAY_TLS: 'starttls' })?.tls, 'starttls');
  const SLIM_RELAY_PASSWORD_FILE = file('rotated\n');
  const rotated = relay({ SLIM_RELAY_USER: 'u', SLIM_RELAY_PASSWORD_FILE });
  assert.deepEqual([rotated?.password, rotated?.passwordFile], ['rotated', SLIM_RELAY_PASSWORD_FILE]);
  assert.equal(load({ SLIM_RELAY_HOST: '[2001:db8::1]' }).relay?.host, '2001:db8::1');
  const complaints = (more: Variables): string =>
    problems({ SLIM_RELAY_HOST: 'relay.example.net', ...more }).join('\n');
  assert.match(complaints({ SLIM_RELAY_USER: 'u' }), /^SLIM_RELAY_USER, SLIM_RELAY_PASSWORD: only one is set$/);
  assert.match(complaints({ ...login, SLIM_RELAY_TLS: 'none' }), /^SLIM_RELAY_TLS="none": SLIM_RELAY_USER/);
  const both = { SLIM_RELAY_TLS: 'none', SLIM_EXTERNAL_TLS: 'required' };
  assert.match(complaints(both), /^SLIM_RELAY_TLS="none", SLIM_EXTERNAL_TLS="required": they contradict/);
  assert.equal(complaints({ ...both, SLIM_EXTERNAL_TLS: 'opportunistic' }), '');
  assert.match(problems({ SLIM_RELAY_PORT: '26' }).join(), /^SLIM_RELAY_PORT: SLIM_RELAY_HOST is not set$/);
  assert.deepEqual(described({ SLIM_RELAY_HOST: 'r.example', ...login }, 'SLIM_RELAY_PASSWORD'), [
    '***',
    'environment',
  ]);
});

test('the queue has the times of the contract, and takes others', () => {
  const [minute, hour] = [60_000, 3_600_000];
  const usual = {
    lifetimeMs: 120 * hour,
    retryMs: [minute, 5 * minute, 15 * minute, hour, 3 * hour],
    delayNoticeMs: 4 * hour,
  };
  assert.deepEqual(load({}).queue, usual);
  const own = load({ SLIM_QUEUE_LIFETIME: '6s', SLIM_RETRY: '1s,1s 2s', SLIM_DELAY_NOTICE: '20d' });
  assert.deepEqual(own.queue, { lifetimeMs: 6000, retryMs: [1000, 1000, 2000], delayNoticeMs: 20 * 24 * hour });
  assert.match(problems({ SLIM_RETRY: '1m,soon' }).join(), /^SLIM_RETRY="soon": a duration/);
  assert.deepEqual([load({}).maxSessionsOut, load({}).maxRecipientsOut], [20, 100]);
  const slow = load({ SLIM_MAX_SESSIONS_OUT: '2', SLIM_MAX_RECIPIENTS_OUT: '10' });
  assert.deepEqual([slow.maxSessionsOut, slow.maxRecipientsOut], [2, 10]);
  assert.match(problems({ SLIM_MAX_SESSIONS_OUT: '0' }).join(), /^SLIM_MAX_SESSIONS_OUT="0": a whole number from 1/);
  assert.match(problems({ SLIM_MAX_RECIPIENTS_OUT: 'many' }).join(), /^SLIM_MAX_RECIPIENTS_OUT="many": a whole number/);
  assert.deepEqual([load({}).externalTls.policy, load({}).senderCheck], ['required', 'strict']);
});

test('SMTPUTF8 is not announced without 8BITMIME', () => {
  assert.match(problems({ SLIM_SUPPORTS: 'default,-8BITMIME' }).join(), /^SLIM_SUPPORTS: SMTPUTF8 needs 8BITMIME/);
  assert.deepEqual(problems({ SLIM_SUPPORTS: 'default,-8BITMIME,-SMTPUTF8' }), []);
});

test('SLIM_DKIM is on by MX and off through a relay, unless it is said', () => {
  const relay = { SLIM_RELAY_HOST: 'relay.example.net' };
  assert.deepEqual([load({}).dkim, load(relay).dkim], [true, false]);
  assert.deepEqual([load({ SLIM_DKIM: 'off' }).dkim, load({ ...relay, SLIM_DKIM: 'on' }).dkim], [false, true]);
  assert.deepEqual(described({}, 'SLIM_DKIM'), ['on', 'default']);
  assert.deepEqual(described(relay, 'SLIM_DKIM'), ['off', 'default']);
  assert.match(problems({ SLIM_DKIM: 'yes' }).join(), /^SLIM_DKIM="yes": one of on, off/);
});

test('SLIM_RESOLVER lists DNS servers by address or name, each with a port or the usual one', () => {
  assert.equal(load({}).resolver, undefined);
  assert.deepEqual(
    load({ SLIM_RESOLVER: '192.0.2.53 192.0.2.53:5353,2001:db8::53 [2001:db8::53]:5300 Unbound' }).resolver,
    [
      { host: '192.0.2.53', port: 53 },
      { host: '192.0.2.53', port: 5353 },
      { host: '2001:db8::53', port: 53 },
      { host: '2001:db8::53', port: 5300 },
      { host: 'unbound', port: 53 },
    ],
  );
  for (const wrong of ['[unbound]:53', '192.0.2.53:70000', '2001:db8::x', 'a b:53:53', 'https://dns.example', '[::1'])
    assert.match(problems({ SLIM_RESOLVER: wrong }).join(), /SLIM_RESOLVER=/, wrong);
});

test('SLIM_ACME asks for a certificate for the host and further names', () => {
  assert.equal(load({}).acme, undefined);
  const variables = {
    SLIM_ACME: 'a@example.com',
    SLIM_HOSTNAME: 'mx.example.com',
    SLIM_ACME_NAMES: 'WWW.example.com mx.example.com',
  };
  assert.deepEqual(load(variables).acme, {
    email: 'a@example.com',
    directoryUrl: 'https://acme-v02.api.letsencrypt.org/directory',
    names: ['mx.example.com', 'www.example.com'],
    http: { host: undefined, port: 80 },
  });
  const other = load({
    SLIM_ACME: 'a@b.example',
    SLIM_ACME_HTTP: '[::1]:8080',
    SLIM_ACME_URL: 'https://ca.example/x',
  }).acme;
  assert.deepEqual([other?.http, other?.directoryUrl], [{ host: '::1', port: 8080 }, 'https://ca.example/x']);
  for (const [name, wrong] of [
    ['SLIM_ACME', 'hostmaster'],
    ['SLIM_ACME_URL', 'http://ca.example'],
    ['SLIM_ACME_HTTP', '80'],
    ['SLIM_ACME_HTTP', ':70000'],
    ['SLIM_ACME_NAMES', 'a b@c'],
  ] as const)
    assert.match(problems({ SLIM_ACME: 'a@b.example', [name]: wrong }).join(), new RegExp(`^${name}=`), wrong);
});

test('SLIM_EXTERNAL_TLS is a policy, then the domains that have another one', () => {
  const tls = (text: string) => load({ SLIM_EXTERNAL_TLS: text }).externalTls;
  assert.deepEqual(tls('opportunistic'), { policy: 'opportunistic', exceptions: {} });
  assert.deepEqual(tls('required Example.NET=opportunistic,b.example=required'), {
    policy: 'required',
    exceptions: { 'example.net': 'opportunistic', 'b.example': 'required' },
  });
  for (const wrong of [
    'example.net=opportunistic',
    'required opportunistic',
    'required a=b',
    'required a=required a=required',
  ])
    assert.match(problems({ SLIM_EXTERNAL_TLS: wrong }).join(), /^SLIM_EXTERNAL_TLS=/, wrong);
});

test('SLIM_HTTP is an address with a port', () => {
  assert.equal(load({}).http, undefined);
  assert.deepEqual(load({ SLIM_HTTP: ':8025' }).http, { host: undefined, port: 8025 });
  assert.deepEqual(load({ SLIM_HTTP: '127.0.0.1:80' }).http, { host: '127.0.0.1', port: 80 });
  assert.deepEqual(load({ SLIM_HTTP: '[::1]:8025' }).http, { host: '::1', port: 8025 });
  for (const wrong of ['8025', 'http://x:1', 'x', ':70000', '::1:8025', '[x]:1', 'a b:1'])
    assert.match(problems({ SLIM_HTTP: wrong }).join(), /^SLIM_HTTP=/, wrong);
});

describe('SLIM_CAPTURE', () => {
  const capture = (variables: Variables = {}, more?: More): Settings =>
    loadSettings({ ...environment({}, more), variables: { SLIM_CAPTURE: 'on', ...variables } });
  const at = (settings: Settings): readonly string[] =>
    settings.listen.map(({ kind, host = '', port }) => `${kind}://${host}:${port}`);

  it('needs no domain, and brings an HTTP server and the port of catchers', () => {
    const settings = capture();
    assert.deepEqual(settings.capture, { users: 'all', keep: 1000, folder: '/var/mail/captured' });
    assert.deepEqual(settings.domains, ['capture.test']);
    assert.deepEqual(settings.http, { host: undefined, port: 8025 });
    assert.deepEqual(at(settings), ['smtp://:25', 'submission://:587', 'submissions://:465', 'smtp://:1025']);
    assert.deepEqual([settings.verify, settings.dkim, settings.senderCheck], ['off', false, 'off']);
    assert.equal(load({}).capture, undefined);
  });

  it('is for this machine alone outside the image', () => {
    const dotenvFile = file('SLIM_LISTEN=smtp://127.0.0.1:2525');
    const settings = capture({}, { dotenvFile });
    assert.deepEqual(settings.http, { host: '127.0.0.1', port: 8025 });
    assert.deepEqual(at(settings), ['smtp://127.0.0.1:2525', 'smtp://127.0.0.1:1025']);
  });

  it('leaves sockets alone that the environment names, and the port of catchers where it is named', () => {
    assert.deepEqual(at(capture({ SLIM_LISTEN: 'smtp://:26' })), ['smtp://:26']);
    const dotenvFile = file('SLIM_LISTEN=smtp://[::1]:1025');
    assert.deepEqual(at(capture({}, { dotenvFile })), ['smtp://::1:1025']);
    assert.deepEqual(capture({ SLIM_HTTP: '127.0.0.1:1' }).http, { host: '127.0.0.1', port: 1 });
  });

  it('takes settings that do not count as unset, and names them in one line', () => {
    const settings = capture({
      SLIM_USERS: 'anton:secret',
      SLIM_STORAGES: 'anton@example.com=/x',
      SLIM_RELAY_HOST: 'relay.example',
      SLIM_RETRY: '1m',
      SLIM_VERIFY: 'strict',
      DATABASE_URL: 'postgres://db/x',
      SLIM_MAX_SIZE: '1M',
    });
    const variables = ['SLIM_USERS', 'SLIM_VERIFY', 'SLIM_RELAY_HOST', 'SLIM_RETRY', 'SLIM_STORAGES', 'DATABASE_URL'];
    assert.deepEqual(settings.remarks, [
      { level: 'warn', fields: { variables }, text: 'SLIM_CAPTURE: these settings do not count' },
    ]);
    assert.deepEqual([settings.users, settings.relay, settings.database], [[], undefined, undefined]);
    assert.deepEqual([settings.verify, settings.maxSizeBytes], ['off', 1024 * 1024]);
    assert.deepEqual(capture().remarks, []);
  });

  it('users: the logins of SLIM_USERS count, which must be there', () => {
    const settings = capture({ SLIM_CAPTURE: 'users', SLIM_USERS: '@POSTGRESQL', PGHOST: 'db' });
    assert.deepEqual([settings.capture?.users, settings.users.length], ['listed', 1]);
    assert.ok(settings.database);
    assert.match(problems({ SLIM_CAPTURE: 'users' }).join(), /^SLIM_CAPTURE="users": SLIM_USERS names no login/);
  });

  it('says what is wrong', () => {
    assert.match(problems({ SLIM_CAPTURE: 'yes' }).join(), /^SLIM_CAPTURE="yes": one of off, on, users is wanted/);
    for (const wrong of ['0', '100001', 'many'])
      assert.match(
        problems({ SLIM_CAPTURE_KEEP: wrong }).join(),
        /^SLIM_CAPTURE_KEEP=".*": a whole number from 1 to 100000/,
      );
    assert.match(
      problems({ SLIM_CAPTURE: 'on', SLIM_RETRY: 'soon' }).join(),
      /^$/,
      'what does not count is not looked at',
    );
  });
});
