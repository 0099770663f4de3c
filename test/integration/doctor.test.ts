// `slimsmtp doctor` in a real container, on a small Internet with all records in place: it has nothing to say but
// notes; then it finds each fault that is planted, and names the line that mends it. What is listed here stands in
// docs/troubleshooting.md.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { StartedTestContainer } from 'testcontainers';
import { eventually } from './client.ts';
import { docker, openStage } from './compose-lib.ts';
import { type Internet, openInternet } from './internet.ts';
import { letter, operate, peerImage, submit } from './peer-lib.ts';

const stage = openStage(after);
let internet: Internet;
let server: StartedTestContainer;
let postgres: Awaited<ReturnType<typeof stage.postgres>>;
let published: readonly string[];

type Found = Readonly<Record<'about' | 'status' | 'text' | 'mend', string>>;
/** With these variables in place of the container's. */
async function doctor(variables: Record<string, string> = {}): Promise<{ all: readonly Found[]; status: string }> {
  const settings = Object.entries(variables).flatMap(([name, value]) => ['--env', `${name}=${value}`]);
  const script = 'slimsmtp doctor --json; echo $?';
  const said = await docker('exec', ...settings, server.getId(), 'sh', '-c', script);
  const lines = said.trim().split('\n');
  const status = lines.pop() ?? '';
  return { status, all: lines.map(line => JSON.parse(line) as Found) };
}
const shell = (script: string, user = '0'): Promise<string> =>
  docker('exec', '--user', user, server.getId(), 'sh', '-c', script);

type Record_ = Readonly<Record<'zone' | 'status', string>>;
/** The lines of a zone file that the server wants. */
async function wanted(): Promise<readonly string[]> {
  const lines = (await operate(server).shell('slimsmtp dns --json; true')).trim().split('\n');
  const address = server.getIpAddress(internet.network.getName());
  return lines.map(line => (JSON.parse(line) as Record_).zone.replace('<address>', address));
}

before(async () => {
  internet = await openInternet(stage);
  postgres = await stage.postgres(internet.network);
  server = await internet.server('one.example', {
    environment: { SLIM_USERS: 'anton:secret', SLIM_STORAGES: 'default=/var/mail/default' },
    prepare: container => container.withTmpFs({ '/small': 'size=4m,mode=0777' }),
  });
  await internet.publish('signed', ['example.com. A 192.0.2.1']);
  await eventually(
    'all records are there',
    async () => {
      await internet.publish('own', (published = await wanted()));
      return (await doctor()).all.every(({ about, status }) => about !== 'dns' || status === 'ok');
    },
    60_000,
  );
});

test('there is nothing to do where all is well; a certificate of its own is a note', async () => {
  const { all, status } = await doctor();
  const left = all.filter(each => each.status !== 'ok');
  assert.deepEqual(
    left.map(each => `${each.about} ${each.status}`),
    ['certificate note'],
    JSON.stringify(left),
  );
  assert.equal(status, '0');
});

type Fault = {
  readonly variables?: Record<string, string>;
  readonly plant?: string;
  readonly undo?: string;
  /** Who plants it: root, which may not change the mode of others' files here. */
  readonly as?: string;
  /** Records that stand in place of those that are right: by how they begin. */
  readonly records?: Readonly<Record<string, string>>;
  readonly about: string;
  readonly mend: RegExp;
};
const faults: Readonly<Record<string, Fault>> = {
  'a variable that is misspelt': {
    variables: { SLIM_DOMAIN: 'one.example' },
    about: 'settings',
    mend: /^SLIM_DOMAINS=/,
  },
  'variables that contradict each other': {
    variables: { SLIM_RELAY_HOST: 'relay', SLIM_RELAY_USER: 'x', SLIM_RELAY_PASSWORD: 'y', SLIM_RELAY_TLS: 'none' },
    about: 'settings',
    mend: /^change it in \.env/,
  },
  'a folder of data with another owner': {
    plant: 'chown 7:7 /var/lib/slimsmtp/spool',
    undo: 'chown slim:slim /var/lib/slimsmtp/spool',
    about: 'SLIM_DATA',
    mend: /^chown -R 525:525 \/var\/lib\/slimsmtp\/spool$/,
  },
  'keys that others may read': {
    plant: 'chmod 755 /var/lib/slimsmtp/dkim',
    undo: 'chmod 700 /var/lib/slimsmtp/dkim',
    as: '525',
    about: 'SLIM_DATA',
    mend: /^chmod -R go= \/var\/lib\/slimsmtp\/dkim$/,
  },
  'a folder for mail that is not mounted': {
    variables: { SLIM_STORAGES: 'default=/mnt/mail' },
    about: 'SLIM_STORAGES',
    mend: /^mkdir -p \/mnt\/mail && chown 525:525 \/mnt\/mail$/,
  },
  'a disk that is nearly full': {
    variables: { SLIM_MAIL_ROOT: '/small' },
    about: 'space',
    mend: /^du -xh \/small/,
  },
  'no server': {
    variables: { SLIM_DATA: '/tmp' },
    about: 'server',
    mend: /^docker compose up -d slimsmtp$/,
  },
  'a port where nobody answers': {
    variables: { SLIM_LISTEN: 'smtp://:2599' },
    about: 'port 2599',
    mend: /SLIM_LISTEN/,
  },
  'a port where somebody else answers': {
    plant: `node -e 'require("net").createServer(s => s.end("220 other ESMTP\\r\\n")).listen(2600)' >/dev/null 2>&1 & sleep 1`,
    variables: { SLIM_LISTEN: 'smtp://:2600' },
    about: 'port 2600',
    mend: /^ss -ltnp/,
  },
  'a resolver that does not answer': {
    variables: { SLIM_RESOLVER: '127.0.0.1:9' },
    about: 'resolver',
    mend: /^SLIM_RESOLVER=unbound/,
  },
  'a resolver that does not validate, and is believed': {
    variables: { SLIM_RESOLVER: 'names' },
    about: 'resolver',
    mend: /^SLIM_RESOLVER=unbound/,
  },
  'no MX record': { records: { 'one.example. IN MX': '' }, about: 'dns', mend: /^one\.example\. IN MX 10 / },
  'an SPF record that leaves us out': {
    records: { 'one.example. IN TXT "v=spf1': 'one.example. TXT "v=spf1 -all"' },
    about: 'dns',
    mend: /^one\.example\. IN TXT "v=spf1 mx ~all"$/,
  },
  'no key of DKIM': { records: { r: '' }, about: 'dns', mend: /^r\d+\._domainkey\.one\.example\. IN TXT "v=DKIM1; / },
  'no DMARC record': { records: { _dmarc: '' }, about: 'dns', mend: /^_dmarc\.one\.example\. IN TXT "v=DMARC1; / },
  'a PTR record with another name': {
    records: { '\\d+\\.\\d+\\.\\d+\\.\\d+\\.in-addr': 'PTR' },
    about: 'dns',
    mend: /\.in-addr\.arpa\. IN PTR mail\.one\.example\.$/,
  },
  'a TLSA record of another key': {
    records: { _25: `_25._tcp.mail.one.example. TLSA 3 1 1 ${'00'.repeat(32)}` },
    about: 'dns',
    mend: /^_25\._tcp\.mail\.one\.example\. IN TLSA 3 1 1 /,
  },
  'a database that is down': {
    variables: { PGHOST: '127.0.0.1', PGPORT: '1', PGUSER: 'x', PGDATABASE: 'x' },
    about: 'database',
    mend: /^docker compose up -d postgres/,
  },
  'a relay that is not there': {
    variables: { SLIM_RELAY_HOST: '127.0.0.1', SLIM_RELAY_PORT: '1' },
    about: 'relay',
    mend: /SLIM_RELAY_HOST/,
  },
};

for (const [what, { variables = {}, plant, undo, as, records, about, mend }] of Object.entries(faults))
  test(`it finds ${what}`, async () => {
    if (plant) await shell(plant, as);
    if (records) {
      const [begin = '', instead = ''] = Object.entries(records)[0] ?? [];
      const lines = published.flatMap(line => {
        if (!new RegExp(`^${begin}`).test(line)) return line;
        return instead === 'PTR' ? line.replace(/PTR .*/, 'PTR other.example.') : instead || [];
      });
      assert.notDeepEqual(lines, published);
      await internet.publish('own', lines);
    }
    let found: Found | undefined;
    const isFound = async (): Promise<boolean> => {
      const { all, status } = await doctor(variables);
      found = all.find(each => each.about === about && each.status === 'mend' && mend.test(each.mend));
      if (found === undefined) last = JSON.stringify(all.filter(each => each.status !== 'ok'));
      return found !== undefined && status === '1';
    };
    let last = '';
    // What was published needs two seconds until it is seen.
    await eventually(what, isFound, 10_000).catch(error => assert.fail(`${String(error)}: ${last}`));
    if (undo) await shell(undo, as);
    if (records) await internet.publish('own', published);
  });

test('it finds rows of the table that lead nowhere', async () => {
  const settings = { ...postgres.environment, SLIM_STORAGES: '@POSTGRESQL default=/var/mail/default' };
  assert.ok((await doctor(settings)).all.some(({ about, status }) => about === 'database' && status === 'ok'));
  const insert = "INSERT INTO smtp (mailbox, domain, account_backend) VALUES ('emil', 'one.example', 'MAILDIRR')";
  const { database } = postgres;
  const psql = ['psql', '-U', database.getUsername(), '-d', database.getDatabase(), '-c', insert];
  assert.equal((await database.exec(psql)).exitCode, 0);
  const { all } = await doctor(settings);
  const found = all.find(({ about }) => about === 'table smtp');
  assert.match(found?.mend ?? '', /^UPDATE smtp SET account_backend = 'MAILDIR' WHERE mailbox = 'emil'/);
});

test('it finds mail that is held', async () => {
  const port = server.getMappedPort(465);
  const { address } = await internet.run(peerImage, 'exec sleep infinity');
  await internet.publish('closed', ['closed.example. MX 10 mx.closed.example.', `mx.closed.example. A ${address}`]);
  await submit(port, ['x@closed.example'], letter('x', 'x\r\n', 'anton@one.example'), { from: 'anton@one.example' });
  await operate(server).slimsmtp('queue', 'hold', '--all');
  const { all } = await doctor();
  assert.ok(all.some(({ about, mend }) => about === 'queue' && mend?.startsWith('slimsmtp queue release --all')));
});
