// The command line as a person or a script meets it: real processes, their output and exit statuses.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { after, describe, it } from 'node:test';
import { openControl } from '../../src/control/server.ts';

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
    const build = ['run', '--silent', 'build', '--', `--outfile=${bundle}`];
    assert.equal(spawnSync('npm', build, { cwd: root, encoding: 'utf8' }).stderr, '');
    assert.equal(spawnSync(process.execPath, [bundle, '--version'], { encoding: 'utf8' }).stdout, `${version}\n`);
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
    const settings = {
      SLIM_DATA,
      SLIM_MAIL_ROOT: join(folder, 'mail'),
      SLIM_STORAGES: `default=${join(folder, 'mail', 'default')}`,
      SLIM_LISTEN: 'smtp://127.0.0.1:0',
      SLIM_USERS: 'bob:a,b:c',
    };
    const child = spawn(process.execPath, [join(root, 'src/cli.ts'), 'serve'], {
      cwd: folder,
      env: { PATH: process.env['PATH'], ...environment, ...settings },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    after(() => child.kill('SIGKILL'));
    const lines: Record<string, unknown>[] = [];
    for await (const line of createInterface(child.stdout)) {
      lines.push(JSON.parse(line));
      if (lines.at(-1)?.['msg'] === 'ready') break;
    }
    const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
    assert.equal(lines.at(-1)?.['version'], version);
    assert.deepEqual(lines.at(-1)?.['logins'], ['bob', 'b'], 'a password with a comma is two logins: it can be seen');
    const { status, out } = await slimsmtpAtLeisure(['health'], settings);
    assert.deepEqual([status, out.split(':')[0]], [0, 'healthy']);
    child.kill('SIGTERM');
    assert.deepEqual(await once(child, 'exit'), [0, null]);
  });

  it('queue show of a message that has left the queue says so; list of an empty queue is no failure', async () => {
    const data = join(folder, 'served');
    mkdirSync(join(data, 'run'), { recursive: true });
    const nobody = () => assert.fail('not asked for');
    async function* list() {}
    const handlers = { health: nobody, resolve: nobody, auth: nobody, act: nobody, list };
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
