// Removes what crashed deliveries have left in the tmp/ of Maildirs: files that nobody has written or read for 36 hours
// (maildir(5)).
// Promises: it never follows a symbolic link below the folder that it is given, never touches new/ or cur/, and never
// rejects. It makes one call at a time and never lists a folder as a whole, so a million mailboxes cost no memory and
// hold up no delivery.
import { existsSync } from 'node:fs';
import { lstat, opendir, unlink } from 'node:fs/promises';
import type { World } from '../system/world.ts';

/** Sweeps the Maildirs at and below a folder, as deep as the server makes them: `<root>/<domain>/<mailbox>/.Junk/`. */
export async function sweep(folder: string, world: Pick<World, 'clock' | 'log'>, depth = 2): Promise<void> {
  const isMaildir = existsSync(`${folder}/new`) && existsSync(`${folder}/cur`);
  try {
    for await (const { name } of isMaildir ? await opendir(`${folder}/tmp`) : []) {
      const path = `${folder}/tmp/${name}`;
      const found = await lstat(path).catch(() => undefined); // it has gone meanwhile, because its delivery went on
      if (!found?.isFile() || world.clock.now() - Math.max(found.mtimeMs, found.atimeMs) < 36 * 3600_000) continue;
      await unlink(path);
      world.log.info({ path }, 'removed the stale file of a crashed delivery');
    }
    for await (const entry of depth > 0 || isMaildir ? await opendir(folder) : []) {
      const isOurs = isMaildir && ['new', 'cur', 'tmp'].includes(entry.name);
      const isWanted = depth > 0 || entry.name === '.Junk';
      if (entry.isDirectory() && !isOurs && isWanted)
        await sweep(`${folder}/${entry.name}`, world, Math.max(0, depth - 1));
    }
  } catch (error) {
    world.log.warn({ folder, error: String(error) }, 'could not look for stale files of crashed deliveries');
  }
}
