// Where a value comes from: the environment, a file named by NAME_FILE, or .env; either form in the environment hides
// both forms in .env, setting by setting. Promises that no SLIM_* name goes unnoticed and that every value is known with
// its origin. Never looks into a value, but to split lists. The only file of the project that touches process.env.
import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { parse } from 'dotenv';
import { nearest } from './values.ts';

/** All that settings are made of: what differs from one process or machine to another. */
export type Environment = {
  readonly variables: NodeJS.ProcessEnv;
  /** Where .env would be; undefined: it does not count (in the image). */
  readonly dotenvFile?: string | undefined;
  readonly cwd: string;
  readonly isRoot: boolean;
  readonly hostname: string;
  readonly isTerminal?: boolean;
};

/** The real environment. */
export function readEnvironment(options: { readonly withDotenv: boolean }): Environment {
  const cwd = process.cwd();
  const base = { variables: process.env, cwd, isRoot: process.getuid?.() === 0, hostname: hostname() };
  const dotenvFile = options.withDotenv ? join(cwd, '.env') : undefined;
  return { ...base, dotenvFile, isTerminal: process.stdout.isTTY };
}

/** A value (items of a list a line each) and its origin as `slimsmtp config` prints it. */
export type Source = { readonly text: string; readonly origin: string; readonly isPath?: boolean };

/** How a setting is read. */
export type Reading = {
  /** It is a list, and this separates its items; in a file only a newline does. */
  readonly separator?: RegExp;
  /** NAME_FILE is not read here, its path is the value: the file may come, go and change while the server runs. */
  readonly isLate?: boolean;
  /** Empty is a value. */
  readonly mayBeEmpty?: boolean;
};

/** The sources of the settings that are set; mistakes are added to `problems`. */
export function collect(
  environment: Environment,
  readings: ReadonlyMap<string, Reading>,
  problems: string[],
): Map<string, Source> {
  const dotenv = parse(readText(environment.dotenvFile, '', problems, true) ?? '');
  const places = [
    { variables: environment.variables, origin: 'environment', suffix: '' },
    { variables: dotenv, origin: '.env', suffix: ' (.env)' },
  ];
  const sources = new Map<string, Source>();
  for (const [name, reading] of readings) {
    const isSet = (text: string | undefined): boolean =>
      text !== undefined && (text !== '' || reading.mayBeEmpty === true);
    const place = places.find(({ variables }) => isSet(variables[name]) || variables[`${name}_FILE`]);
    if (place === undefined) continue;
    const file = place.variables[`${name}_FILE`];
    let text = place.variables[name];
    let { origin } = place;
    if (file && isSet(text)) problems.push(`${name} and ${name}_FILE are both set${place.suffix}: keep one of them`);
    if (file) {
      const path = resolve(environment.cwd, file);
      origin = `${name}_FILE=${path}${place.suffix}`;
      text = reading.isLate ? path : readText(path, `${name}_FILE="${file}": `, problems)?.replace(/\r?\n$/, '');
    }
    if (reading.separator)
      text = text
        ?.split(file ? '\n' : reading.separator)
        .map(item => item.trim())
        .filter(Boolean)
        .join('\n');
    if (text !== undefined && isSet(text))
      sources.set(name, { text, origin, isPath: Boolean(file) && reading.isLate === true });
  }
  for (const { variables, suffix } of places) findUnknown(variables, suffix, [...readings.keys()], problems);
  return sources;
}

function readText(
  path: string | undefined,
  what: string,
  problems: string[],
  mayBeMissing = false,
): string | undefined {
  if (path === undefined) return undefined;
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'error';
    if (!(mayBeMissing && code === 'ENOENT')) problems.push(`${what}${path} cannot be read (${code})`);
    return undefined;
  }
}

/** The value of an unknown name is not shown: it could be a secret of a setting misspelt. */
function findUnknown(variables: NodeJS.ProcessEnv, suffix: string, names: readonly string[], problems: string[]): void {
  for (const [name, value] of Object.entries(variables)) {
    const base = name.replace(/_FILE$/, '');
    if (!name.startsWith('SLIM_') || !value || names.includes(base)) continue;
    problems.push(
      `${name}${suffix} is not a setting; the nearest is ${nearest(base, names)}${name.slice(base.length)}`,
    );
  }
}
