// What makes files, folders and whole file systems stable. No other room calls fsync (root's deposits excepted).
// Promise: a failed sync is never tried again as if all were well. The kernel may have dropped the pages, and the next
// sync succeeds without them ('fsyncgate'). The caller that sees a failure writes the file anew, or gives it up.
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import { constants } from 'node:os';
import { dirname } from 'node:path';
import { promisify } from 'node:util';

/** Syncing a whole file system may take long where others write to it, too. */
const fileSystemTimeoutMs = 10 * 60_000;
const run = promisify(execFile);

/** Fsyncs and closes an open file, or a folder opened afresh: what it names now is to be stable, not one moved away. */
export function sync(path: string, open?: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const fd = open ?? fs.openSync(path, 'r');
    fs.fsync(fd, error => {
      fs.closeSync(fd);
      if (error === null) resolve();
      else reject(Object.assign(error, { message: `${error.message} '${path}'` }));
    });
  });
}

/** Fsyncs a file or folder while nobody else can do anything: for a start, or a command of root's. */
export function syncNow(path: string): void {
  const fd = fs.openSync(path, 'r');
  try {
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
}

/** Syncs what was written to an open file until now; it stays open. */
export function datasync(fd: number): Promise<void> {
  return new Promise((resolve, reject) => fs.fdatasync(fd, error => (error === null ? resolve() : reject(error))));
}

/** A sync that could not be started has made nothing worse: it may simply be tried again. */
type Synced = { readonly kind: 'synced' } | { readonly kind: 'failed' | 'not started'; readonly error: unknown };

/** Syncs the file systems of these places, each once; of a place that has gone, that of its parent. */
export async function syncFileSystems(places: readonly string[]): Promise<Synced> {
  const fileSystems = new Map<number, string>();
  for (let at of places) {
    while (!fs.existsSync(at)) at = dirname(at);
    fileSystems.set(fs.statSync(at).dev, at);
  }
  if (fileSystems.size === 0) return { kind: 'synced' };
  try {
    await run('sync', ['-f', '--', ...fileSystems.values()], { timeout: fileSystemTimeoutMs }); // Node has no syncfs(2)
    return { kind: 'synced' };
  } catch (error) {
    // A program that ran has a number for a code, or none when a signal has ended it; only one that never ran has a
    // name.
    const { code } = error as { code?: unknown };
    return { kind: typeof code === 'string' ? 'not started' : 'failed', error };
  }
}

/** Whether there is too little of something just now: processes, descriptors, memory. That is no fault of the file. */
export function isShortage(error: unknown): boolean {
  return ['EAGAIN', 'EMFILE', 'ENFILE', 'ENOMEM'].includes((error as NodeJS.ErrnoException).code ?? '');
}

/** The size of all parts together, in octets. */
export const sizeOf = (parts: readonly Buffer[]): number => parts.reduce((sum, part) => sum + part.length, 0);

/**
 * Makes a file with that content and gives its descriptor, for sync(); where that fails it leaves none. `wx`: never
 * replaces one.
 */
export function create(path: string, parts: readonly Buffer[], flags: 'wx' | 'w' = 'wx'): number {
  const fd = fs.openSync(path, flags, 0o600);
  try {
    append(fd, parts, path);
    return fd;
  } catch (error) {
    fs.closeSync(fd);
    fs.unlinkSync(path);
    throw error;
  }
}

/** Writes on where the last write to that descriptor has ended. */
export function append(fd: number, parts: readonly Buffer[], path: string): void {
  // A regular file takes less than it is given only when the disk is full.
  if (fs.writevSync(fd, parts) !== sizeOf(parts)) throw noSpace(path);
}

export const noSpace = (path: string): Error => Object.assign(new Error(`no space for '${path}'`), { code: 'ENOSPC' });

/** The enhanced status code for a file that could not be written: full, or anything else (RFC 3463 §3.4). */
export function statusOf(error: unknown): '4.3.1' | '4.3.0' {
  const { code, errno } = error as NodeJS.ErrnoException;
  // libuv has no name for a quota that is used up, so Node's `code` is none either.
  return code === 'ENOSPC' || errno === -constants.errno.EDQUOT ? '4.3.1' : '4.3.0';
}
