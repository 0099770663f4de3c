// The Unix accounts that the server keeps itself: passwd, group, shadow in SLIM_DATA/accounts, for libnss-extrausers.
// Promises: each file is replaced whole, by one writer at a time. A new account never gets a uid that another account,
// or a home that was left, has already. Passwords go to crypt(3) alone, by standard input, and are kept as yescrypt
// hashes.
// Never touches /etc, nor an account that is kept elsewhere. See passwd(5), shadow(5).
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { syncNow } from '../durable/sync.ts';
import { replaceFileSync } from '../durable/replace.ts';
import { whyNotRoots } from '../system/parents.ts';
import type { Clock, Random } from '../system/world.ts';
import { getent } from './nss.ts';

/** `folder` is SLIM_DATA/accounts; homes are made in `homes`. */
type AccountFiles = Readonly<{ folder: string; homes: string; clock: Clock; random: Random }>;
type Wanted = Readonly<{ name: string; password?: string | undefined }>;
type KeptAccount = Readonly<{ name: string; uid: number; home: string; locked: boolean }>;
/** The lines of each file, by name. */
type Tables = Record<'passwd' | 'group' | 'shadow', Map<string, string>>;

/**
 * The account that PAM is asked for in place of a name that nobody has. Its uid keeps it from being an account for
 * mail.
 */
export const decoy = 'slimsmtp-decoy';

/** Makes the decoy where it is missing, with a password that nobody knows. */
export async function ensureDecoy(files: AccountFiles): Promise<void> {
  if (read(files.folder).passwd.has(decoy)) return;
  const secret = shadowLine(files, decoy, files.random.hex(32));
  await change(files, async ({ passwd, shadow }) => {
    passwd.set(decoy, `${decoy}:x:60999:65534::/nonexistent:/usr/sbin/nologin`);
    shadow.set(decoy, secret);
  });
}

/** The accounts kept here. */
export function listAccounts({ folder }: AccountFiles): readonly KeptAccount[] {
  const { passwd, shadow } = read(folder);
  passwd.delete(decoy);
  return [...passwd].map(([name, line]) => {
    const [, , uid, , , home = ''] = line.split(':');
    return { name, uid: Number(uid), home, locked: !shadow.get(name)?.startsWith(`${name}:$`) };
  });
}

/** Makes an account and its home (0700); without a password it is locked. Throws when the name is taken or unfit. */
export async function addAccount(files: AccountFiles, name: string, password?: string): Promise<KeptAccount> {
  if (!/^[a-z_][a-z0-9_-]{0,31}$/.test(name))
    throw new Error(`"${name}" cannot name an account: a-z, 0-9, _ and - are wanted, 32 at most, a letter first`);
  const secret = shadowLine(files, name, password);
  const home = join(files.homes, name);
  const uid = await change(files, async ({ passwd, group, shadow }) => {
    if (passwd.has(name) || (await isTaken(name))) throw new Error(`${name} is an account or a group already`);
    const id = await makeHome(files.homes, home);
    passwd.set(name, `${name}:x:${id}:${id}::${home}:/usr/sbin/nologin`);
    group.set(name, `${name}:x:${id}:`);
    shadow.set(name, secret);
    return id;
  });
  if ((await getent('passwd', name))?.[2] !== `${uid}`)
    throw new Error(`${name} is in ${files.folder} now, but the system does not see it: set up libnss-extrausers`);
  return { name, uid, home, locked: password === undefined };
}

/** Removes an account; its home and mail stay unless `withHome`. */
export async function removeAccount(files: AccountFiles, name: string, withHome = false): Promise<void> {
  const home = await change(files, async ({ passwd, group, shadow }) => {
    const line = find(passwd, name);
    for (const table of [passwd, group, shadow]) table.delete(name);
    return line.split(':')[5] ?? '';
  });
  // The home is removed as root while its account may rearrange it. fs.rm goes by paths; rm of coreutils opens each
  // folder (openat).
  if (withHome && home.startsWith(`${files.homes}/`)) execFileSync('rm', ['-rf', '--one-file-system', '--', home]);
}

/** Sets the password of an account, or locks it (undefined). */
export async function setPassword(files: AccountFiles, name: string, password: string | undefined): Promise<void> {
  const secret = shadowLine(files, name, password);
  await change(files, async ({ shadow }) => {
    find(shadow, name);
    shadow.set(name, secret);
  });
}

/** Makes the accounts of SLIM_ACCOUNTS that the system does not know, and gives their names. */
export async function ensureAccounts(files: AccountFiles, wanted: readonly Wanted[]): Promise<readonly string[]> {
  const made: string[] = [];
  for (const { name, password } of wanted)
    if (!(await getent('passwd', name))) made.push((await addAccount(files, name, password)).name);
  return made;
}

/** A hash of crypt(3), by way of Perl, which is in Debian's base system and calls the same crypt as PAM. */
export function hashPassword(password: string, random: Random): string {
  // The module authenticate-pam cuts a password at 127 octets and at NUL.
  if (password === '' || Buffer.byteLength(password) > 126 || /\p{Cc}/u.test(password))
    throw new Error('a password has 1 to 126 octets and no control characters');
  // 20 characters are 15 octets of salt, with no bits left over, which yescrypt would refuse.
  const salt = `$y$j9T$${random.hex(10)}`;
  const script = 'local $/; my $p = <STDIN>; my $h = crypt($p, $ARGV[0]); print $h if defined $h';
  const hash = execFileSync('perl', ['-e', script, salt], { input: password, encoding: 'utf8' });
  if (!hash.startsWith(salt)) throw new Error('crypt(3) of this system does not know yescrypt');
  return hash;
}

function shadowLine({ clock, random }: AccountFiles, name: string, password: string | undefined): string {
  const hash = password === undefined ? '!' : hashPassword(password, random);
  return `${name}:${hash}:${Math.floor(clock.now() / 86_400_000)}:0:99999:7:::`;
}

function find(table: ReadonlyMap<string, string>, name: string): string {
  const line = table.get(name);
  if (line === undefined) throw new Error(`there is no account "${name}" among those kept here: others are not ours`);
  return line;
}

/** Whether the system knows an account or a group of that name or number. */
const isTaken = async (key: string): Promise<boolean> =>
  !!((await getent('passwd', key)) ?? (await getent('group', key)));

/**
 * Makes the home, and returns the uid for its account. Where an account of that name has left a home, it is used again,
 * with its uid.
 */
async function makeHome(homes: string, home: string): Promise<number> {
  const reason = whyNotRoots(home);
  if (reason !== undefined) throw new Error(`homes are for root to make: ${reason}`);
  const left = fs.lstatSync(home, { throwIfNoEntry: false })?.uid ?? 0;
  // A new account must not get the uid of a removed one, whose home and mail would be its own then.
  const owners = new Set(fs.readdirSync(homes).map(name => fs.lstatSync(join(homes, name)).uid));
  let uid = left || 1000;
  if (left === 0) while (owners.has(uid) || (await isTaken(`${uid}`))) uid += 1;
  if (uid < 1000 || uid > 59_999 || (await isTaken(`${uid}`)))
    throw new Error(`${home} cannot belong to uid ${uid}: chown it to root, or move it away`);
  fs.mkdirSync(home, { recursive: true, mode: 0o700 });
  fs.lchownSync(home, uid, uid);
  // The home must be stable before mail in it gets its 250.
  syncNow(homes);
  return uid;
}

function read(folder: string): Tables {
  const table = (name: string): Map<string, string> => {
    const path = join(folder, name);
    const lines = fs.existsSync(path) ? (fs.readFileSync(path, 'utf8').match(/.+/g) ?? []) : [];
    return new Map(lines.map(line => [line.split(':', 1).join(), line]));
  };
  return { passwd: table('passwd'), group: table('group'), shadow: table('shadow') };
}

/**
 * Reads, changes and writes the files under a lock. passwd is written last: an account exists once all of it is there.
 */
async function change<T>({ folder, clock }: AccountFiles, work: (tables: Tables) => Promise<T>): Promise<T> {
  fs.mkdirSync(folder, { recursive: true, mode: 0o755 });
  const reason = whyNotRoots(join(folder, 'passwd'));
  if (reason !== undefined) throw new Error(`the accounts must be root's alone: ${reason}`);
  const lock = join(folder, '.lock');
  for (let tries = 0; ; tries += 1) {
    try {
      fs.closeSync(fs.openSync(lock, 'wx'));
      break;
    } catch (error) {
      if (tries === 200) throw error;
      // A lock that is ten seconds old was left by a crash: no change takes that long.
      const made = fs.statSync(lock, { throwIfNoEntry: false })?.mtimeMs ?? Infinity;
      if (made < clock.now() - 10_000) fs.rmSync(lock, { force: true });
      await wait(100);
    }
  }
  try {
    const tables = read(folder);
    const result = await work(tables);
    for (const name of ['shadow', 'group', 'passwd'] as const) {
      const temporary = join(folder, `.${name}.new`);
      const mode = name === 'shadow' ? 0o600 : 0o644;
      replaceFileSync(join(folder, name), [...tables[name].values(), ''].join('\n'), { temporary, mode });
    }
    return result;
  } finally {
    fs.rmSync(lock, { force: true });
  }
}
