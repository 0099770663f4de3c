// The image and the compose file by themselves: what a user can rely on before any mail is sent.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { Wait, type StartedTestContainer } from 'testcontainers';
import { deliver } from './client.ts';
import { docker, image, openStage, root } from './compose-lib.ts';

const stage = openStage(after);
let container: StartedTestContainer;
before(async () => {
  container = await stage.server({
    prepare: it => it.withEntrypoint(['sleep', 'infinity']).withWaitStrategy(Wait.forSuccessfulCommand('true')),
  });
});

async function shell(script: string): Promise<string> {
  const { exitCode, output } = await container.exec(['sh', '-c', script]);
  assert.equal(exitCode, 0, output);
  return output.trim();
}

const inspect = async (name: string) => JSON.parse(await docker('image', 'inspect', name))[0];

test('the image is at most 45 MB larger than its base', async () => {
  const more = (await inspect(image)).Size - (await inspect('node:24-trixie-slim')).Size;
  assert.ok(more > 0 && more <= 45_000_000, `${more} octets`);
});

test('the image says what it is, where it listens and how it is asked and stopped', async () => {
  const { Config: config } = await inspect(image);
  const { version } = JSON.parse(readFileSync(`${root}package.json`, 'utf8'));
  assert.deepEqual(Object.keys(config.ExposedPorts).toSorted(), ['25/tcp', '465/tcp', '587/tcp']);
  assert.deepEqual(Object.keys(config.Volumes).toSorted(), ['/home', '/var/lib/slimsmtp', '/var/mail']);
  assert.deepEqual([config.User, config.StopSignal], ['', 'SIGTERM']);
  assert.deepEqual([...config.Entrypoint, ...config.Cmd], ['slimsmtp', 'serve']);
  assert.deepEqual(config.Healthcheck.Test, ['CMD', 'slimsmtp', 'health']);
  assert.equal(config.Labels['org.opencontainers.image.title'], 'SlimSMTP');
  assert.equal(config.Labels['org.opencontainers.image.version'], version);
  for (const setting of ['SLIM_RUN_AS=slim', 'UV_THREADPOOL_SIZE=16', 'NODE_ENV=production'])
    assert.ok(config.Env.includes(setting), setting);
});

test("a new volume is for everyone, so that the server may run as any user; the accounts are root's", async () => {
  const volumes = ['/var/lib/slimsmtp', '/var/mail', '/home'];
  assert.equal(
    await shell(`stat -c '%n %U:%G %a' ${volumes.join(' ')} /var/lib/slimsmtp/*`),
    [
      '/var/lib/slimsmtp root:root 1777',
      '/var/mail slim:slim 1777',
      '/home root:root 755',
      '/var/lib/slimsmtp/accounts root:root 755',
    ].join('\n'),
  );
  for (const volume of volumes) await shell(`grep -q ' ${volume} ' /proc/mounts`);
});

const ownersAndModes = `stat -c '%n %u:%g %a' /var/lib/slimsmtp /var/lib/slimsmtp/* /var/mail /var/mail/default`;
const dataFolders = ['acme', 'dkim', 'history', 'journal', 'queue', 'run', 'spool', 'state', 'tls'];

test("started as root on new volumes, SLIM_DATA is root's and its folders are slim's alone", async () => {
  const server = await stage.server();
  assert.equal(
    await docker('exec', server.getId(), 'sh', '-c', ownersAndModes),
    [
      '/var/lib/slimsmtp 0:0 755',
      '/var/lib/slimsmtp/accounts 0:0 755',
      ...dataFolders.map(name => `/var/lib/slimsmtp/${name} 525:525 700`),
      '/var/mail 525:525 755',
      '/var/mail/default 525:525 700',
      '',
    ].join('\n'),
  );
});

for (const user of ['525', '1000'])
  test(`started as user ${user} on new volumes it is healthy, and its folders are its alone`, async () => {
    const volumes = ['data', 'mail'].map(name => `slimsmtp-test-${user}-${name}-${process.pid}`);
    stage.own(() => docker('volume', 'rm', ...volumes));
    const server = await stage.server({
      prepare: it => {
        const [data = '', mail = ''] = volumes;
        it.withUser(`${user}:${user}`).withBindMounts([
          { source: data, target: '/var/lib/slimsmtp' },
          { source: mail, target: '/var/mail' },
        ]);
        return it;
      },
    });
    assert.match(await deliver(server.getMappedPort(25), ['who@example.com'], 'Subject: x\r\n\r\n'), /^250/);
    const { exitCode, output } = await server.exec(['slimsmtp', 'health']);
    assert.equal(exitCode, 0, output);
    const listing = (await docker('exec', server.getId(), 'sh', '-c', ownersAndModes)).split('\n');
    for (const name of dataFolders)
      assert.ok(listing.includes(`/var/lib/slimsmtp/${name} ${user}:${user} 700`), listing.join('\n'));
    assert.ok(listing.includes(`/var/mail/default ${user}:${user} 700`), listing.join('\n'));
  });

test('slim has its fixed numbers and no shell, and the uid of the first account is free', async () => {
  assert.equal(await shell('getent passwd slim'), 'slim:x:525:525::/nonexistent:/usr/sbin/nologin');
  assert.equal(await shell('getent passwd node 1000 || echo none'), 'none');
});

test('the root file system is read-only, and the server runs from it under the hardening flags', async () => {
  assert.match(await shell('touch /etc/x /usr/local/bin/x 2>&1 || true'), /Read-only.*\n.*Read-only/);
  assert.match(
    await shell('cat "$(command -v slimsmtp)"'),
    /--disallow-code-generation-from-strings --disable-proto=delete/,
  );
});

test('PAM lets in accounts of the volume by their password, until they expire', async () => {
  const authenticate = `require("/usr/local/lib/slimsmtp/node_modules/authenticate-pam").authenticate(
    process.argv[1], process.argv[2], error => console.log(error ? "refused" : "accepted"), { serviceName: "slimsmtp", remoteHost: "" })`;
  const as = (name: string, password: string) => shell(`node -e '${authenticate}' ${name} ${password}`);
  // yescrypt is what Debian makes by default, SHA-512 what older systems made; days are counted from 1970.
  const hash = (salt: string) => `$(perl -e 'print crypt("correct", q(${salt}))')`;
  const [yescrypt, sha512] = [hash('$y$j9T$saltsaltsalt'), hash('$6$saltsalt$')];
  await shell(`umask 022; cd /var/lib/slimsmtp/accounts
    for entry in anton:2001 berta:2002 former:2003 locked:2004; do
      echo "\${entry%:*}:x:\${entry#*:}:\${entry#*:}::/home/\${entry%:*}:/bin/sh" >>passwd
      echo "\${entry%:*}:x:\${entry#*:}:" >>group
    done
    umask 077
    printf '%s\\n' "anton:${yescrypt}:19000:0:99999:7:::" "berta:${sha512}:19000:0:99999:7::99999:" \\
      "former:${yescrypt}:19000:0:99999:7::19001:" "locked:!${yescrypt}:19000:0:99999:7:::" >shadow`);
  assert.equal(await shell('id anton'), 'uid=2001(anton) gid=2001(anton) groups=2001(anton)');
  const answers = await Promise.all([as('anton', 'correct'), as('berta', 'correct'), as('anton', 'wrong')]);
  assert.deepEqual(answers, ['accepted', 'accepted', 'refused']);
  const refused = await Promise.all([
    as('former', 'correct'),
    as('locked', 'correct'),
    as('nobody', 'correct'),
    as('root', 'correct'),
  ]);
  assert.deepEqual(refused, Array(4).fill('refused'));
});

test('docker run is all it takes: Node is the first process, healthy, and ends well on SIGTERM', async () => {
  const server = await stage.server();
  const { output } = await server.exec(['cat', '/proc/1/cmdline']);
  assert.match(output, /^\/usr\/local\/bin\/node\0--disallow-code-generation-from-strings\0--disable-proto=delete\0/);
  const began = performance.now();
  await docker('stop', '--time', '10', server.getId());
  assert.ok(performance.now() - began < 5000);
  assert.equal((await docker('inspect', '--format', '{{.State.ExitCode}}', server.getId())).trim(), '0');
});

test('compose.yaml has two hardened services, and only ours is published, on loopback', async () => {
  const { services } = JSON.parse(await docker('compose', '--env-file', '/dev/null', 'config', '--format', 'json'));
  assert.deepEqual(Object.keys(services).toSorted(), ['postgres', 'slimsmtp']);
  for (const { read_only, cap_drop, security_opt } of Object.values<Record<string, unknown>>(services))
    assert.deepEqual([read_only, cap_drop, security_opt], [true, ['ALL'], ['no-new-privileges:true']]);
  assert.equal(services.postgres.ports, undefined);
  assert.deepEqual(
    services.slimsmtp.ports.map((it: Record<string, unknown>) => `${it['host_ip']}:${it['published']}:${it['target']}`),
    ['127.0.0.1:2525:25', '127.0.0.1:2587:587', '127.0.0.1:2465:465'],
  );
});
