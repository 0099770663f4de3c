// The image with settings of its own, without compose: other users, bad settings, certificates, memory, draining.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { after, before, describe, test } from 'node:test';
import { connect as connectTls } from 'node:tls';
import { promisify } from 'node:util';
import type { StartedTestContainer } from 'testcontainers';
import { createCertificate } from '../../src/tls/certificates.ts';
import { systemClock as clock, systemRandom as random } from '../../src/system/world.ts';
import { type Client, deliver, dial, eventually } from './client.ts';
import { docker, image, openStage } from './compose-lib.ts';

const stage = openStage(after);
const storages = { SLIM_STORAGES: 'default=/var/mail/default', SLIM_SUPPORTS: 'default' };

async function shell(container: StartedTestContainer, script: string): Promise<string> {
  return docker('exec', container.getId(), 'sh', '-c', script);
}

test('the image runs as user 1000 without any capability, and says why Unix accounts are not to be had', async () => {
  const environment = {
    ...storages,
    SLIM_DATA: '/data',
    SLIM_MAIL_ROOT: '/data/mail',
    SLIM_STORAGES: 'default=/data/mail/all',
  };
  const server = await stage.server({
    environment,
    prepare: it => {
      it.withUser('1000:1000').withTmpFs({ '/data': 'uid=1000,gid=1000,mode=700' });
      return it;
    },
  });
  assert.match(await deliver(server.getMappedPort(25), ['who@example.com'], 'Subject: 1000\r\n\r\n'), /^250/);
  assert.match(await shell(server, 'stat -c %u:%a /data/mail/all/new/*'), /^1000:600\n$/);
  const refused = await run({ SLIM_DOMAINS: 'example.com', SLIM_STORAGES: '@PAM' }, '--user', '1000');
  assert.equal(refused.status, 78);
  assert.match(refused.text, /@PAM.*root/);
});

/**
 * A volume that belongs to root, as one that a server started as root has used. Docker fills it from the image as long
 * as it is empty.
 */
async function rootsVolume(script: string): Promise<string> {
  const name = `slimsmtp-test-${process.pid}-${random.hex(4)}`;
  stage.own(() => docker('volume', 'rm', name));
  await docker('run', '--rm', '-v', `${name}:/volume`, '--entrypoint', 'sh', image, '-c', `cd /volume; ${script}`);
  return name;
}

test('a data volume of the wrong owner is refused with the chown that mends it', async () => {
  const used = await rootsVolume('mkdir -m 700 queue journal; chown 525:525 queue journal');
  const settings = { SLIM_DOMAINS: 'example.com', ...storages };
  const refused = await run(settings, '--user', '1000', '-v', `${used}:/var/lib/slimsmtp`);
  assert.equal(refused.status, 78);
  assert.match(refused.text, /SLIM_DATA cannot be written: .*chown -R 1000:0 \/var\/lib\/slimsmtp\/queue/);
  const roots = await rootsVolume('true');
  const unmade = await run(
    settings,
    '--user',
    '1000',
    '-v',
    `${roots}:/var/lib/slimsmtp/here`,
    '-e',
    'SLIM_DATA=/var/lib/slimsmtp/here',
  );
  assert.equal(unmade.status, 78);
  assert.match(unmade.text, /SLIM_DATA cannot be written: .*run chown 1000:0 \/var\/lib\/slimsmtp\/here/);
});

test('folders that cannot be made are named with their setting and the reason', async () => {
  const settings = { SLIM_DOMAINS: 'example.com', ...storages };
  for (const user of ['0', '1000']) {
    const readOnly = await run({ ...settings, SLIM_DATA: '/data' }, '--read-only', '--user', user);
    assert.equal(readOnly.status, 78);
    assert.match(
      readOnly.text,
      /SLIM_DATA cannot be (?:written|prepared): EROFS: read-only file system, mkdir '\/data/,
    );
    const file = await run({ ...settings, SLIM_DATA: '/etc/hostname' }, '--user', user);
    assert.equal(file.status, 78);
    assert.match(file.text, /SLIM_DATA.* (?:ENOTDIR: not a directory|\/etc\/hostname is not a directory)/);
  }
});

test('root without capabilities is refused, and what it lacks is named', async () => {
  const settings = { SLIM_DOMAINS: 'example.com', ...storages };
  const none = await run(settings, '--cap-drop', 'ALL');
  assert.equal(none.status, 78);
  assert.match(none.text, /it lacks CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_SETGID, CAP_SETUID; give it back \(cap_add\)/);
  const two = await run(settings, '--cap-drop', 'ALL', '--cap-add', 'SETUID', '--cap-add', 'SETGID');
  assert.equal(two.status, 78);
  assert.match(two.text, /SLIM_DATA cannot be prepared: EPERM.*: root lacks CAP_CHOWN, CAP_DAC_OVERRIDE/);
});

test('mail that cannot be stored is unhealthy, with advice that can be followed, and works without a restart', async () => {
  const mail = await rootsVolume('touch kept; chown 1234:1234 .; chmod 755 .');
  const server = await stage.server({
    environment: storages,
    prepare: it => it.withBindMounts([{ source: mail, target: '/var/mail' }]),
  });
  const send = () => deliver(server.getMappedPort(25), ['who@example.com'], 'Subject: x\r\n\r\n');
  assert.match(await send(), /^45[12] /);
  const health = () => server.exec(['slimsmtp', 'health']);
  const { exitCode, output } = await health();
  assert.equal(exitCode, 1, output);
  assert.match(output, /^unhealthy: .*"path":"\/var\/mail\/default"/);
  const [, command = ''] = /"command":"([^"]+)"/.exec(output) ?? [];
  assert.equal(command, 'mkdir -p /var/mail/default && chown 525:525 /var/mail/default');
  await docker('run', '--rm', '-v', `${mail}:/var/mail`, '--entrypoint', 'sh', image, '-c', command);
  await eventually('healthy again', async () => (await health()).exitCode === 0, 15_000);
  assert.match(await send(), /^250 /);
  const isSaid = async () => /mail can be written there again/.test(await docker('logs', server.getId()));
  await eventually('a line of the log', isSaid, 5000);
});

test('every wrong setting is reported in one go, with exit status 78 and without secrets', async () => {
  const { status, text } = await run({
    SLIM_DOMAIN: 'x',
    SLIM_MAX_SIZE: '50X',
    SLIM_ACCOUNTS: 'anton:s3cret,bad name',
  });
  assert.equal(status, 78);
  assert.match(text, /SLIM_DOMAIN\b.*SLIM_DOMAINS/);
  assert.match(text, /SLIM_DOMAINS/);
  assert.match(text, /SLIM_MAX_SIZE=\\?"50X/);
  assert.doesNotMatch(text, /s3cret/);
});

/** Runs the image to its end. */
async function run(
  environment: Record<string, string>,
  ...options: string[]
): Promise<{ status: number; text: string }> {
  const variables = Object.entries(environment).flatMap(([name, value]) => ['-e', `${name}=${value}`]);
  const done = await promisify(execFile)('docker', ['run', '--rm', ...variables, ...options, image], {
    timeout: 30_000,
  }).then(
    ({ stdout, stderr }) => ({ status: 0, text: stdout + stderr }),
    (error: { code: number; stdout: string; stderr: string }) => ({
      status: error.code,
      text: error.stdout + error.stderr,
    }),
  );
  return done;
}

test('a renewed certificate is taken up on SIGHUP, and a session goes on meanwhile', async () => {
  const server = await stage.server({
    environment: {
      ...storages,
      SLIM_TLS_CERT_FILE: '/home/tls/cert',
      SLIM_TLS_KEY_FILE: '/home/tls/key',
      SLIM_TLS_REQUIRE: 'all',
    },
  });
  const install = async (): Promise<void> => {
    const { cert, key } = await createCertificate({ hostname: 'mx.example.com', clock, random });
    const files = `cat > /home/tls/cert <<'E'\n${cert}\nE\numask 077; cat > /home/tls/key <<'E'\n${key}\nE\n`;
    // Root's alone: the network process cannot read it, the steward does.
    await shell(server, `mkdir -p -m 700 /home/tls; ${files}`);
    await docker('kill', '--signal', 'HUP', server.getId());
  };
  const peer = (): Promise<{ fingerprint: string; cn: string }> =>
    new Promise((resolve, reject) => {
      const socket = connectTls(
        { port: server.getMappedPort(465), host: '127.0.0.1', rejectUnauthorized: false },
        () => {
          const { fingerprint256, subject } = socket.getPeerCertificate();
          socket.destroy();
          resolve({ fingerprint: fingerprint256, cn: String(subject.CN) });
        },
      );
      socket.on('error', reject);
    });
  const selfSigned = await peer();
  assert.notEqual(selfSigned.cn, 'mx.example.com');
  const session = await dial(server.getMappedPort(25));
  assert.match(await session.say('MAIL FROM:<a@example.net>'), /^530 5\.7\.0/);
  await install();
  await eventually('the first pair', async () => (await peer()).cn === 'mx.example.com', 5000);
  const first = await peer();
  await install();
  await eventually('the renewed pair', async () => (await peer()).fingerprint !== first.fingerprint, 5000);
  assert.match(await session.say('NOOP'), /^250/);
  session.socket.destroy();
  assert.match(await shell(server, 'ls -ln /home/tls/key'), /^-rw------- 1 0 0 /);
});

describe('under load', () => {
  let server: StartedTestContainer;
  let port: number;
  before(async () => {
    // Of the server alone: signing and judging have memory of their own.
    const environment = { ...storages, SLIM_MAX_SIZE: '60M', SLIM_DKIM: 'off', SLIM_VERIFY: 'off' };
    server = await stage.server({ environment });
    port = server.getMappedPort(25);
    assert.match(await deliver(port, ['warm@example.com'], 'Subject: up\r\n\r\n'), /^250/);
  });
  /** Resident memory of the network process in kB: now, or its highest since the start. */
  const memory = async (what: 'VmRSS' | 'VmHWM'): Promise<number> => {
    const found = await shell(
      server,
      `grep -l 'Uid:.525' /proc/[0-9]*/status | while read f; do grep -q '^CapEff' $f && grep ${what} $f; done; true`,
    );
    return Math.max(...[...found.matchAll(/(\d+) kB/g)].map(([, kilobytes]) => Number(kilobytes)));
  };

  test('the server process takes at most 80 MB when idle', async () => {
    assert.ok((await memory('VmRSS')) <= 80_000, `${await memory('VmRSS')} kB`);
  });

  test('a message of 50 MB raises the peak by at most 20 MB', async () => {
    await deliver(port, ['warm@example.com'], `Subject: 1\r\n\r\n${'x'.repeat(1_000_000)}\r\n`);
    const initially = await memory('VmHWM');
    const big = Buffer.from(`Subject: big\r\n\r\n${`${'x'.repeat(998)}\r\n`.repeat(50_000)}`);
    assert.match(await deliver(port, ['warm@example.com', 'other@example.com'], big), /^250/);
    const more = (await memory('VmHWM')) - initially;
    assert.ok(more <= 20_000, `${more} kB more`);
  });

  test('2,000 idle sessions take under 30 kB each, and a working client is served', async () => {
    const initially = await memory('VmRSS');
    const clients: Client[] = [];
    for (let i = 0; i < 2000; i += 100) {
      clients.push(...(await Promise.all(Array.from({ length: 100 }, () => dial(port)))));
    }
    const each = ((await memory('VmRSS')) - initially) / clients.length;
    const start = Date.now();
    assert.match(await deliver(port, ['worker@example.com'], 'Subject: served\r\n\r\n'), /^250/);
    assert.ok(Date.now() - start < 1000);
    assert.ok(each < 30, `${each.toFixed(1)} kB a session`);
    for (const { socket } of clients) socket.destroy();
  });
});

test('SIGTERM lets an open transaction end, refuses new ones, and the container stops with status 0', async () => {
  const server = await stage.server({ environment: { ...storages, SLIM_DRAIN: '10s' } });
  const port = server.getMappedPort(25);
  const [working, idle] = [await dial(port), await dial(port)];
  for (const line of ['MAIL FROM:<a@example.net>', 'RCPT TO:<b@example.com>', 'DATA']) await working.say(line);
  working.send('Subject: drained\r\n\r\n');
  const stopped = docker('stop', '--time', '20', server.getId());
  assert.match(await idle.say(), /^421 4\.3\.2/);
  assert.match(await working.say('.'), /^250/);
  assert.match(await working.say(), /^421 4\.3\.2/);
  await stopped;
  assert.match(await docker('inspect', '-f', '{{.State.ExitCode}}', server.getId()), /^0\n$/);
});
