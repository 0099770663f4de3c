// Replaces a file: written under another name in the same folder, synced, renamed, and the folder synced.
// Promise: whatever happens, the file is the old one or the new one, whole. It is the new one, for good, when the call
// has succeeded. A call that fails leaves the old file.
import { closeSync, fchmodSync, renameSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { create, sync, syncNow } from './sync.ts';

type Options = {
  /** Where the new content is written. Nobody else uses that name. */
  readonly temporary?: string;
  /** For a folder in which many files are replaced at once: all who wait share the fsync. */
  readonly syncFolder?: (folder: string) => Promise<void>;
};

export async function replaceFile(path: string, content: string | Buffer, options: Options = {}): Promise<void> {
  const { temporary = `${path}.new`, syncFolder = sync } = options;
  try {
    await sync(temporary, create(temporary, [Buffer.from(content)], 'w'));
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
  await syncFolder(dirname(path));
}

/** The same without a turn of the event loop, for what is done at a start or by a command. */
export function replaceFileSync(path: string, content: string, { temporary = `${path}.new`, mode = 0o600 } = {}): void {
  try {
    const fd = create(temporary, [Buffer.from(content)], 'w');
    fchmodSync(fd, mode); // whatever the umask is
    closeSync(fd);
    syncNow(temporary);
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
  syncNow(dirname(path));
}
