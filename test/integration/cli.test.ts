// The command line as a person or a script meets it: real processes, their output and exit statuses.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { after, describe, it } from 'node:test';
import { openControl } from '../../src/control/server.ts';
import { freePort } from '../ports.ts';
import { deliver } from './client.ts';

const root = join(import.meta.dirname, '../..');
const folder = mkdtempSync(join(tmpdir(), 'slimsmtp-cli-'));
after(() => rmSync(folder, { recursive: true }));

const environment = { SLIM_DOMAINS: 'example.com', SLIM_DATA: join(folder, 'data'), SLIM_STORAGES: 'default=/tmp/x' };

function slimsmtp(words: readonly string[], settings: Record<string, string> = {}, input = '') {
  const done = spawnSync(
    process.execPath,
    [...process.execArgv.filter(flag => !flag.startsWith('--import')), join(root, 'src/cli.ts'), ...words],
    {
      cwd: folder,
      env: { PATH: process.env['PATH'], ...environment, ...settings },
      encoding: 'utf8',
      input,
      timeout: 15_000,
    },
  );
  return { status: done.status, out: done.stdout, complaint: done.stderr };
}

/** The same, while this process goes on: it may be the one that answers. */
async function slimsmtpAtLeisure(words: readonly string[], settings: Record<string, string> = {}) {
  const child = spawn(process.execPath, [join(root, 'src/cli.ts'), ...words], {
    cwd: folder,
    env: { PATH: process.env['PATH'], ...environment, ...settings },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: 15_000,
  });
  const [out, complaint, [status]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'exit')]);
  return { status: status as number, out, complaint };
}

/** A folder of its own for a server. */
const place = (name: string) => ({
  SLIM_DATA: join(folder, name, 'data'),
  SLIM_MAIL_ROOT: join(folder, name, 'mail'),
  SLIM_STORAGES: `default=${join(folder, name, 'mail', 'default')}`,
  SLIM_LISTEN: 'smtp://127.0.0.1:0',
});

/** A server that listens, what it has said so far, and its line 'ready'. */
async function serve(settings: Record<string, string>) {
  const child = spawn(process.execPath, [join(root, 'src/cli.ts'), 'serve'], {
    cwd: folder,
    env: { PATH: process.env['PATH'], ...environment, ...settings },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  after(() => child.kill('SIGKILL'));
  const said: Record<string, unknown>[] = [];
  for await (const line of createInterface(child.stdout)) {
    const parsed = JSON.parse(line) as Record<string, unknown>;
    said.push(parsed);
    if (parsed['msg'] !== 'ready') continue;
    child.stdout.resume();
    return { child, said, ready: parsed };
  }
  return assert.fail(JSON.stringify(said));
}

describe('slimsmtp', () => {
  it('--help lists the verbs', () => {
    const { status, out } = slimsmtp(['--help']);
    assert.equal(status, 0);
    for (const verb of ['serve', 'config', 'resolve ADDRESS', 'account add NAME', 'health'])
      assert.ok(out.includes(verb), verb);
  });

  it('--version is the version of package.json, in the bundle too', () => {
    const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
    assert.equal(slimsmtp(['--version']).out, `${version}\n`);
    const bundle = join(folder, 'slimsmtp.mjs');
    const build = ['run', '--silent', 'build', '--', `--outdir=${folder}`];
    assert.equal(spawnSync('npm', build, { cwd: root, encoding: 'utf8' }).stderr, '');
    assert.equal(spawnSync(process.execPath, [bundle, '--version'], { encoding: 'utf8' }).stdout, `${version}\n`);
  });

  it('is there as npx slimsmtp, in the folder of the sources', () => {
    const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
    const done = spawnSync('npx', ['--offline', 'slimsmtp', '--version'], { cwd: root, encoding: 'utf8' });
    assert.deepEqual([done.status, done.stdout], [0, `${version}\n`], done.stderr);
  });

  it('ends with 64 on a wrong call, and says what is wrong', () => {
    for (const words of [
      ['nonsense'],
      ['--nonsense'],
      ['resolve'],
      ['resolve', 'a@b', 'c@d'],
      ['account'],
      ['network'],
    ]) {
      const { status, out, complaint } = slimsmtp(words);
      assert.deepEqual([words, status, out], [words, 64, '']);
      assert.match(complaint, /^slimsmtp: \S/);
      assert.doesNotMatch(complaint, /\n\s+at /, 'a stack trace');
    }
  });

  it('ends with 69 where a verb needs the running server and there is none', () => {
    for (const words of [['health'], ['resolve', 'a@example.com']]) {
      const { status, complaint } = slimsmtp(words);
      assert.equal(status, 69, complaint);
      assert.match(complaint, /no server answers/);
    }
  });

  const wrong = { SLIM_DOMAINS: 'no domain!', SLIM_DRAINS: '1s', SLIM_MAX_SIZE: 'big' };
  it('ends with 78 on bad settings, all of them named', () => {
    for (const verb of ['config', 'health']) {
      const { status, complaint } = slimsmtp([verb], wrong);
      assert.equal(status, 78);
      assert.match(complaint, /SLIM_DOMAINS/);
      assert.match(complaint, /SLIM_DRAINS.*SLIM_DRAIN\b/);
      assert.match(complaint, /SLIM_MAX_SIZE/);
    }
  });

  it('serve tells bad settings in its log, in the format of the log', () => {
    const { status, out, complaint } = slimsmtp(['serve'], wrong);
    assert.deepEqual([status, complaint], [78, '']);
    const lines = out
      .trim()
      .split('\n')
      .map(line => JSON.parse(line) as { level: string; time: string; msg: string });
    assert.deepEqual(lines.map(({ level, msg }) => `${level} ${/^SLIM_\w+/.exec(msg)?.[0]}`).toSorted(), [
      'error SLIM_DOMAINS',
      'error SLIM_DRAINS',
      'error SLIM_MAX_SIZE',
    ]);
    assert.match(lines[0]?.time ?? '', /^\d{4}-\d\d-\d\dT/);
    const pretty = slimsmtp(['serve'], { ...wrong, SLIM_LOG_FORMAT: 'pretty' });
    assert.match(pretty.out, /^\[\d{4}-\d\d-\d\d .*\] ERROR: SLIM_/);
  });

  it('config prints every setting with its origin, secrets masked, and reads .env', () => {
    writeFileSync(join(folder, '.env'), 'SLIM_MAX_SIZE=7M\nSLIM_DOMAINS=hidden.example\n');
    writeFileSync(join(folder, 'drain'), '3s\n');
    const secrets = { DATABASE_URL: 'postgresql://me:s3cret@db/x', SLIM_DRAIN_FILE: join(folder, 'drain') };
    const { status, out } = slimsmtp(['config', '--json'], secrets);
    rmSync(join(folder, '.env'));
    assert.equal(status, 0);
    assert.doesNotMatch(out, /s3cret/);
    const rows = new Map(
      (JSON.parse(out) as { name: string; value: string; origin: string }[]).map(row => [row.name, row]),
    );
    // In octets, as it counts: SIZE in SLIM_SUPPORTS may set it too.
    assert.deepEqual([rows.get('SLIM_MAX_SIZE')?.value, rows.get('SLIM_MAX_SIZE')?.origin], ['7340032', '.env']);
    assert.equal(rows.get('SLIM_DOMAINS')?.value, 'example.com');
    assert.equal(rows.get('SLIM_DOMAINS')?.origin, 'environment');
    assert.equal(rows.get('SLIM_DRAIN')?.value, '3s');
    assert.equal(rows.get('SLIM_LOG_LEVEL')?.origin, 'default');
  });

  it('serve starts below a long path, says version and logins when it is ready, answers health, and stops', async () => {
    const SLIM_DATA = join(folder, 'd'.repeat(90), 'e'.repeat(90));
    const settings = { ...place('long'), SLIM_DATA, SLIM_USERS: 'bob:a,b:c' };
    const { child, ready } = await serve(settings);
    const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
    assert.equal(ready['version'], version);
    assert.deepEqual(ready['logins'], ['bob', 'b'], 'a password with a comma is two logins: it can be seen');
    const { status, out } = await slimsmtpAtLeisure(['health'], settings);
    assert.deepEqual([status, out.split(':')[0]], [0, 'healthy']);
    child.kill('SIGTERM');
    assert.deepEqual(await once(child, 'exit'), [0, null]);
  });

  it('serve says once what it has ignored, and what it cannot use', async () => {
    const links = { SLIM_SMTP_SERVICE_HOST: '10.0.0.7', SLIM_SMTP_PORT: 'tcp://10.0.0.7:25' };
    writeFileSync(join(folder, '.env'), 'NODE_EXTRA_CA_CERTS=./gone.pem\nOTHER=$x\n');
    const { child, said } = await serve({ ...place('told'), ...links }).finally(() => rmSync(join(folder, '.env')));
    const told = (start: string) => said.filter(({ msg }) => String(msg).startsWith(start));
    assert.equal(told('variables that Kubernetes sets').length, 1);
    assert.deepEqual(told('.env: docker compose would replace')[0]?.['variables'], ['OTHER']);
    assert.equal(told('NODE_EXTRA_CA_CERTS cannot be used')[0]?.['file'], join(folder, 'gone.pem'));
    child.kill('SIGTERM');
    await once(child, 'exit');
  });

  it('health is 1 while a root of mail cannot be written, names it and what mends it', async () => {
    const settings = place('unwritable');
    const { child } = await serve(settings);
    rmSync(settings.SLIM_MAIL_ROOT, { recursive: true });
    const { status, out } = await slimsmtpAtLeisure(['health'], settings);
    assert.equal(status, 1);
    assert.match(out, /^unhealthy: /);
    assert.match(
      out,
      new RegExp(`^SLIM_STORAGES: mail cannot be written to ${settings.SLIM_MAIL_ROOT}/default: it was there`, 'm'),
    );
    child.kill('SIGTERM');
    await once(child, 'exit');
  });

  it('queue hold and remove work without a server, also for a message that only the journal has; retry does not', async () => {
    const port = await freePort();
    const settings = {
      ...place('waiting'),
      SLIM_LISTEN: `smtp://127.0.0.1:${port}`,
      SLIM_TRUSTED_NETWORKS: '127.0.0.1/32',
      SLIM_RELAY_HOST: '127.0.0.1',
      SLIM_RELAY_PORT: String(await freePort()), // nobody is there
      SLIM_RELAY_TLS: 'none',
    };
    assert.equal((await slimsmtpAtLeisure(['queue', 'remove', '--all'], settings)).status, 69, 'nothing was kept yet');
    const { child } = await serve(settings);
    const [, id = ''] =
      /^250 .* (\w+)\r?\n?$/.exec(await deliver(port, ['x@other.example'], 'Subject: waits\r\n\r\n')) ?? [];
    assert.notEqual(id, '');
    child.kill('SIGKILL');
    await once(child, 'exit');
    assert.equal((await slimsmtpAtLeisure(['queue', 'retry', id], settings)).status, 69);
    for (const action of ['hold', 'release', 'hold']) {
      const { status, out, complaint } = await slimsmtpAtLeisure(['queue', action, id], settings);
      assert.deepEqual([status, out], [0, `${action}: 1 messages\n`], complaint);
      assert.match(complaint, /^slimsmtp: no server runs: this was done in its files$/m);
    }
    const again = await serve(settings);
    const listed = await slimsmtpAtLeisure(['queue', 'list'], settings);
    assert.match(listed.out, new RegExp(`^${id} .* held\\n +x@other\\.example: it is held$`, 'm'));
    again.child.kill('SIGTERM');
    await once(again.child, 'exit');
    assert.equal((await slimsmtpAtLeisure(['queue', 'remove', 'nobody'], settings)).status, 1);
    assert.equal((await slimsmtpAtLeisure(['queue', 'remove', '--all', '--json'], settings)).out, '{"messages":1}\n');
    assert.deepEqual(readdirSync(join(settings.SLIM_DATA, 'queue')), []);
    assert.ok(!existsSync(join(settings.SLIM_DATA, 'run', 'control')), 'the lock was given back');
  });

  it('serve that cannot listen ends with 69, and no message is blamed for that end', async () => {
    const silent = createServer().listen(0, '127.0.0.1');
    after(() => silent.close());
    await once(silent, 'listening');
    const taken = (silent.address() as AddressInfo).port;
    const port = await freePort();
    const settings = {
      ...place('taken'),
      SLIM_LISTEN: `smtp://127.0.0.1:${port}`,
      SLIM_TRUSTED_NETWORKS: '127.0.0.1/32',
      SLIM_RELAY_HOST: '127.0.0.1',
      SLIM_RELAY_PORT: String(taken), // it accepts and says nothing: the message is in flight
      SLIM_RELAY_TLS: 'none',
    };
    const { child } = await serve(settings);
    assert.match(await deliver(port, ['x@other.example'], 'Subject: waits\r\n\r\n'), /^250/);
    child.kill('SIGKILL'); // that one death counts
    await once(child, 'exit');
    for (let times = 0; times < 4; times += 1) {
      const { status, out } = await slimsmtpAtLeisure(['serve'], {
        ...settings,
        SLIM_LISTEN: `smtp://127.0.0.1:${taken}`,
      });
      assert.equal(status, 69);
      assert.match(out, /"level":"error".*cannot listen/);
    }
    assert.match(readFileSync(join(settings.SLIM_DATA, 'state', 'in-flight'), 'utf8').trim(), /^suspect 1 1 \w+$/);
  });

  it('dns prints a zone file in which all else is a comment, and exits with 0 only when all is ok', async () => {
    const data = join(folder, 'published');
    mkdirSync(join(data, 'run'), { recursive: true });
    const nobody = () => assert.fail('not asked for');
    const mx = { name: 'example.com.', type: 'MX', value: '10 mail.example.com.', status: 'ok', found: [] } as const;
    const texts = { name: 'example.com.', type: 'TXT', value: 'v=spf1 mx ~all', status: 'differs' } as const;
    async function* dns({ domain }: { domain?: string | undefined }) {
      yield { ...mx, zone: 'example.com. IN MX 10 mail.example.com.' };
      if (domain === undefined)
        yield { ...texts, zone: 'example.com. IN TXT "v=spf1 mx ~all"', found: ['v=spf1\n-all'], note: 'one\ntwo' };
    }
    async function* dkim() {
      const key = {
        domain: 'example.com',
        selector: 'r1',
        algorithm: 'rsa',
        state: 'new',
        signs: true,
        name: 'x',
      } as const;
      yield key;
      yield { ...key, selector: 'r2', signs: false };
    }
    async function* list() {}
    const handlers = {
      health: nobody,
      figures: nobody,
      resolve: nobody,
      auth: nobody,
      act: nobody,
      verify: nobody,
      list,
      dns,
      dkim,
    };
    const server = await openControl(join(data, 'run', 'control'), handlers);
    after(() => server.close());
    const settings = { SLIM_DATA: data };
    const all = await slimsmtpAtLeisure(['dns'], settings);
    assert.equal(all.status, 1);
    assert.equal(
      all.out,
      '; ok\nexample.com. IN MX 10 mail.example.com.\n\n' +
        '; differs: found "v=spf1\\n-all"\n; one\n; two\nexample.com. IN TXT "v=spf1 mx ~all"\n; on one line: v=spf1 mx ~all\n\n' +
        '; 1 ok, 1 differs\n',
    );
    const one = await slimsmtpAtLeisure(['dns', 'example.com', '--json'], settings);
    assert.deepEqual([one.status, JSON.parse(one.out).status], [0, 'ok']);
    assert.match((await slimsmtpAtLeisure(['dns', 'not a name'], settings)).complaint, /is not a domain name/);
    const keys = await slimsmtpAtLeisure(['dkim', 'list'], settings);
    assert.deepEqual([keys.status, keys.out], [0, 'example.com\tr1\trsa\tnew, signs\nexample.com\tr2\trsa\tnew\n']);
    assert.equal((await slimsmtpAtLeisure(['dkim', 'rotate'], settings)).status, 64);
    assert.equal((await slimsmtpAtLeisure(['dkim', 'burn'], settings)).status, 64);
  });

  it('queue show of a message that has left the queue says so; list of an empty queue is no failure', async () => {
    const data = join(folder, 'served');
    mkdirSync(join(data, 'run'), { recursive: true });
    const nobody = () => assert.fail('not asked for');
    async function* list() {}
    const handlers = {
      health: nobody,
      figures: nobody,
      resolve: nobody,
      auth: nobody,
      dkim: nobody,
      dns: nobody,
      act: nobody,
      list,
    };
    const server = await openControl(join(data, 'run', 'control'), handlers);
    after(() => server.close());
    const show = await slimsmtpAtLeisure(['queue', 'show', 'gone1'], { SLIM_DATA: data });
    assert.deepEqual([show.status, show.out], [1, '']);
    assert.match(
      show.complaint,
      /^slimsmtp: no message gone1 waits: it was delivered, or given up, or removed; the log/,
    );
    assert.deepEqual(await slimsmtpAtLeisure(['queue', 'list'], { SLIM_DATA: data }), {
      status: 0,
      out: 'nothing waits\n',
      complaint: '',
    });
  });
});
