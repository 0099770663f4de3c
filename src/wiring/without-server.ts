// Orders to the queue while no server runs: a message that ends the server at each start can still be held or removed.
// How: take the lock of the server on SLIM_DATA, so that none starts meanwhile; restore the journal, which may have
// messages that have no files yet; change the records; give the lock back. The caller is the owner of the queue's files
// by then.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Settings } from '../config/settings.ts';
import { type Handlers, openControl } from '../control/server.ts';
import { DiskJournal } from '../durable/journal.ts';
import type { QueueAction, Selector } from '../mail/admin.ts';
import { orderWithoutServer } from '../queue/admin.ts';
import { FileStore } from '../queue/files.ts';
import type { Log } from '../system/log.ts';
import { system } from './context.ts';

/**
 * Carries out an order on the queue in SLIM_DATA and resolves with the number of messages that it concerned, or with
 * undefined where no server has ever kept a queue. Rejects if a server has started meanwhile.
 */
export async function actWithoutServer(
  { dataFolder }: Settings,
  controlPath: string,
  action: QueueAction,
  selector: Selector,
  log: Log,
): Promise<number | undefined> {
  const folder = join(dataFolder, 'queue');
  if (!existsSync(folder)) return undefined;
  process.umask(0o077);
  const lock = await openControl(controlPath, busy);
  try {
    const journal = await DiskJournal.open(join(dataFolder, 'journal'), { ...system, log });
    await journal?.close();
    return await orderWithoutServer(new FileStore(folder, log), action, selector, system.clock.now());
  } finally {
    lock.close();
  }
}

const refuse = (): never => {
  throw new Error('no server runs, and an order to its queue is being carried out: try again');
};
/** What others who ask meanwhile are told. */
const busy: Handlers = {
  health: refuse,
  figures: refuse,
  resolve: refuse,
  auth: refuse,
  dkim: refuse,
  dns: refuse,
  list: refuse,
  act: refuse,
};
