// Logins that stand in SLIM_USERS itself: `name:secret`, and `name:@GENERATE`, whose password is made at the first
// start and kept in SLIM_DATA/state/passwords, a line `name:password` each.
// Promises: that file is 0600, and is replaced whole before a password in it counts. A password that was made once
// stays, also while its name is not in SLIM_USERS. Never logs a secret, and forgets secrets in plain text after the
// start.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { replaceFileSync } from '../durable/replace.ts';
import type { Verifier } from '../sasl/scram.ts';
import type { Random } from '../system/world.ts';
import { type Source, parseName } from './sources.ts';

/** An alphabet without letters and digits that people mistake for each other. 20 out of these 31 are 99 bits. */
const alphabet = 'abcdefghjkmnpqrstuvwxyz23456789';

/** A login as it stands in SLIM_USERS, with or without a domain. */
export function inlineSource(entry: string, verifier: Verifier, mainDomain: string): Source {
  const found = { source: 'SLIM_USERS', verifier };
  const own = parseName(entry, mainDomain);
  const key = entry.includes('@') ? own?.id : own?.address.local;
  return async ({ keys }) => (key !== undefined && keys.includes(key) ? found : undefined);
}

/** The passwords of all names that ever got one; `names` that have none get one now. */
export function generate(folder: string, names: readonly string[], random: Random): ReadonlyMap<string, string> {
  const kept = readGenerated(folder);
  const missing = names.filter(name => !kept.has(name));
  if (missing.length === 0) return kept;
  for (const name of missing) kept.set(name, Array.from({ length: 20 }, () => alphabet[random.below(31)]).join(''));
  const path = join(folder, 'passwords');
  const lines = [...kept].map(([name, password]) => `${name}:${password}\n`);
  replaceFileSync(path, lines.join(''));
  return kept;
}

/** The passwords that were made, by the names as SLIM_USERS has them. `folder` is SLIM_DATA/state. */
export function readGenerated(folder: string): Map<string, string> {
  const path = join(folder, 'passwords');
  const lines = existsSync(path) ? readFileSync(path, 'utf8').split('\n').filter(Boolean) : [];
  return new Map(lines.map(line => [line.slice(0, line.lastIndexOf(':')), line.slice(line.lastIndexOf(':') + 1)]));
}
