// @POSTGRESQL with a real PostgreSQL: every sentence of DESIGN §3 about the table `smtp`, outages included. Between us
// and the database stands a small proxy of our own, since a network that swallows packets cannot be had otherwise.
// The Unix accounts are made up, and so is the clock of the log; nothing else is.
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import { PostgreSqlContainer } from '@testcontainers/postgresql';
import type { StartedPostgreSqlContainer } from '@testcontainers/postgresql';
import { Client } from 'pg';
import { GenericContainer } from 'testcontainers';
import { CannotTell } from '../../src/mail/ports.ts';
import type { Accounts } from '../../src/mail/ports.ts';
import type { Log } from '../../src/system/log.ts';
import type { Route } from '../../src/mail/message.ts';
import { TableDomains } from '../../src/postgres/domains.ts';
import { openDatabase } from '../../src/postgres/pool.ts';
import { indexMaker } from '../../src/postgres/schema.ts';
import type { Database } from '../../src/postgres/pool.ts';
import { TableDirectory } from '../../src/postgres/routes.ts';
import { directoryContract, mailbox } from '../contract/directory.ts';
import { formatMailbox } from '../../src/mail/address.ts';

const people: Record<string, number> = { anton: 1000, berta: 1001 };
const accounts: Accounts = {
  find: async name => {
    if (name === 'ghost') throw new CannotTell('the steward does not answer');
    const uid = people[name];
    return uid === undefined ? undefined : { name, uid, gid: uid, home: `/home/${name}` };
  },
  owner: async () => undefined,
};

let container: StartedPostgreSqlContainer;
let admin: Client;
let proxy: Awaited<ReturnType<typeof startProxy>>;
let database: Database;
let now = 0;
const logged: { level: string; fields: Record<string, unknown>; message: string }[] = [];
const keep = (level: string) => (fields: Record<string, unknown>, message: string) => {
  logged.push({ level, fields, message });
};
const log: Log = { debug: keep('debug'), info: keep('info'), warn: keep('warn'), error: keep('error') };

before(async () => {
  container = await new PostgreSqlContainer('postgres:17-trixie').start();
  admin = new Client({ connectionString: container.getConnectionUri() });
  await admin.connect();
  await admin.query(await readFile('docker/smtp.sql', 'utf8'));
  proxy = await startProxy(container.getPort(), container.getHost());
  database = await connectTo(settings(), log);
});

after(async () => {
  await admin?.end();
  await proxy?.close();
  await container?.stop();
});

beforeEach(async () => {
  proxy.mode = 'pass';
  logged.length = 0;
});

/** The database through the proxy, as the user that owns it or as another. */
function settings(user = container.getUsername(), password = container.getPassword()) {
  return { host: '127.0.0.1', port: proxy.port, user, password, database: container.getDatabase(), query: '' };
}

/** Opens a database as the server does, and has its index made. */
function connectTo({ host, port, user, password, database: name, query }: ReturnType<typeof settings>, to: Log) {
  const connectionString = `postgres://${user}:${password}@${host}:${port}/${name}?uselibpqcompat=true${query}`;
  return openDatabase({ settings: { connectionStrings: [connectionString] }, onUp: indexMaker(to), log: to });
}

/** Replaces the rows; each is 'mailbox domain backend'. */
async function rows(...lines: string[]): Promise<void> {
  await admin.query('DELETE FROM smtp');
  for (const line of lines) {
    const [name, domain, ...backend] = line.split(' ');
    await admin.query('INSERT INTO smtp (mailbox, domain, account_backend) VALUES ($1, $2, $3)', [
      name,
      domain,
      backend.join(' ') || null,
    ]);
  }
}

function directory(options: { accounts?: Accounts | undefined; hasDefault?: boolean; from?: Database } = {}) {
  return new TableDirectory({
    query: (options.from ?? database).query,
    accounts: 'accounts' in options ? options.accounts : accounts,
    mailRoot: '/var/mail',
    hasDefault: options.hasDefault ?? false,
    clock: { now: () => now },
    log,
  });
}

const show = (routes: readonly Route[] | undefined): string =>
  (routes ?? []).map(route => (route.kind === 'maildir' ? route.path : `${route.account}:${route.folder}`)).join(' ') ||
  'undefined';

async function where(address: string, from = directory()): Promise<string> {
  const { routes, forwards = [] } = (await from.lookup(mailbox(address), () => {})) ?? {};
  const away = forwards.map(to => `to ${formatMailbox(to.mailbox)}`);
  return away.length === 0 ? show(routes) : [...(routes?.length ? [show(routes)] : []), ...away].join(' ');
}

const warnings = () => logged.filter(each => each.level === 'warn' || each.level === 'error');

describe('routes from the table', () => {
  const seed = [
    'anton example.com PAM',
    'anton @SOCIAL ALIAS',
    'facebook example.com @SOCIAL',
    'twitter example.com @SOCIAL',
  ];
  const chain = Array.from({ length: 11 }, (_, i) => [`m${i} @N${i} ALIAS`, `m${i} example.com @N${i + 1}`]).flat();
  const examples: [title: string, table: string[], address: string, outcome: string][] = [
    ['PAM is the Unix account', seed, 'anton@example.com', 'anton:Maildir'],
    ['@NAME is a way into the shared mailbox', seed, 'facebook@example.com', 'anton:Maildir'],
    ['a name without a row is undefined', seed, 'nobody@example.com', 'undefined'],
    ['the name of a member in another domain is undefined', seed, 'anton@other.example', 'undefined'],
    ['MAILDIR is a folder of domain and mailbox', ['b x.example MAILDIR'], 'b@x.example', '/var/mail/x.example/b'],
    [
      'MAILDIR with an unsafe name stays below its root',
      ['../../b x.example MAILDIR'],
      '../../B@x.example',
      '/var/mail/x.example/%2E.%2F..%2Fb',
    ],
    [
      'several backends in one cell are all used',
      ['anton example.com PAM, maildir,@S', 'berta @S ALIAS'],
      'anton@example.com',
      'anton:Maildir /var/mail/example.com/anton berta:Maildir',
    ],
    ['rows in mixed case are found', ['AnTon Example.COM PAM'], 'anton@example.com', 'anton:Maildir'],
    ['rows in mixed case are members', ['BERTA @Team ALIAS', 'x a.example @tEAM'], 'x@a.example', 'berta:Maildir'],
    [
      'an internationalised domain may be spelled in Unicode',
      ['büro bücher.example MAILDIR'],
      'büro@xn--bcher-kva.example',
      '/var/mail/xn--bcher-kva.example/büro',
    ],
    ['a name may be stored in NFD', ['bu\u0308ro a.example MAILDIR'], 'büro@a.example', '/var/mail/a.example/büro'],
    [
      'a member with a row in the domain of the recipient is that address',
      ['m @S ALIAS', 'm a.example MAILDIR', 'm b.example PAM', 'x a.example @S'],
      'x@a.example',
      '/var/mail/a.example/m',
    ],
    [
      'a member without a row is the Unix account',
      ['berta @S ALIAS', 'x a.example @S'],
      'x@a.example',
      'berta:Maildir',
    ],
    [
      'members are de-duplicated',
      ['anton @S ALIAS', 'a2 @S ALIAS', 'a2 a.example @T', 'anton @T ALIAS', 'x a.example @S'],
      'x@a.example',
      'anton:Maildir',
    ],
    [
      'loops end',
      ['x a.example @S', 'm @S ALIAS', 'm a.example @T', 'n @T ALIAS', 'n a.example @S', 'anton @T ALIAS'],
      'x@a.example',
      'anton:Maildir',
    ],
    ['nesting goes ten deep', ['x example.com @N1', ...chain, 'anton @N10 ALIAS'], 'x@example.com', 'anton:Maildir'],
    ['and no deeper', ['x example.com @N0', ...chain, 'anton @N10 ALIAS'], 'x@example.com', 'undefined'],
    [
      'a member with an @ is a full address',
      ['Anna@B.example @S ALIAS', 'anton @S ALIAS', 'x a.example @S'],
      'x@a.example',
      'anton:Maildir to anna@b.example',
    ],
    [
      'even alone, and not one that is malformed',
      ['anna@b.example @S ALIAS', 'x@ @S ALIAS', 'x a.example @S'],
      'x@a.example',
      'to anna@b.example',
    ],
    ['a dead member is skipped', ['dead @S ALIAS', 'anton @S ALIAS', 'x a.example @S'], 'x@a.example', 'anton:Maildir'],
    [
      'a shared mailbox that leads to nobody is undefined',
      ['dead @S ALIAS', 'x a.example @S'],
      'x@a.example',
      'undefined',
    ],
    ['a shared mailbox without members is undefined', ['x a.example @S'], 'x@a.example', 'undefined'],
    ['only ALIAS rows are members', ['anton @S PAM', 'x a.example @S'], 'x@a.example', 'undefined'],
    ['a quote is only a character', ["x';drop/**/table/**/smtp;-- a.example MAILDIR"], 'b@a.example', 'undefined'],
  ];
  for (const [title, table, address, outcome] of examples) {
    test(title, async () => {
      await rows(...table);
      assert.equal(await where(address), outcome);
    });
  }

  test('text of SQL in a local part is looked up, and the table is still there', async () => {
    await rows(...seed);
    assert.equal(await where("x';drop table smtp;--@example.com"), 'undefined');
    assert.equal(await where('anton@example.com'), 'anton:Maildir');
  });

  for (const [title, row] of [
    ['an unknown backend', 'x a.example POP'],
    ['an empty backend', 'x a.example'],
    ['PAM without an account', 'x a.example PAM'],
    ['ALIAS in a mail domain', 'x a.example ALIAS'],
  ] as const) {
    test(`${title} is a mistake: undefined with a catch-all, else 4.3.5; logged once a minute`, async () => {
      await rows(row);
      assert.equal(await where('x@a.example', directory({ hasDefault: true })), 'undefined');
      logged.length = 0;
      const one = directory();
      for (let i = 0; i < 3; i++) {
        await assert.rejects(where('x@a.example', one), { name: 'CannotTell', status: '4.3.5' });
      }
      assert.equal(warnings().length, 1);
      now += 60_000;
      await assert.rejects(where('x@a.example', one), { status: '4.3.5' });
      assert.equal(warnings().length, 2);
    });
  }

  test('members that lead nowhere are logged', async () => {
    await rows('dead @S ALIAS', 'anton @S ALIAS', 'x a.example @S,@EMPTY');
    assert.equal(await where('x@a.example'), 'anton:Maildir');
    assert.deepEqual(
      warnings().map(each => `${each.fields['mailbox']} ${each.fields['mistake']}`),
      ['x@a.example @empty has no members', 'dead@a.example no Unix account dead may receive mail'],
    );
  });

  test("'cannot tell' on any member is 'cannot tell' for all", async () => {
    await rows('anton @S ALIAS', 'ghost @S ALIAS', 'x a.example @S');
    await assert.rejects(where('x@a.example'), CannotTell);
  });

  test('without root, PAM is 4.3.5 and never undefined, for rows and for members', async () => {
    await rows('anton a.example PAM', 'berta @S ALIAS', 'x a.example @S', 'y a.example MAILDIR');
    const limited = directory({ accounts: undefined, hasDefault: true });
    for (const address of ['anton@a.example', 'x@a.example']) {
      await assert.rejects(where(address, limited), { name: 'CannotTell', status: '4.3.5' });
    }
    assert.equal(await where('y@a.example', limited), '/var/mail/a.example/y');
    assert.equal(await where('z@a.example', limited), 'undefined');
  });

  test('the way into a shared mailbox is explained', async () => {
    await rows(...seed);
    const lines: string[] = [];
    await directory().lookup(mailbox('facebook@example.com'), line => lines.push(line));
    assert.deepEqual(lines, [
      '@POSTGRESQL: facebook@example.com is a way into the shared mailbox @SOCIAL',
      '@POSTGRESQL:   member anton of @social',
      '@POSTGRESQL:     anton@example.com is PAM: Unix account anton (uid 1000): /home/anton/Maildir',
    ]);
  });

  test('an address takes one query, a shared mailbox one more for each level, a loop none', async () => {
    await rows('x a.example @S', 'm @S ALIAS', 'm a.example @T,@S', 'anton @T ALIAS', 'b a.example MAILDIR');
    let count = 0;
    const counted = new TableDirectory({
      query: (statement, values) => ((count += 1), database.query(statement, values)),
      accounts,
      mailRoot: '/var/mail',
      hasDefault: false,
      clock: { now: () => now },
      log,
    });
    await where('b@a.example', counted);
    assert.equal(count, 1);
    await where('x@a.example', counted);
    assert.equal(count, 4);
  });

  test('what was asked in the same second is not asked again, but in the next, for an explanation, and after a failure', async () => {
    await rows('b a.example MAILDIR');
    let [count, isDown, time] = [0, true, 1_000_000];
    const counted = new TableDirectory({
      query: async (statement, values) => {
        count += 1;
        if (isDown) throw new CannotTell('down');
        return database.query(statement, values);
      },
      accounts,
      mailRoot: '/var/mail',
      hasDefault: false,
      clock: { now: () => time },
      log,
    });
    const ask = () => counted.lookup(mailbox('b@a.example'));
    await assert.rejects(ask());
    isDown = false;
    await Promise.all([ask(), ask(), ask()]);
    await counted.lookup(mailbox('c@a.example'));
    assert.equal(count, 3);
    await counted.lookup(mailbox('b@a.example'), () => {});
    assert.equal(count, 4);
    time += 999;
    isDown = true;
    assert.equal((await ask())?.routes.length, 1);
    time += 1;
    await assert.rejects(ask());
    time -= 5000; // the clock is set back
    await assert.rejects(ask());
    assert.equal(count, 6);
  });
});

describe('as a directory', () => {
  let broken: Database;
  before(async () => {
    broken = await connectTo({ ...settings(), port: 1 }, log);
  });
  beforeEach(() => rows('facebook example.com @SOCIAL', 'anton @SOCIAL ALIAS', 'a/b example.com MAILDIR,PAM'));
  directoryContract('the table', () => ({
    directory: directory({ hasDefault: true }),
    known: 'facebook@example.com',
    unknown: 'nobody@example.com',
    broken: directory({ from: broken, hasDefault: true }),
  }));
});

describe('the domains of the table', () => {
  let folder: string;
  let file: string;
  let files = 0;
  // Of their own: they go on asking in the background, until this proxy is closed.
  let link: typeof proxy;
  let linked: Database;
  before(async () => {
    link = await startProxy(container.getPort(), container.getHost());
    linked = await connectTo(
      { ...settings(), port: link.port },
      { ...log, warn: () => {}, error: () => {}, info: () => {} },
    );
    folder = await mkdtemp(join(tmpdir(), 'slimsmtp-'));
  });
  beforeEach(async () => {
    file = join(folder, `domains${(files += 1)}`);
    link.mode = 'pass';
    await rows(
      'anton In-The-Table.example PAM',
      'büro BÜCHER.example MAILDIR',
      'anton @SOCIAL ALIAS',
      '1 0.example PAM',
    );
  });
  after(async () => {
    await link.close();
    await rm(folder, { recursive: true });
  });
  async function start(): Promise<TableDomains> {
    const domains = new TableDomains({ database: linked, settings: ['example.com'], file, log });
    await domains.start();
    return domains;
  }

  test('are hosted beside those of the settings, and shared mailboxes are none', async () => {
    const domains = await start();
    for (const domain of ['example.com', 'in-the-table.example', 'xn--bcher-kva.example', '0.example']) {
      assert.equal(await domains.hosts(domain), true, domain);
    }
    assert.equal(await domains.hosts('@social'), false);
    assert.equal(await domains.hosts('elsewhere.example'), false);
    assert.equal(await domains.hosts(''), false);
  });

  test('are listed alike by the index, and without it where it may not be made', async () => {
    const first = await start();
    assert.equal(await first.hosts('in-the-table.example'), true);
    const withIndex = await readFile(file, 'utf8');
    assert.deepEqual(withIndex.split('\n'), ['0.example', 'xn--bcher-kva.example', 'in-the-table.example']);
    await admin.query("CREATE ROLE reader LOGIN PASSWORD 'pass'");
    await admin.query('GRANT SELECT ON smtp TO reader');
    await admin.query('DROP INDEX smtp_address');
    const reader = await connectTo({ ...settings('reader', 'pass'), port: link.port }, log);
    const domains = new TableDomains({ database: reader, settings: [], file: `${file}.reader`, log });
    try {
      await domains.start();
      assert.equal(await domains.hosts('in-the-table.example'), true);
      await wait(100);
      assert.equal(await readFile(`${file}.reader`, 'utf8'), withIndex);
      const complaint = warnings().filter(each => String(each.fields['statement']).startsWith('CREATE INDEX'));
      assert.equal(complaint.length, 1, 'the index that cannot be made is not asked for');
      assert.equal(await where('anton@in-the-table.example', directory({ from: reader })), 'anton:Maildir');
      assert.equal(await hasIndex(), false);
    } finally {
      await admin.query('DROP OWNED BY reader; DROP ROLE reader');
    }
  });

  test('take effect, and go, within five seconds', { timeout: 12_000 }, async () => {
    const domains = await start();
    assert.equal(await domains.hosts('new.example'), false);
    await admin.query("INSERT INTO smtp (mailbox, domain, account_backend) VALUES ('anton', 'new.example', 'PAM')");
    await until(5_000, () => domains.hosts('new.example'));
    assert.equal(await where('anton@new.example'), 'anton:Maildir');
    await admin.query("DELETE FROM smtp WHERE domain = 'new.example'");
    await until(5_000, async () => !(await domains.hosts('new.example')));
    assert.equal(await where('anton@new.example'), 'undefined');
  });

  test('are the last known ones while the database is away, also after a restart', async () => {
    const domains = await start();
    assert.equal(await domains.hosts('in-the-table.example'), true);
    link.mode = 'refuse';
    await assert.rejects(where('anton@in-the-table.example', directory({ from: linked })), CannotTell);
    const restarted = await start();
    for (const each of [domains, restarted]) {
      assert.equal(await each.hosts('in-the-table.example'), true);
      assert.equal(await each.hosts('example.com'), true);
      assert.equal(await each.hosts('elsewhere.example'), false);
    }
  });

  test('that were never loaded are told from no others: all outside the settings cannot be told', async () => {
    link.mode = 'refuse';
    const domains = await start();
    assert.equal(await domains.hosts('example.com'), true);
    await assert.rejects(domains.hosts('elsewhere.example'), CannotTell);
    await writeFile(file, 'in-the-table.example');
    assert.equal(await (await start()).hosts('in-the-table.example'), true);
    link.mode = 'pass';
    await until(5_000, async () => !(await domains.hosts('elsewhere.example').catch(() => true)));
  });
});

describe('an outage', () => {
  beforeEach(() => rows('anton example.com PAM'));

  test('is CannotTell for known and unknown alike, is logged once, and ends by itself', async () => {
    assert.equal(await where('anton@example.com'), 'anton:Maildir');
    proxy.mode = 'refuse';
    logged.length = 0;
    for (const address of ['anton@example.com', 'nobody@example.com', 'anton@example.com']) {
      await assert.rejects(where(address, directory({ hasDefault: true })), CannotTell);
    }
    assert.equal(warnings().length, 1);
    assert.doesNotMatch(JSON.stringify(logged), new RegExp(`"${container.getPassword()}"`));
    proxy.mode = 'pass';
    await until(5_000, async () => (await where('anton@example.com').catch(() => '')) === 'anton:Maildir');
    assert.equal(logged.filter(each => each.message === 'PostgreSQL answers').length, 1);
  });

  test(
    'that swallows every packet is CannotTell within 9 s, then one at a time tries',
    { timeout: 30_000 },
    async () => {
      // Every connection of the pool is in use when it begins.
      await Promise.all(Array.from({ length: 20 }, () => where('anton@example.com')));
      proxy.mode = 'swallow';
      for (const isKnown of [false, true]) {
        const start = performance.now();
        const acceptedBefore = proxy.accepted;
        const asked = Array.from({ length: 20 }, () => assert.rejects(where('anton@example.com'), CannotTell));
        await Promise.all(asked);
        assert.ok(performance.now() - start < 9_000);
        if (isKnown) assert.equal(proxy.accepted - acceptedBefore, 1);
      }
      proxy.mode = 'pass';
      await until(5_000, async () => (await where('anton@example.com').catch(() => '')) === 'anton:Maildir');
    },
  );

  test('of a server that was told to stop all sessions is over with the next query', async () => {
    assert.equal(await where('anton@example.com'), 'anton:Maildir');
    await admin.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'slimsmtp'");
    await wait(200);
    assert.equal(await where('anton@example.com'), 'anton:Maildir');
  });

  test('by a table that is missing says so, once, and ends when it is there: its index is made', async () => {
    await admin.query('DROP TABLE smtp');
    for (let i = 0; i < 3; i++) await assert.rejects(where('anton@example.com'), /"smtp" does not exist/);
    assert.equal(warnings().length, 1);
    await admin.query(await readFile('docker/smtp.sql', 'utf8'));
    assert.equal(await where('anton@example.com'), 'anton:Maildir');
    await until(5_000, hasIndex);
  });
});

describe('what people have in place of our table, our server and our settings', () => {
  test('rows typed by hand count: blanks around mailbox and domain, a final dot', async () => {
    await rows('anton example.com PAM');
    const insert = 'INSERT INTO smtp (mailbox, domain, account_backend) VALUES ($1, $2, $3)';
    await admin.query(insert, [' Blank\t', ' blank.example ', 'MAILDIR']);
    await admin.query(insert, ['dot', 'dot.example.', 'MAILDIR']);
    await admin.query(insert, ['team', 'dot.example', ' @Crew ']);
    await admin.query(insert, [' dot ', '@CREW ', 'ALIAS']);
    assert.equal(await where('blank@blank.example'), '/var/mail/blank.example/blank');
    assert.equal(await where('dot@dot.example'), '/var/mail/dot.example/dot');
    assert.equal(await where('team@dot.example'), '/var/mail/dot.example/dot');
    const domains = new TableDomains({ database, settings: [], file: join(tmpdir(), `domains-${process.pid}`), log });
    await domains.start();
    assert.equal(await domains.hosts('blank.example'), true);
    assert.equal(await domains.hosts('dot.example'), true);
  });

  test('a view without id in another schema, read by a role that may only read, works and says so once', async () => {
    await rows('b a.example MAILDIR');
    await admin.query(`CREATE SCHEMA elsewhere; ALTER TABLE smtp RENAME TO rows_of_smtp;
      CREATE VIEW elsewhere.smtp AS SELECT mailbox, domain, account_backend FROM rows_of_smtp;
      CREATE ROLE viewer LOGIN PASSWORD 'pass'; GRANT USAGE ON SCHEMA elsewhere TO viewer;
      GRANT SELECT ON elsewhere.smtp TO viewer; ALTER ROLE viewer SET search_path = elsewhere`);
    try {
      const viewer = await connectTo(settings('viewer', 'pass'), log);
      assert.equal(await where('b@a.example', directory({ from: viewer })), '/var/mail/a.example/b');
      await until(5_000, async () =>
        logged.some(({ fields, message }) => /view|index/.test(message + fields['error'])),
      );
      assert.equal(viewer.isUp, true);
      assert.deepEqual(
        warnings().filter(({ fields }) => String(fields['statement']).startsWith('CREATE INDEX')),
        [],
        'an index on a view is advised, which nobody can make',
      );
    } finally {
      await admin.query(`DROP VIEW elsewhere.smtp; DROP SCHEMA elsewhere; ALTER TABLE rows_of_smtp RENAME TO smtp;
        DROP OWNED BY viewer; DROP ROLE viewer`);
    }
  });

  test('a table that lacks a column is one clear error and stays down, until it has it', async () => {
    await rows('b a.example MAILDIR');
    await admin.query('ALTER TABLE smtp RENAME account_backend TO backend');
    logged.length = 0;
    try {
      for (let i = 0; i < 4; i++) {
        await assert.rejects(where('b@a.example'), CannotTell);
        assert.equal(database.isUp, false);
        // Another statement that succeeds does not hide the fault.
        await database.query({ name: 'slimsmtp_other', text: 'SELECT' });
        assert.equal(database.isUp, false);
      }
      assert.equal(warnings().length, 1);
      assert.match(String(warnings()[0]?.fields['advice']), /columns/);
    } finally {
      await admin.query('ALTER TABLE smtp RENAME backend TO account_backend');
    }
    assert.equal(await where('b@a.example'), '/var/mail/a.example/b');
    assert.equal(database.isUp, true);
  });

  test('sslmode=prefer makes do without TLS where the server has none', async () => {
    await rows('b a.example MAILDIR');
    const plain = await connectTo({ ...settings(), query: '&sslmode=prefer' }, log);
    assert.equal(await where('b@a.example', directory({ from: plain })), '/var/mail/a.example/b');
    const strict = await connectTo({ ...settings(), query: '&sslmode=require' }, log);
    await assert.rejects(where('b@a.example', directory({ from: strict })), CannotTell);
  });

  test('a password that was rotated in its file is used by the next connection', async () => {
    await rows('b a.example MAILDIR');
    const folder = await mkdtemp(join(tmpdir(), 'slimsmtp-'));
    const passwordFile = join(folder, 'password');
    await admin.query("CREATE ROLE rotated LOGIN PASSWORD 'first'; GRANT SELECT ON smtp TO rotated");
    try {
      await writeFile(passwordFile, 'first\n');
      const { port } = proxy;
      const connectionString = `postgres://rotated:first@127.0.0.1:${port}/${container.getDatabase()}`;
      const rotated = await openDatabase({ settings: { connectionStrings: [connectionString], passwordFile }, log });
      const from = directory({ from: rotated });
      assert.equal(await where('b@a.example', from), '/var/mail/a.example/b');
      await admin.query("ALTER ROLE rotated PASSWORD 'second'");
      await admin.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotated'");
      await until(5_000, () =>
        where('b@a.example', from).then(
          () => false,
          () => true,
        ),
      );
      await writeFile(passwordFile, 'second\n');
      await until(5_000, async () => (await where('b@a.example', from).catch(() => '')) === '/var/mail/a.example/b');
    } finally {
      await admin.query('DROP OWNED BY rotated; DROP ROLE rotated');
      await rm(folder, { recursive: true });
    }
  });

  for (const mode of ['session', 'transaction'])
    test(`PgBouncer that pools by ${mode} in front of it works`, { timeout: 60_000 }, async () => {
      await rows('b a.example MAILDIR', 'anton @S ALIAS', 'x a.example @S');
      const [user, password, name] = [container.getUsername(), container.getPassword(), container.getDatabase()];
      const server = `host=${container.getIpAddress('bridge')} port=5432`;
      const ini = `[databases]\n${name} = ${server}\n[pgbouncer]\nlisten_addr = *\nlisten_port = 6432\nauth_type = scram-sha-256
auth_file = /tmp/users\npool_mode = ${mode}\nmax_prepared_statements = 0\n`;
      const pooler = await new GenericContainer('slimsmtp-peer:test')
        .withCopyContentToContainer([
          { content: ini, target: '/tmp/bouncer.ini', mode: 0o644 },
          { content: `"${user}" "${password}"\n`, target: '/tmp/users', mode: 0o644 },
        ])
        .withCommand(['pgbouncer', '-u', 'postgres', '/tmp/bouncer.ini'])
        .withExposedPorts(6432)
        .start();
      try {
        const pooled = await connectTo({ ...settings(), port: pooler.getMappedPort(6432) }, log);
        const from = directory({ from: pooled });
        for (let i = 0; i < 10; i++) {
          now += 1000;
          const [one, two] = await Promise.all([where('b@a.example', from), where('x@a.example', from)]);
          assert.deepEqual([one, two], ['/var/mail/a.example/b', 'anton:Maildir']);
        }
        assert.equal(pooled.isUp, true);
        assert.deepEqual(warnings(), []);
      } finally {
        await pooler.stop();
      }
    });
});

async function hasIndex(): Promise<boolean> {
  const { rows: found } = await admin.query("SELECT to_regclass('smtp_address') IS NOT NULL AS is");
  return found[0].is;
}

async function until(limitMs: number, holds: () => Promise<boolean>): Promise<void> {
  for (const end = performance.now() + limitMs; !(await holds()); await wait(100)) {
    assert.ok(performance.now() < end, `not within ${limitMs} ms`);
  }
}

/** A TCP proxy to the database that can refuse every connection, or swallow all that comes, for ever on that one. */
async function startProxy(port: number, host: string) {
  const open = new Set<{ near: Socket; far: Socket; isDead: boolean }>();
  let mode: 'pass' | 'refuse' | 'swallow' = 'pass';
  let accepted = 0;
  const end = () => {
    for (const { near, far } of open) for (const each of [near, far]) each.destroy();
  };
  const server = createServer(near => {
    accepted += 1;
    if (mode === 'refuse') return void near.destroy();
    const far = connect(port, host);
    const pair = { near, far, isDead: mode === 'swallow' };
    open.add(pair);
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      from.on('data', data => pair.isDead || to.write(data));
      from.on('error', () => {});
      from.on('close', () => {
        open.delete(pair);
        to.destroy();
      });
    }
  });
  await new Promise<void>(listening => server.listen(0, '127.0.0.1', listening));
  return {
    port: (server.address() as AddressInfo).port,
    get accepted() {
      return accepted;
    },
    set mode(next: typeof mode) {
      mode = next;
      if (mode === 'refuse') end();
      if (mode === 'swallow') for (const pair of open) pair.isDead = true;
    },
    close: () => {
      end();
      return new Promise(closed => server.close(closed));
    },
  };
}
