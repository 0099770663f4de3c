// What `slimsmtp doctor` finds: each planted fault, with the line that mends it, and nothing where all is well. Files,
// sockets and certificates are real ones; DNS and database say what a test tells them. The whole verb:
// test/integration/doctor.test.ts.
import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { type AddressInfo, type Socket, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { TLSSocket, createSecureContext } from 'node:tls';
import { checkFiles } from '../../src/doctor/files.ts';
import { checkResolver } from '../../src/doctor/names.ts';
import { type Spoken, checkSockets } from '../../src/doctor/sockets.ts';
import { checkQueue } from '../../src/doctor/waiting.ts';
import type { Finding, QueuedMessage } from '../../src/mail/admin.ts';
import { CannotTell } from '../../src/mail/ports.ts';
import { checkDatabase } from '../../src/postgres/health.ts';
import type { Database, Statement } from '../../src/postgres/pool.ts';
import { parts } from '../../src/system/folders.ts';
import { systemClock, systemRandom as random } from '../../src/system/world.ts';
import { createCertificate } from '../../src/tls/certificates.ts';
import { answerOf, noSuch, nullDns } from '../contract/null-dns.ts';

const short = (findings: readonly Finding[]): readonly string[] =>
  findings.map(({ about, status, mend }) => `${about} ${status}${mend === undefined ? '' : `: ${mend}`}`);
const own = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };

describe('on the disk', () => {
  const folder = mkdtempSync(join(tmpdir(), 'doctor-'));
  after(() => rmSync(folder, { recursive: true }));
  const [data, mail] = [join(folder, 'data'), join(folder, 'mail')];
  for (const part of parts) mkdirSync(join(data, part), { recursive: true, mode: 0o700 });
  mkdirSync(mail, { mode: 0o700 });
  const root = { setting: 'SLIM_MAIL_ROOT', path: mail };
  const trouble = (...asked: Parameters<typeof checkFiles>): readonly string[] =>
    short(checkFiles(...asked)).filter(line => !/^\S+ ok$/.test(line) && !line.startsWith('space '));

  it("all is well where each folder is the server's own", () => assert.deepEqual(trouble(data, [root], own), []));

  it('folders of somebody else are handed over', () => {
    const owner = { uid: 54_321, gid: 54_322 };
    const found = trouble(data, [root], owner);
    assert.ok(found.includes(`SLIM_DATA mend: chown -R 54321:54322 ${data}/queue`), found.join('\n'));
    assert.ok(
      found.includes(`SLIM_MAIL_ROOT mend: chown -R 54321:54322 ${mail} && chmod 700 ${mail}`),
      found.join('\n'),
    );
  });

  it('keys that others may read are closed', () => {
    chmodSync(join(data, 'dkim'), 0o755);
    assert.deepEqual(trouble(data, [root], own), [`SLIM_DATA mend: chmod -R go= ${data}/dkim`]);
    chmodSync(join(data, 'dkim'), 0o700);
  });

  it('a root of mail that is gone is made', () => {
    const path = join(folder, 'away');
    const mend = `mkdir -p ${path} && chown ${own.uid}:${own.gid} ${path}`;
    assert.deepEqual(trouble(data, [{ setting: 'SLIM_STORAGES', path }], own), [`SLIM_STORAGES mend: ${mend}`]);
  });

  it('a folder with which no server has run is named', () =>
    assert.deepEqual(trouble(join(folder, 'nothing'), [], own), ['SLIM_DATA mend: slimsmtp serve']));
});

describe('as a client', () => {
  const closers: (() => void)[] = [];
  after(() => closers.forEach(close => close()));
  /** A mail server on loopback, as far as STARTTLS. */
  async function serve(greeting: string, pair?: { cert: string; key: string }): Promise<Spoken> {
    const context = pair && createSecureContext(pair);
    const server = createServer((socket: Socket) => {
      socket.on('error', () => {});
      socket.write(`${greeting}\r\n`);
      socket.on('data', octets => {
        if (octets.toString().startsWith('EHLO')) socket.write(context ? '250-me\r\n250 STARTTLS\r\n' : '250 me\r\n');
        else {
          socket.removeAllListeners('data');
          socket.write('220 go\r\n');
          new TLSSocket(socket, { isServer: true, secureContext: context as never }).on('error', () => {});
        }
      });
    });
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
    closers.push(() => server.close());
    return { kind: 'smtp', host: '127.0.0.1', port: (server.address() as AddressInfo).port };
  }
  const made = (hostname: string, years = 0) =>
    createCertificate({ hostname, random, clock: { now: () => systemClock.now() + years * 365.25 * 86_400_000 } });
  const hostname = 'mail.example.com';
  const greeting = `220 ${hostname} ESMTP SlimSMTP`;
  const look = async (socket: Spoken): Promise<readonly string[]> =>
    short(await checkSockets([socket], hostname, systemClock.now())).map(line => line.replaceAll(/\d{4,5}/g, 'N'));

  it('a server that answers with a certificate of its own is well', async () =>
    assert.match(
      (await look(await serve(greeting, await made(hostname)))).join('\n'),
      /^port N ok\ncertificate note: SLIM_TLS_CERT_FILE=/,
    ));

  it('a port where nobody, or somebody else, answers is named', async () => {
    const closed = { kind: 'smtp', host: undefined, port: 1 } as const;
    assert.match((await look(closed)).join('\n'), /^port 1 mend: docker compose up -d slimsmtp/);
    assert.match(
      (await look(await serve('220 other.example ESMTP'))).join('\n'),
      /^port N mend: ss -ltnp 'sport = :N'$/,
    );
  });

  it('a certificate that is not for the name, or has expired, or will soon, is named', async () => {
    const [, other] = await look(await serve(greeting, await made('other.example')));
    assert.equal(other, `certificate mend: get one for ${hostname}, or set SLIM_HOSTNAME to a name that it has`);
    for (const years of [-11, -9.99]) {
      const [, old] = await look(await serve(greeting, await made(hostname, years)));
      assert.match(old ?? '', /^certificate mend: renew it/);
    }
  });
});

describe('in DNS', () => {
  const nobody = 'x.invalid';
  const rejecting = (code: string) => nullDns({ addresses: async () => Promise.reject(noSuch(code)) });
  const signed = (isAuthentic: boolean) =>
    nullDns({
      addresses: async name =>
        name === nobody ? Promise.reject(noSuch('ENOTFOUND')) : { ...answerOf(['192.0.2.1']), isAuthentic },
    });

  it('a resolver that answers and validates is well', async () =>
    assert.deepEqual(short(await checkResolver(signed(true), nobody, true)), ['resolver ok', 'resolver ok']));

  it('one that is silent, lies, or does not validate is named', async () => {
    const other = 'resolver mend: SLIM_RESOLVER=unbound, and docker compose --profile dns up -d';
    assert.deepEqual(short(await checkResolver(rejecting('ETIMEOUT'), nobody, false)), [other]);
    const liar = nullDns({ addresses: async () => answerOf(['198.51.100.1']) });
    assert.deepEqual(short(await checkResolver(liar, nobody, false)), [other]);
    assert.deepEqual(short(await checkResolver(signed(false), nobody, true)), ['resolver ok', other]);
  });

  it('that DANE is off is a note', async () => {
    const [, note] = await checkResolver(rejecting('ENOTFOUND'), nobody, false);
    assert.equal(note?.status, 'note');
  });
});

describe('in the queue', () => {
  async function* messages(...statuses: readonly [domain: string, status: string][]): AsyncGenerator<QueuedMessage> {
    for (const [domain, status] of statuses)
      yield { isHeld: status === 'held', recipients: [{ domain, status }] } as unknown as QueuedMessage;
  }
  it('one server that cannot be reached is no fault of ours, and many are', async () => {
    assert.deepEqual(short(await checkQueue(messages(['a', '4.4.1']))), ['queue ok']);
    const many = await checkQueue(messages(['a', '4.4.1'], ['b', '4.4.1'], ['c', '4.4.1']));
    assert.match(short(many).join(), /^queue mend: ask the provider to open port 25 outwards/);
  });

  it('a refused login of the relay, and mail that is held, are named', async () => {
    assert.match(short(await checkQueue(messages(['a', '4.7.8']))).join(), /SLIM_RELAY_USER/);
    assert.match(short(await checkQueue(messages(['a', 'held']))).join(), /queue release --all/);
  });
});

describe('in the database', () => {
  type Answer = readonly Readonly<Record<string, string>>[] | 'no';
  const database = (answers: Readonly<Record<string, Answer>>): Database =>
    ({
      query: async ({ name }: Statement) => {
        const answer = answers[name.replace('slimsmtp_doctor_', '')] ?? [];
        if (answer === 'no') throw new CannotTell('PostgreSQL cannot answer', { cause: new Error('refused') });
        return answer;
      },
    }) as unknown as Database;
  const all = { smtp: true, users: true };
  const now = [{ seconds: '1000' }];
  const look = async (answers: Readonly<Record<string, Answer>>): Promise<readonly string[]> =>
    short(await checkDatabase(database(answers), all, 1_000_000));

  it('all is well where it answers', async () => assert.deepEqual(await look({ now }), ['database ok']));

  it('an outage, a missing table and a clock that differs are named', async () => {
    assert.match((await look({ now: 'no' })).join(), /^database mend: docker compose up -d postgres/);
    assert.match((await look({ now, smtp: 'no' })).join(), /^database mend: CREATE TABLE IF NOT EXISTS smtp /);
    assert.match((await look({ now, users: 'no' })).join(), /^database mend: CREATE TABLE IF NOT EXISTS users /);
    assert.deepEqual(await look({ now: [{ seconds: '1100' }] }), ['clock mend: timedatectl set-ntp true']);
  });

  it('rows that lead nowhere are named with the statement', async () => {
    const rows = [
      { mailbox: 'anton', domain: 'example.com', backend: 'PAN' },
      { mailbox: 'sales', domain: 'example.com', backend: '@SALES' },
    ];
    assert.deepEqual(await look({ now, lost: rows }), [
      "table smtp mend: UPDATE smtp SET account_backend = 'MAILDIR' WHERE mailbox = 'anton' AND domain = 'example.com';",
      "table smtp mend: INSERT INTO smtp (mailbox, domain, account_backend) VALUES ('…', '@SALES', 'ALIAS');",
    ]);
  });
});
