// Made-up verifiers, for names that nobody has: SCRAM's challenge shows salt and iterations before any password is
// asked for, so a stranger could read off it which names exist.
// Promises: a name always gets the same challenge, also after a restart; its number of iterations and the length of its
// salt are those of a real verifier, drawn by the name from all that are known. A new shape changes the challenges of
// the names that it wins, and of no other. Known are the verifiers of SLIM_USERS from the start, those of the table
// `users` once a login has read them: their shapes are kept in SLIM_DATA/state/shapes, a line `iterations:octets` each.
import { createHmac } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { replaceFileSync } from '../durable/replace.ts';
import type { Log } from '../system/log.ts';
import { type Verifier, usualShape } from '../sasl/scram.ts';

/** What a challenge shows of a verifier, apart from the salt itself. */
type Shape = Readonly<{ iterations: number; saltBytes: number }>;

/** A table with more shapes than that was made to have them: each costs a hash for every login. */
const mostShapes = 16;
/** Longer salts, which nobody makes, are not imitated. */
const longestSaltBytes = 1024;

/** `key` is a secret of this server; `folder` is SLIM_DATA/state; `known` are the verifiers of SLIM_USERS. */
export function openInventions(key: string, folder: string, known: readonly Verifier[], log: Log) {
  const path = join(folder, 'shapes');
  const kept = read(path);
  const shapes = new Map<string, Shape>();
  const add = (shape: Shape): boolean => {
    const isNew = !shapes.has(show(shape)) && shapes.size < mostShapes && shape.saltBytes <= longestSaltBytes;
    if (isNew) shapes.set(show(shape), shape);
    return isNew;
  };
  for (const shape of [...known.map(shapeOf), ...kept.values()]) add(shape);

  /** By the highest of the hashes of name and shape: a new shape leaves all names alone but those that it wins. */
  function draw(id: string): Shape {
    const ranked = [...shapes].map(([text, shape]) => ({ shape, rank: hash(key, `${text}\0${id}`) }));
    return ranked.toSorted((one, other) => other.rank.compare(one.rank))[0]?.shape ?? usualShape;
  }

  return {
    /** Takes note of a real verifier. */
    note(verifier: Verifier): void {
      const shape = shapeOf(verifier);
      if (!add(shape)) return;
      kept.set(show(shape), shape);
      try {
        replaceFileSync(path, [...kept.keys(), ''].join('\n'));
      } catch (error) {
        log.warn({ path, error: String(error) }, 'could not keep what the verifiers of the table users look like');
      }
    },
    /** A verifier that no password fits. */
    invent(id: string): Verifier {
      const { iterations, saltBytes } = draw(id);
      const unknown = hash(key, id).subarray(32);
      return { iterations, salt: saltOf(key, id, saltBytes), storedKey: unknown, serverKey: unknown };
    },
  };
}

/** The salt of a name, the same after each start. Passwords in plain text get theirs from here as well. */
export function saltOf(key: string, id: string, octets: number): Buffer {
  const parts = [hash(key, id).subarray(0, 32)];
  for (let made = 32; made < octets; made += 64) parts.push(hash(key, `${made}\0${id}`));
  return Buffer.concat(parts).subarray(0, octets);
}

const hash = (key: string, text: string): Buffer => createHmac('sha512', key).update(text).digest();
const shapeOf = ({ iterations, salt }: Verifier): Shape => ({ iterations, saltBytes: salt.length });
const show = ({ iterations, saltBytes }: Shape): string => `${iterations}:${saltBytes}`;

function read(path: string): Map<string, Shape> {
  const text = existsSync(path) ? readFileSync(path, 'utf8') : '';
  const found = [...text.matchAll(/^([1-9]\d{0,6}):([1-9]\d{0,3})$/gm)];
  return new Map(
    found.map(([line, count, octets]) => [line, { iterations: Number(count), saltBytes: Number(octets) }]),
  );
}
