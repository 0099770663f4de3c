// Where a value comes from: the environment, a file named by NAME_FILE, or .env; either form in the environment hides
// both forms in .env, setting by setting. Promises that no SLIM_* name goes unnoticed and that every value is known with
// its origin. Never looks into a value, but to split lists. The only file of the project that touches process.env.
import { existsSync, readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { resolve } from 'node:path';
import { parse } from 'dotenv';

/** All that settings are made of: what differs from one process or machine to another. */
export type Environment = Readonly<ReturnType<typeof readEnvironment>>;

/** The real environment; `.env` does not count in the image. */
export function readEnvironment({ withDotenv }: { readonly withDotenv: boolean }) {
  const dotenvFile = withDotenv ? resolve('.env') : undefined;
  const isRoot = process.getuid?.() === 0;
  return { variables: process.env, dotenvFile, isRoot, hostname: hostname(), isTerminal: process.stdout.isTTY };
}

/** A value (items of a list a line each) and its origin as `slimsmtp config` prints it. */
export type Source = {
  readonly text: string;
  readonly origin: string;
  readonly isPath?: boolean;
  readonly file?: string; // of NAME_FILE
};

/** How a setting is read and shown. */
export type Reading = {
  readonly initially?: string; // unless set; as a user would write it, but for newlines in a list
  readonly mask?: (text: string) => string; // takes secrets out
  readonly separator?: RegExp; // between the items of a list; in a file only a newline is
  readonly isLate?: boolean; // of NAME_FILE the path is the value: the file may come and change while the server runs
  readonly mayBeEmpty?: boolean;
};

/** The sources of the settings that are set, and what is wrong with them. */
export function collect({ variables, dotenvFile }: Environment, readings: ReadonlyMap<string, Reading>) {
  const problems: string[] = [];
  const readText = (path: string, what: string): string => {
    try {
      return readFileSync(path, 'utf8');
    } catch (error) {
      problems.push(`${what} cannot be read: ${error instanceof Error ? error.message : String(error)}`);
      return '';
    }
  };
  const dotenv = dotenvFile && existsSync(dotenvFile) ? parse(readText(dotenvFile, dotenvFile)) : {};
  const places = [
    { given: variables, origin: 'environment', suffix: '' },
    { given: dotenv, origin: '.env', suffix: ' (.env)' },
  ];
  const sources = new Map<string, Source>();
  for (const [name, { separator, isLate = false, mayBeEmpty = false }] of readings) {
    const isSet = (text: string | undefined): boolean => Boolean(text) || (mayBeEmpty && text === '');
    const place = places.find(({ given }) => isSet(given[name]) || given[`${name}_FILE`]);
    if (!place) continue;
    let { origin } = place;
    let { [name]: text = '' } = place.given;
    const file = place.given[`${name}_FILE`];
    if (file) {
      if (isSet(place.given[name])) problems.push(`${name} and ${name}_FILE are both set${place.suffix}: keep one`);
      origin = `${name}_FILE=${resolve(file)}${place.suffix}`;
      text = isLate ? resolve(file) : readText(file, `${name}_FILE="${file}"`).replace(/\r?\n$/, '');
    }
    const items = separator && text.split(file ? '\n' : separator).map(item => item.trim());
    if (items) text = items.filter(Boolean).join('\n');
    if (isSet(text))
      sources.set(name, { text, origin, isPath: isLate && Boolean(file), ...(file && { file: resolve(file) }) });
  }
  // The value of an unknown name is not shown: it could be a secret of a setting misspelt.
  for (const { given, suffix } of places)
    for (const [name, value] of Object.entries(given)) {
      const base = name.replace(/_FILE$/, '');
      if (!name.startsWith('SLIM_') || !value || readings.has(base)) continue;
      const [nearest] = [...readings.keys()].toSorted((one, other) => likeness(base, other) - likeness(base, one));
      problems.push(`${name}${suffix} is not a setting; the nearest is ${nearest}${name.slice(base.length)}`);
    }
  return { sources, problems };
}

/** The part of their pairs of letters that two names share. */
function likeness(name: string, other: string): number {
  const pairs = Array.from(other, (_, at) => other.slice(at, at + 2));
  return pairs.filter(pair => name.includes(pair)).length / (name.length + other.length);
}
