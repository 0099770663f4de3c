// Whether root may act on a folder that is named by its path: only where nobody but root decides what stands there.
// Whoever may write in one of the folders on the way could put a link, or another folder, in the place of the next one,
// and root would give that away.
// Promise: a path is root's alone when every folder on the way belongs to root, and nobody else may write in it. A
// sticky folder such as /tmp is enough where the next folder is root's, or is still to be made. Links on the way must
// be root's, and where they lead, the same holds. The last folder itself may be anybody's: root takes it first, and
// looks at it then.
import fs from 'node:fs';
import { join, resolve } from 'node:path';

/** So many links are followed, as many as the kernel follows. */
const mostLinks = 40;
const sticky = 0o1000;

/** Why the path is not root's alone, with the command that mends it; undefined: it is. Changes nothing. */
export function whyNotRoots(path: string): string | undefined {
  let folder = '/';
  const rest = partsOf(resolve(path));
  for (let links = 0, name = rest.shift(); name !== undefined; name = rest.shift()) {
    const next = join(folder, name);
    const found = fs.lstatSync(next, { throwIfNoEntry: false });
    const reason = whyOthersDecide(folder, !found || found.uid === 0);
    if (reason !== undefined) return `${reason}: who may write there could put another folder in the place of ${next}`;
    if (!found) return undefined; // root makes it, and all that is to be in it
    if (found.isSymbolicLink()) {
      links += 1;
      if (found.uid !== 0) return `${next} is a link, and belongs to uid ${found.uid}: remove it`;
      if (links > mostLinks) return `${next} is a link that leads in a circle: remove it`;
      const target = fs.readlinkSync(next);
      rest.unshift(...partsOf(target));
      if (target.startsWith('/')) folder = '/';
    } else if (found.isDirectory()) folder = next;
    else return rest.length > 0 ? `${next} is not a directory` : undefined;
  }
  return undefined;
}

function whyOthersDecide(folder: string, isNextRoots: boolean): string | undefined {
  const { uid, mode } = fs.lstatSync(folder);
  if (uid !== 0) return `${folder} belongs to uid ${uid} (run chown root:root ${folder})`;
  if ((mode & 0o022) === 0 || (isNextRoots && mode & sticky)) return undefined;
  return `${folder} is writable by others than root (run chmod go-w ${folder})`;
}

const partsOf = (path: string): string[] => path.split('/').filter(part => part !== '' && part !== '.');
