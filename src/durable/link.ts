// A second name for a file, or a second file where there can be none.
import { constants, linkSync } from 'node:fs';
import { copyFile } from 'node:fs/promises';

/**
 * Whether `path` is a hard link to the file now. Why there can be none (another file system, too many links) does not
 * matter.
 */
export function isLinked(original: string, path: string): boolean {
  try {
    linkSync(original, path);
    return true;
  } catch {
    return false;
  }
}

/**
 * Makes a link, or a copy where there can be none: a link costs a fifth of a copy. Copying meets the same trouble as
 * linking, and says what it is, or succeeds. Never replaces a file.
 */
export async function linkOrCopy(original: string, path: string): Promise<void> {
  if (!isLinked(original, path)) await copyFile(original, path, constants.COPYFILE_EXCL);
}
