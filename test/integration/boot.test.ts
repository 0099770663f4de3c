// What root does at the start, for real and without a container: what it lacks or must not trust is said, with exit
// status 78. The server comes up as root in test/integration/image.test.ts and compose.test.ts.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { chmodSync, chownSync, lstatSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, describe, it } from 'node:test';

const isRoot = process.getuid?.() === 0;
const folder = mkdtempSync(join(tmpdir(), 'slim-boot-'));
after(() => rmSync(folder, { recursive: true }));
chmodSync(folder, 0o755);
const nobody = 65534;

/** Starts the server as root without some capabilities, to its end; the exit status and what it said. */
async function start(data: string, without: string, settings: Record<string, string> = {}) {
  const script = join(import.meta.dirname, '../../src/cli.ts');
  const words = without === '' ? [] : [`--bounding-set=${without}`];
  const child = spawn('setpriv', [...words, process.execPath, script, 'serve'], {
    cwd: '/',
    env: {
      PATH: process.env['PATH'],
      SLIM_RUN_AS: 'nobody',
      SLIM_DOMAINS: 'example.com',
      SLIM_DATA: data,
      SLIM_MAIL_ROOT: join(folder, 'mail'),
      SLIM_STORAGES: `default=${join(folder, 'mail/default')}`,
      SLIM_LISTEN: 'smtp://127.0.0.1:2599',
      ...settings,
    },
    stdio: ['ignore', 'pipe', 'inherit'],
    timeout: 30_000,
  });
  const status = new Promise(resolve => void child.once('close', resolve));
  return { said: await text(child.stdout), status: await status };
}

describe('root at the start', { skip: isRoot ? false : 'needs root', concurrency: 2 }, () => {
  it('names the capabilities that it lacks', async () => {
    const all = await start(join(folder, 'a'), '-all');
    assert.match(all.said, /nobody: it lacks CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_SETGID, CAP_SETUID; give it back/);
    assert.equal(all.status, 78);
    const chown = await start(join(folder, 'b'), '-chown');
    assert.match(chown.said, /SLIM_DATA cannot be prepared: EPERM: .*: root lacks CAP_CHOWN; give it back/);
    assert.equal(chown.status, 78);
  });

  it('names the capability for a low port', async () => {
    // Where everyone may open low ports, as in a container of Docker's, there is nothing to lack.
    const bind = await start(join(folder, 'c'), '-net_bind_service', { SLIM_LISTEN: 'smtp://127.0.0.1:7' });
    assert.match(bind.said, /EACCES: permission denied 127\.0\.0\.1:7: root lacks CAP_NET_BIND_SERVICE/);
    assert.equal(bind.status, 78);
  });

  it('gives nothing away below a folder of another user, whatever that user has put there', async () => {
    const [own, treasure] = [join(folder, 'own'), join(folder, 'treasure')];
    for (const path of [own, treasure]) mkdirSync(path);
    chownSync(own, nobody, nobody);
    symlinkSync(treasure, join(own, 'data'));
    const { said, status } = await start(join(own, 'data'), '');
    assert.match(
      said,
      /SLIM_DATA=.* cannot be used with SLIM_RUN_AS: .*own belongs to uid 65534 \(run chown root:root /,
    );
    assert.equal(status, 78);
    assert.equal(lstatSync(treasure).uid, 0);
  });
});
