// A copy of a file with other lines in front of it.
import { createReadStream, createWriteStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';

/**
 * Writes a new file, 0600, with that head and behind it the source from `start` on. Does not sync it. Never replaces a
 * file.
 */
export async function copyBehind(head: string, source: string, path: string, start = 0): Promise<void> {
  await writeFile(path, head, { flag: 'wx', mode: 0o600 });
  await pipeline(createReadStream(source, { start }), createWriteStream(path, { flags: 'a' }));
}
