// Reads the two configured TLS files for the network process, where only root can.
// Promises: nothing of the network process's own is on the way to them, since a link there could lead root anywhere,
// and such a file needs no root; what is not PEM is not handed over.
import { lstat, readFile, readlink, realpath } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';

/**
 * The file's text; undefined: none is configured, or the network process can read it by itself. `ownUid` is that
 * process's.
 */
export async function readTlsFile(path: string | undefined, ownUid: number): Promise<string | undefined> {
  let next = path;
  while (next !== undefined) {
    const folder = await realpath(dirname(resolve(next)));
    for (const way of [resolve(next), folder])
      for (let at = way; at !== '/'; at = dirname(at)) if ((await lstat(at)).uid === ownUid) return undefined;
    next = (await lstat(next)).isSymbolicLink() ? resolve(folder, await readlink(next)) : undefined;
  }
  const text = path && (await readFile(path, 'utf8'));
  if (text && !text.includes('-----BEGIN ')) throw new Error(`${path} is no PEM file`);
  return text;
}
