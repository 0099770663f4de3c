// The files of the history: a folder of `<time>.jsonl`, each with a line of JSON for each event, in the order of time.
// The time in a name is that of its first event, so that names in order are files in order.
import { readdirSync } from 'node:fs';
import { join } from 'node:path';

const extension = '.jsonl';

export const nameFor = (time: number): string => `${new Date(time).toISOString().replaceAll(/[:.]/g, '-')}${extension}`;

/** The paths of all files, the oldest first. None where there is no such folder. */
export function filesIn(folder: string): readonly string[] {
  try {
    const names = readdirSync(folder).filter(name => name.endsWith(extension));
    return names.toSorted().map(name => join(folder, name));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}
