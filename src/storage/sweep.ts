// Removes what crashed deliveries left in the tmp/ of Maildirs: files neither written nor read for 36 hours (maildir(5)).
// One call at a time and nothing listed whole: a root with a million mailboxes costs no memory and holds up no delivery.
// Never follows a symlink below the folder it is given, never touches new/ or cur/, never rejects.
import { existsSync } from 'node:fs';
import { lstat, opendir, unlink } from 'node:fs/promises';
import type { Log } from '../mail.ts';
import type { Clock } from '../system.ts';
import { errorCode } from './stable.ts';

const MAX_AGE_MS = 36 * 3600_000;

/** Sweeps the Maildirs at and below a folder, as deep as the server makes them: `<root>/<domain>/<mailbox>/`. */
export async function sweep(folder: string, system: { clock: Clock; log: Log }, depth = 2): Promise<void> {
  const isMaildir = existsSync(`${folder}/new`) && existsSync(`${folder}/cur`);
  try {
    if (isMaildir) await sweepFiles(`${folder}/tmp`, system);
    for await (const entry of depth > 0 ? await opendir(folder) : []) {
      const isOurs = isMaildir && ['new', 'cur', 'tmp'].includes(entry.name);
      if (entry.isDirectory() && !isOurs) await sweep(`${folder}/${entry.name}`, system, depth - 1);
    }
  } catch (error) {
    // A reader of mail may take a file away meanwhile: the next sweep sees the rest.
    if (errorCode(error) === 'ENOENT') return;
    system.log.warn({ folder, error: String(error) }, 'could not look for stale files of crashed deliveries');
  }
}

async function sweepFiles(folder: string, { clock, log }: { clock: Clock; log: Log }): Promise<void> {
  for await (const entry of await opendir(folder)) {
    if (!entry.isFile()) continue;
    const path = `${folder}/${entry.name}`;
    const { mtimeMs, atimeMs } = await lstat(path);
    if (clock.now() - Math.max(mtimeMs, atimeMs) < MAX_AGE_MS) continue;
    await unlink(path);
    log.info({ path }, 'removed the stale file of a crashed delivery');
  }
}
