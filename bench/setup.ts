// The place where all is measured: a file system of its own, a Debian root for each Debian server (they conflict), npm
// servers, our bundle.
// Promises: the machine's own system is left alone, but for debootstrap; closePlace() unmounts, and deletes all unless
// BENCH_DIR names a folder to keep. Never measures on what happens to be there: on an ext4 without a journal each
// create costs a millisecond once some thousand files were deleted, which punishes every server that keeps a queue.
// Direct I/O, so that an fsync reaches the disk below and no second page cache hides it.
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { run } from './processes.ts';

const project = new URL('..', import.meta.url).pathname;
const imageSize = '16G';
export const npmPeers = { 'smtp-server': '3.21.6', Haraka: '3.3.4' };
/** Whose the Maildirs are; nobody's account. */
export const owner = 5000;

const undo: (() => void)[] = [];

/** All must have ended: see endAll(). */
export function closePlace(): void {
  while (undo.length > 0) undo.pop()!();
}

export type Place = Awaited<ReturnType<typeof openPlace>>;

export async function openPlace(say: (text: string) => void) {
  if (process.getuid?.() !== 0)
    throw new Error('The benchmark mounts a file system and makes Debian roots: it needs root.');
  const kept = process.env.BENCH_DIR;
  const folder = kept ?? mkdtempSync('/var/tmp/slimsmtp-bench-');
  rmSync(join(folder, 'logs'), { recursive: true, force: true });
  mkdirSync(join(folder, 'logs'), { recursive: true });
  chmodSync(folder, 0o755);
  const mount = join(folder, 'mount');
  say(`Everything goes to ${folder}.`);
  if (!kept) undo.push(() => rmSync(folder, { recursive: true, force: true }));

  const place = {
    folder,
    mount,
    node: join(folder, 'node'),
    bundle: join(folder, 'slimsmtp.mjs'),
    certificate: join(folder, 'certificate.pem'),
    modules: join(folder, 'npm', 'node_modules'),
    log: (name: string) => join(folder, 'logs', `${name}.log`),

    /** A Debian system with these packages, in which nothing has been started. */
    async root(name: string, ...packages: string[]): Promise<string> {
      const root = join(mount, 'roots', name);
      if (existsSync(join(root, 'ready'))) return root;
      await debianBase();
      say(`Installing ${packages.join(', ')} into a root of its own.`);
      rmSync(root, { recursive: true, force: true });
      mkdirSync(join(mount, 'roots'), { recursive: true });
      await run(['cp', '-a', base, root]);
      writeFileSync(join(root, 'usr/sbin/policy-rc.d'), '#!/bin/sh\nexit 101\n', { mode: 0o755 });
      const inside = [
        'unshare',
        '--mount',
        '--pid',
        '--fork',
        '--kill-child',
        `--mount-proc=${root}/proc`,
        'chroot',
        root,
      ];
      const env = { DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C' };
      const noQuestion = 'postfix postfix/main_mailer_type select No configuration\n';
      await run([...inside, 'debconf-set-selections'], { env, input: noQuestion });
      await run([...inside, 'apt-get', 'update', '-qq'], { env });
      await run([...inside, 'apt-get', 'install', '-qq', '--no-install-recommends', ...packages], { env });
      await run([...inside, 'useradd', '-u', `${owner}`, '-U', '-M', '-d', '/srv/mail', 'vmail'], { env });
      writeFileSync(join(root, 'ready'), '');
      return root;
    },

    /** The servers from npm, once. */
    async npm(): Promise<void> {
      if (existsSync(join(place.modules, 'Haraka')) && existsSync(join(place.modules, 'smtp-server'))) return;
      say('Installing the servers from npm.');
      const wanted = Object.entries(npmPeers).map(([name, version]) => `${name}@${version}`);
      const options = ['--prefix', join(folder, 'npm'), '--no-audit', '--no-fund', '--loglevel=error'];
      await run(['npm', 'install', ...options, ...wanted]);
    },
  };

  const base = join(folder, 'base');
  async function debianBase(): Promise<void> {
    if (existsSync(join(base, 'etc/debian_version'))) return;
    say('Making a minimal Debian.');
    if (!existsSync('/usr/sbin/debootstrap'))
      await run(['apt-get', 'install', '-qq', '--no-install-recommends', 'debootstrap']);
    const suite = /^VERSION_CODENAME=(\w+)/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? '';
    const own = ['Created-By: Packages', 'Origin: Debian', `Codename: ${suite}`];
    const [mirror = ''] = (await run(['apt-get', 'indextargets', '--format', '$(SITE)', ...own])).split('\n');
    const part = `${base}.part`;
    rmSync(part, { recursive: true, force: true });
    await run(['debootstrap', '--variant=minbase', suite, part, mirror]);
    renameSync(part, base);
  }

  async function mountFileSystem(): Promise<void> {
    const image = join(folder, 'disk.img');
    mkdirSync(mount, { recursive: true });
    // Left mounted by a run that was killed.
    if ((await run(['findmnt', '-n', mount]).catch(() => '')) === '') {
      if (!existsSync(image)) {
        say(`Making a file system of ${imageSize}.`);
        await run(['fallocate', '-l', imageSize, `${image}.part`]);
        // All its tables now: nothing initialises them behind a measurement. Many inodes: a queue of a million has two
        // million files.
        const options = 'lazy_itable_init=0,lazy_journal_init=0';
        await run(['mkfs.ext4', '-q', '-i', '4096', '-O', 'has_journal', '-E', options, `${image}.part`]);
        renameSync(`${image}.part`, image);
      }
      await run(['mount', '-o', 'loop', image, mount]);
    }
    undo.push(() => spawnSync('umount', [mount], { stdio: 'inherit' }));
    const device = (await run(['findmnt', '-n', '-o', 'SOURCE', mount])).trim();
    await run(['losetup', '--direct-io=on', device]);
  }

  await mountFileSystem();
  copyFileSync(process.execPath, place.node);
  await run(['npm', 'run', 'build', '--', `--outdir=${dirname(place.bundle)}`], { cwd: project });
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj', '/CN=mx.bench.test'];
  const pair = ['-keyout', place.certificate, '-out', `${place.certificate}.crt`];
  await run(['openssl', 'req', '-x509', ...key, '-days', '3650', ...pair]);
  await run(['sh', '-c', 'cat "$1.crt" >> "$1"; chmod 644 "$1"', 'sh', place.certificate]);
  return place;
}
