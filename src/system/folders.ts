// The folders that must be there before anything starts: SLIM_DATA with its parts, and the roots of mail.
// Promises: says the exact chown when an owner is wrong; logs each root of mail that it makes (a volume that was not
// mounted shows at once). As root it makes a folder only where root alone could have made its parents.
import fs from 'node:fs';
import { dirname, join } from 'node:path';
import type { Log } from './log.ts';

export type Owner = { readonly uid: number; readonly gid: number };

const isItMounted = 'made a folder for mail: is the volume mounted?';
/** What the network process writes; its own, 0700. */
const parts = ['queue', 'spool', 'journal', 'state', 'tls', 'run'];

/** As root: SLIM_DATA is root's (who could rename `accounts/` in it could make himself root); its parts are given away. */
export function prepareDataAsRoot(dataFolder: string, owner: Owner): void {
  const umask = process.umask(0o022); // others must reach `accounts/`, however strict we are elsewhere
  fs.mkdirSync(dataFolder, { recursive: true });
  // Before anything is looked at in it: what its owner was able to change there, he now cannot.
  if (fs.lstatSync(dataFolder).uid !== 0) fs.chownSync(dataFolder, 0, 0);
  fs.chmodSync(dataFolder, 0o755);
  make(join(dataFolder, 'accounts'), 0o755, { uid: 0, gid: 0 });
  for (const name of parts) make(join(dataFolder, name), 0o700, owner);
  process.umask(umask);
}

function make(path: string, mode: number, { uid, gid }: Owner): void {
  fs.mkdirSync(path, { recursive: true, mode });
  const found = fs.lstatSync(path);
  if (!found.isDirectory()) throw new Error(`SLIM_DATA: ${path} must be a folder, not a link: remove it`);
  if (found.uid === uid) return;
  // Whose accounts they were is for a person to judge: they may hold a root of somebody's own making.
  if (uid === 0 && path.endsWith('/accounts'))
    throw new Error(`SLIM_DATA: ${path} belongs to uid ${found.uid}: look into it, then run chown -R 0:0 ${path}`);
  fs.chownSync(path, uid, gid);
}

/** As root, for the network process: the first missing folder of a path, where every parent is root's own. */
export function prepareRootAsRoot(path: string, owner: Owner, log: Log): void {
  let missing = path;
  while (!fs.lstatSync(dirname(missing), { throwIfNoEntry: false })) missing = dirname(missing);
  if (fs.lstatSync(missing, { throwIfNoEntry: false })) return;
  for (let parent = dirname(missing); ; parent = dirname(parent)) {
    if (fs.lstatSync(parent).uid !== 0 || fs.realpathSync(parent) !== parent) return; // the network process tries it itself
    if (parent === dirname(parent)) break;
  }
  fs.mkdirSync(missing, { mode: 0o700 });
  fs.lchownSync(missing, owner.uid, owner.gid);
  log.warn({ path: missing }, isItMounted);
}

/** As who we are: makes the parts of SLIM_DATA and proves that they can be written. Throws the sentence to print. */
export function prepareData(dataFolder: string): void {
  const paths = parts.map(part => join(dataFolder, part));
  try {
    for (const path of paths) {
      fs.mkdirSync(path, { recursive: true, mode: 0o700 });
      const error = probe(path);
      if (error !== undefined) throw error;
    }
  } catch (error) {
    const { code, message, syscall } = error as NodeJS.ErrnoException;
    // Only what is to be ours: a chown of the whole folder would give `accounts/` away.
    const ours = paths.filter(path => fs.existsSync(path));
    const where = syscall !== 'mkdir' ? `-R ${ids()} ${ours.join(' ')}` : `${ids()} ${dataFolder}`;
    const advice = code === 'EACCES' || code === 'EPERM' ? `; run chown ${where}` : '';
    throw new Error(`SLIM_DATA cannot be written: ${message}${advice}`, { cause: error });
  }
}

/** Writes and removes a file; the error, where that cannot be done. */
export function probe(folder: string): unknown {
  try {
    fs.writeFileSync(join(folder, '.probe'), '');
    return fs.unlinkSync(join(folder, '.probe'));
  } catch (error) {
    return error;
  }
}

const ids = (): string => `${process.getuid?.()}:${process.getgid?.()}`;

/** As who we are: makes a root of mail where it is missing. Trouble is a warning: mail for it waits with its senders. */
export function prepareRoot(path: string, log: Log): void {
  try {
    if (fs.mkdirSync(path, { recursive: true, mode: 0o700 }) !== undefined) log.warn({ path }, isItMounted);
    fs.accessSync(path, fs.constants.W_OK | fs.constants.X_OK);
  } catch (error) {
    const fields = { path, error: String(error), command: `chown ${ids()} ${path}` };
    log.error(fields, 'mail cannot be written there until this is mended');
  }
}
