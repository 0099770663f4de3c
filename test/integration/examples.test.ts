// That each of examples/ works as far as it can be tried here: relay-only hands mail to a relay,
// and the settings of the Kubernetes manifest start the image as its pod would.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { promisify } from 'node:util';
import { createTransport } from 'nodemailer';
import { deliver, dial, eventually } from './client.ts';
import { docker, image, openStage, root } from './compose-lib.ts';

const stage = openStage(after);
const unique = (name: string): string => `slimsmtp-test-${name}-${randomBytes(4).toString('hex')}`;

/** `docker compose` with these files, under a project of its own that ends with the tests. */
async function startCompose(name: string, files: readonly string[], variables: Record<string, string>) {
  const project = unique(name);
  const options = { cwd: root, maxBuffer: 2 ** 26, env: { ...process.env, ...variables } };
  const words = ['compose', '--env-file', '/dev/null', ...files.flatMap(file => ['-f', file]), '-p', project];
  const compose = async (...parameters: string[]): Promise<string> =>
    (await promisify(execFile)('docker', [...words, ...parameters], options)).stdout;
  stage.own(() => compose('down', '--volumes', '--timeout', '1'));
  await compose('up', '--detach', '--build', '--wait').catch(async (error: Error) => {
    throw new Error(`${error.message}\n${await compose('logs')}`);
  });
  return { compose, project };
}

const portOf = (shown: string): number => Number(shown.trim().split('\n')[0]?.split(':').at(-1));

test('relay-only: an application logs in, and its mail is with the relay', async () => {
  const relayed = ['-e', 'SLIM_DOMAINS=example.org', '-e', 'SLIM_STORAGES=default=/var/mail/default'];
  const { compose, project } = await startCompose('relay', ['examples/relay-only/compose.yaml'], {
    SLIM_RELAY_HOST: 'relay.test',
    SLIM_RELAY_TLS: 'none',
    PORT_SUBMISSION: '127.0.0.1:',
  });
  const network = ['--network', `${project}_default`, '--network-alias', 'relay.test'];
  const relay = (await docker('run', '--detach', '--rm', ...network, ...relayed, image)).trim();
  stage.own(() => docker('rm', '--force', '--volumes', relay));
  // Else the first attempt comes too early, and the next one a minute later.
  await eventually('the relay listens', async () => (await docker('logs', relay)).includes('"msg":"ready"'), 20_000);
  const password = (await compose('exec', '-T', 'slimsmtp', 'slimsmtp', 'password', '--show', 'app')).trim();
  const port = portOf(await compose('port', 'slimsmtp', '587'));

  const tls = { rejectUnauthorized: false };
  const application = createTransport({
    host: '127.0.0.1',
    port,
    requireTLS: true,
    tls,
    auth: { user: 'app', pass: password },
  });
  await application.sendMail({ from: 'shop@example.com', to: 'anyone@example.org', subject: 'invoice', text: 'hello' });
  const isThere = async (): Promise<boolean> =>
    (await docker('exec', relay, 'sh', '-c', 'cat /var/mail/default/new/* 2>&1 || true')).includes('Subject: invoice');
  await eventually('the relay has it', isThere, 20_000);

  const client = await dial(port);
  assert.match(await client.say('MAIL FROM:<shop@example.com>'), /^530 5\.7\.0/);
});

test('kubernetes: the settings of the manifest start the image as a plain user on a read-only root', async () => {
  const manifest = readFileSync(`${root}examples/kubernetes/slimsmtp.yaml`, 'utf8');
  const settings = [...manifest.matchAll(/- \{ name: (SLIM_\w+), value: '?(.*?)'? \}/g)]
    .map(([, name = '', value = '']) => ({ name, value }))
    .filter(({ name }) => !name.startsWith('SLIM_TLS_'));
  assert.ok(settings.length >= 5);
  const [, uid, gid, group] =
    /runAsUser: (\d+), runAsGroup: (\d+), fsGroup: (\d+)/.exec(manifest) ?? assert.fail('securityContext');
  const mounts = [...manifest.matchAll(/- \{ name: (mail|data), mountPath: (\S+) \}/g)];
  assert.equal(mounts.length, 2);

  const volumes: string[] = [];
  for (const [, name = '', path = ''] of mounts) {
    const volume = unique(name);
    await docker('volume', 'create', volume);
    stage.own(() => docker('volume', 'rm', volume));
    // What fsGroup makes of a new, empty volume; nocopy, because no cluster copies the contents of the image into it.
    const prepare = `chown 0:${group} /new && chmod 2775 /new`;
    await docker('run', '--rm', '--user', '0', '--entrypoint', 'sh', '-v', `${volume}:/new`, image, '-c', prepare);
    volumes.push('-v', `${volume}:${path}:nocopy`);
  }
  const hardened = ['--user', `${uid}:${gid}`, '--group-add', `${group}`, '--cap-drop', 'ALL', '--read-only'];
  const environment = settings.flatMap(({ name, value }) => ['-e', `${name}=${value}`]);
  const rest = ['--security-opt', 'no-new-privileges', '-p', '127.0.0.1::2525', ...volumes, ...environment, image];
  const pod = (await docker('run', '--detach', ...hardened, ...rest)).trim();
  stage.own(() => docker('rm', '--force', '--volumes', pod));

  const [, probe = ''] = /readinessProbe: \{ exec: \{ command: \[(.*?)\]/.exec(manifest) ?? [];
  const isReady = (): Promise<boolean> =>
    docker('exec', pod, ...probe.split(', ')).then(
      () => true,
      () => false,
    );
  await eventually('ready', isReady, 20_000).catch(async (error: Error) => {
    throw new Error(`${error.message}\n${await docker('logs', pod)}`);
  });
  const port = portOf(await docker('port', pod, '2525'));
  assert.match(await deliver(port, ['anton@example.com'], 'Subject: in a pod\r\n\r\n'), /^250/);
  assert.match(await docker('exec', pod, 'sh', '-c', 'cat /var/mail/anton/new/*'), /Subject: in a pod/);
});

test('kubernetes: two pods of the manifest for replicas share one queue, their keys and their database', async () => {
  const manifest = readFileSync(`${root}examples/kubernetes/replicas.yaml`, 'utf8');
  const settings = [...manifest.matchAll(/^ +- \{ name: (\w+), value: '?(.*?)'? \}/gm)]
    .map(([, name = '', value = '']) => `${name}=${value}`)
    .filter(setting => !setting.startsWith('SLIM_TLS_'));
  assert.ok(settings.length >= 8 && settings.includes('SLIM_QUEUE=@POSTGRESQL'), settings.join('\n'));
  const [, uid, group] =
    /runAsUser: (\d+), runAsGroup: \d+, fsGroup: (\d+)/.exec(manifest) ?? assert.fail('securityContext');
  const [, key = '', path = ''] = /items: \[\{ key: (\S+), path: (\S+) \}\]/.exec(manifest) ?? assert.fail('items');
  assert.equal(key, path.split('/')[1]);

  const network = await stage.network();
  const { environment } = await stage.postgres(network);
  const folder = mkdtempSync(join(tmpdir(), 'slimsmtp-replicas-'));
  stage.own(async () => rmSync(folder, { recursive: true }));
  mkdirSync(join(folder, 'dkim', dirname(path)), { recursive: true });
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  writeFileSync(join(folder, 'dkim', path), privateKey.export({ type: 'pkcs8', format: 'pem' }));
  mkdirSync(join(folder, 'secrets'));
  const { PGUSER = '', PGPASSWORD = '', PGHOST = '', PGDATABASE = '' } = environment;
  writeFileSync(
    join(folder, 'secrets', 'url'),
    `postgres://${PGUSER}:${PGPASSWORD}@gone.invalid,${PGHOST}/${PGDATABASE}\n`,
  );
  writeFileSync(join(folder, 'secrets', 'secret'), 'a secret of all replicas\n');

  const volume = unique('mail');
  await docker('volume', 'create', volume);
  stage.own(() => docker('volume', 'rm', volume));
  // What fsGroup makes of a volume, and of an emptyDir.
  const prepare = `chown 0:${group} /new && chmod 2775 /new`;
  await docker('run', '--rm', '--user', '0', '--entrypoint', 'sh', '-v', `${volume}:/new`, image, '-c', prepare);
  const hardened = [
    '--user',
    `${uid}:${group}`,
    '--cap-drop',
    'ALL',
    '--read-only',
    '--security-opt',
    'no-new-privileges',
  ];
  const mounts = ['-v', `${volume}:/var/mail:nocopy`, '--tmpfs', `/var/lib/slimsmtp:gid=${group},mode=2777,size=512m`];
  const secrets = ['-v', `${folder}/dkim:/dkim:ro`, '-v', `${folder}/secrets:/secrets:ro`];
  const place = ['--network', network.getName(), '-p', '127.0.0.1::2525'];
  const own = ['-e', 'SLIM_TRUSTED_NETWORKS=127.0.0.0/8', ...settings.flatMap(setting => ['-e', setting])];
  const pods: string[] = [];
  for (let count = 0; count < 2; count += 1) {
    pods.push((await docker('run', '--detach', ...hardened, ...mounts, ...secrets, ...place, ...own, image)).trim());
    stage.own(() => docker('rm', '--force', '--volumes', pods[count] ?? ''));
  }
  for (const pod of pods)
    await eventually('ready', async () => (await docker('logs', pod)).includes('"msg":"ready"'), 30_000).catch(
      async (error: Error) => {
        throw new Error(`${error.message}\n${await docker('logs', pod)}`);
      },
    );
  const [first = '', second = ''] = pods;
  for (const pod of pods) assert.match(await docker('exec', pod, 'slimsmtp', 'dkim', 'list'), /r1/);
  // From within the first pod, whose loopback is trusted: the second one knows what became of it.
  const say = `exec 3<>/dev/tcp/127.0.0.1/2525; printf 'EHLO x\\r\\nMAIL FROM:<a@example.com>\\r\\nRCPT TO:<b@elsewhere.test>\\r\\nDATA\\r\\n' >&3
    sleep 1; printf 'From: a@example.com\\r\\n\\r\\nhello\\r\\n.\\r\\nQUIT\\r\\n' >&3; cat <&3`;
  assert.match(await docker('exec', first, 'bash', '-c', say), /^250 2\.0\.0 /m);
  const traced = (): Promise<string> => docker('exec', second, 'slimsmtp', 'trace', 'b@elsewhere.test').catch(String);
  await eventually('the other pod tells of it', async () => (await traced()).includes('a@example.com'), 20_000);
  // Whatever is in neither table nor settings goes to the catch-all, on the volume of both.
  const port = portOf(await docker('port', second, '2525'));
  assert.match(await deliver(port, ['postmaster@example.com'], 'Subject: to both\r\n\r\n'), /^250/);
  assert.match(await docker('exec', first, 'sh', '-c', 'cat /var/mail/*/new/*'), /Subject: to both/);
});
