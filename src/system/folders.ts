// The folders that must be there before anything starts: SLIM_DATA with its parts. (The roots of mail: mail-roots.ts.)
// Promises: trouble is one sentence that names the setting, the reason, and the exact command where one mends it. As
// root it makes and gives away folders only where nobody but root decides what stands there (parents.ts).
import fs from 'node:fs';
import { dirname, join } from 'node:path';
import { whyNotRoots } from './parents.ts';

export type Owner = { readonly uid: number; readonly gid: number };

/** The folders that the network process writes. They are its own, 0700. */
export const parts = ['queue', 'spool', 'journal', 'state', 'tls', 'dkim', 'acme', 'history', 'run'];

/**
 * As root: SLIM_DATA is root's (who could rename `accounts/` in it could make himself root); its parts are given to the
 * network process. Throws the sentence to print; its `cause` is the error of the system, where there was one. True:
 * this is the first start.
 */
export function prepareDataAsRoot(dataFolder: string, owner: Owner): boolean {
  refuseForeign(dataFolder, owner);
  const isFirst = isNew(dataFolder);
  const umask = process.umask(0o022); // others must reach `accounts/`, however strict we are elsewhere
  try {
    makeFolder(dataFolder, 0o755);
    refuseForeign(dataFolder, owner); // what was missing is there now
    // Before anything is looked at in it: what its owner was able to change there, he now cannot.
    if (fs.statSync(dataFolder).uid !== 0) fs.chownSync(dataFolder, 0, 0);
    fs.chmodSync(dataFolder, 0o755);
    make(join(dataFolder, 'accounts'), 0o755, { uid: 0, gid: 0 });
    for (const name of parts) make(join(dataFolder, name), 0o700, owner);
    return isFirst;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === undefined) throw error;
    throw new Error(`SLIM_DATA cannot be prepared: ${folderReason(error)}`, { cause: error });
  } finally {
    process.umask(umask);
  }
}

/**
 * Root makes the parts before the network process looks, and an image may make them: at the first start all are empty.
 */
function isNew(dataFolder: string): boolean {
  const isEmpty = (path: string): boolean => !fs.existsSync(path) || fs.readdirSync(path).length === 0;
  try {
    return parts.every(part => isEmpty(join(dataFolder, part)));
  } catch {
    return false; // The folder belongs to somebody else, so this start has not made it.
  }
}

/** Where the network process is root itself, there is nobody to keep out. */
function refuseForeign(dataFolder: string, { uid }: Owner): void {
  const reason = uid === 0 ? undefined : whyNotRoots(dataFolder);
  if (reason !== undefined) throw new Error(`SLIM_DATA="${dataFolder}" cannot be used with SLIM_RUN_AS: ${reason}`);
}

function make(path: string, mode: number, { uid, gid }: Owner): void {
  makeFolder(path, mode);
  const found = fs.lstatSync(path);
  if (!found.isDirectory()) throw new Error(`SLIM_DATA: ${path} must be a folder, not a link: remove it`);
  if (found.uid === uid) return;
  // Whose accounts they were is for a person to judge: they may hold a root of somebody's own making.
  if (uid === 0 && path.endsWith('/accounts'))
    throw new Error(`SLIM_DATA: ${path} belongs to uid ${found.uid}: look into it, then run chown -R 0:0 ${path}`);
  fs.chownSync(path, uid, gid);
}

/**
 * As who we are: makes the parts of SLIM_DATA and proves that they can be written. Throws the sentence to print. True:
 * this is the first start.
 */
export function prepareData(dataFolder: string): boolean {
  const isFirst = isNew(dataFolder);
  const paths = parts.map(part => join(dataFolder, part));
  try {
    for (const path of paths) {
      makeFolder(path, 0o700);
      const error = probe(path);
      if (error !== undefined) throw error;
    }
    return isFirst;
  } catch (error) {
    const { code, syscall } = error as NodeJS.ErrnoException;
    const isOwnerWrong = code === 'EACCES' || code === 'EPERM';
    // Only what is to be ours: a chown of the whole folder would give `accounts/` away.
    const ours = paths.filter(path => fs.existsSync(path));
    const parent = `chown ${ids()} ${dataFolder}`;
    const makeParent = fs.existsSync(dataFolder) ? parent : `mkdir -p ${dataFolder} && ${parent}`;
    const command = syscall === 'mkdir' ? makeParent : `chown -R ${ids()} ${ours.join(' ')}`;
    const advice = isOwnerWrong ? `; run ${command}` : '';
    throw new Error(`SLIM_DATA cannot be written: ${folderReason(error)}${advice}`, { cause: error });
  }
}

/**
 * Makes a folder, and those above it that are missing. Returns whether it was missing. Node's own way hides why it
 * cannot: it says that a folder does not exist where the file system is read-only.
 */
export function makeFolder(path: string, mode: number): boolean {
  try {
    fs.mkdirSync(path, { mode });
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' && dirname(path) !== path && makeFolder(dirname(path), mode)) return makeFolder(path, mode);
    if (fs.statSync(path, { throwIfNoEntry: false })?.isDirectory()) return false;
    throw error;
  }
}

/** Writes and removes a file. Returns the error where that cannot be done. */
export function probe(folder: string): unknown {
  try {
    fs.writeFileSync(join(folder, '.probe'), '');
    return fs.unlinkSync(join(folder, '.probe'));
  } catch (error) {
    return error;
  }
}

/** Our user and group, as chown takes them. */
export const ids = (): string => `${process.getuid?.()}:${process.getgid?.()}`;

/**
 * Why a folder cannot be used, in words that help: of a file in the place of a folder, Node says only that it exists.
 */
export function folderReason(error: unknown): string {
  const { code, message, path } = error as NodeJS.ErrnoException;
  return code === 'EEXIST' ? `ENOTDIR: not a directory, '${path}'` : message;
}
