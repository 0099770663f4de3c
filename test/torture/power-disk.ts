// A disk that can lose its power: an ext4 with journal in a file, mounted through a loop device. A copy of that file,
// taken while nothing runs on it, holds exactly what was synced. Mounted so that nothing gets there by itself: no
// commit for ten minutes, no flush at a close or a rename, no order between data and journal. Promises: unmounted when
// the test ends. Wants root.
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, mkdir, rename, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

export type Disk = {
  /** Where it is mounted, always the same. */
  readonly folder: string;
  /** Keeps what is synced now, for the next cut: where the power fails before those who write have ended. */
  keep(): Promise<void>;
  /**
   * The power fails (at the last `keep`, else now), and comes back: what was not synced is gone. Whoever has a file
   * open must end soon.
   */
  cut(): Promise<void>;
  /** Anew, with nothing on it. */
  wipe(): Promise<void>;
};

/** A child of the server that was killed may end a moment after it. */
async function unmounted(folder: string): Promise<void> {
  for (let tries = 1; ; tries += 1)
    try {
      return void (await run('umount', [folder]));
    } catch (error) {
      if (tries === 100 || !String(error).includes('busy')) throw error;
      await setTimeout(100);
    }
}

export async function openDisk(
  after: (undo: () => Promise<void>) => void,
  place: string,
  bytes: number,
): Promise<Disk> {
  if (process.getuid?.() !== 0) throw new Error('this test mounts a file system: run it as root');
  const [folder, image] = [join(place, 'disk'), join(place, 'image')];
  const unmount = (): Promise<unknown> => run('umount', ['--lazy', folder]).catch(() => undefined);
  after(async () => {
    await unmount();
    await rm(place, { recursive: true, force: true });
  });
  const mount = (): Promise<unknown> =>
    run('mount', ['-o', 'loop,commit=600,noauto_da_alloc,data=writeback,barrier=1', image, folder]);
  const wipe = async (): Promise<void> => {
    await unmount();
    await rm(image, { force: true });
    await writeFile(image, '');
    await truncate(image, bytes);
    await run('mkfs.ext4', ['-q', '-F', '-O', 'has_journal', '-E', 'lazy_itable_init=0', image]);
    await mount();
  };
  await mkdir(folder, { recursive: true });
  await chmod(place, 0o755);
  await wipe();
  const kept = `${image}.kept`;
  const keep = async (): Promise<void> => void (await run('cp', ['--sparse=always', image, kept]));
  return {
    folder,
    wipe,
    keep,
    async cut() {
      if (!existsSync(kept)) await keep();
      // Its own last words go into a file that nobody reads again.
      await unmounted(folder);
      await rename(kept, image);
      await mount();
    },
  };
}
