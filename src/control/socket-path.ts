// The path of the control socket as the system takes it. The address of a Unix socket has 107 octets at most, and
// SLIM_DATA may be longer: then the folder is opened, and named by its descriptor (`/proc/self/fd/7/control`).
import { closeSync, openSync } from 'node:fs';
import { basename, dirname } from 'node:path';

const maxOctets = 107;

/** `release` it when the socket is closed: until then the short path must stay good. */
export function shorten(path: string): { readonly path: string; readonly release: () => void } {
  if (Buffer.byteLength(path) <= maxOctets) return { path, release: () => undefined };
  const folder = openSync(dirname(path), 'r');
  return { path: `/proc/self/fd/${folder}/${basename(path)}`, release: () => closeSync(folder) };
}
