// Where a value comes from. The places, the first that has the setting in either form (NAME, or NAME_FILE: the content
// of that file) hides all others:
//   the environment
//   .env in the working directory; not in the image, where Compose has already handed it over as the environment
//   DEFAULT_NAME in the environment: compose.yaml says there what the demo has unless somebody says something else
// Promises: no SLIM_* name goes unnoticed, and every value is known with its origin. Never looks into a value, but to
// split lists. The only file of the project that touches process.env.
import { existsSync, readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { resolve } from 'node:path';
import { reasonOf } from '../system/reason.ts';
import { readSettingFile } from '../system/setting-file.ts';
import { type Dotenv, parseDotenv } from './dotenv.ts';
import { serviceLinks } from './service-links.ts';

type Variables = Readonly<Record<string, string | undefined>>;

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
  /** The file, where NAME_FILE has named one. */
  readonly file?: string;
};

/** How a setting is read and shown. */
export type Reading = {
  /** What it is, in a sentence. */
  readonly about: string;
  /** Its value unless set; as a user would write it, but for newlines in a list. */
  readonly initially?: string;
  /** Takes secrets out. */
  readonly mask?: (text: string) => string;
  /** What stands between the items of a list; in a file only a newline does. */
  readonly separator?: RegExp;
  /** Of NAME_FILE the path is the value: the file may come, and change, while the server runs. */
  readonly isLate?: boolean;
  /** Empty is a value, not 'unset'. */
  readonly mayBeEmpty?: boolean;
};

/** Something that is no mistake, and that the operator should know: a line of the log. */
export type Remark = {
  readonly level: 'info' | 'warn';
  readonly fields: Readonly<Record<string, unknown>>;
  readonly text: string;
};

type Place = { readonly given: Variables; readonly originOf: (name: string) => string; readonly suffix: string };

/** The sources of the settings that are set, what is wrong with them, and what else is worth a word. */
export function collect({ variables, dotenvFile }: Environment, readings: ReadonlyMap<string, Reading>) {
  const problems: string[] = [];
  const remarks: Remark[] = [];
  const remark = (level: Remark['level'], names: readonly string[], text: string): void => {
    if (names.length > 0) remarks.push({ level, fields: { variables: names }, text });
  };
  const links = serviceLinks(variables);
  remark('info', [...links], 'variables that Kubernetes sets for a service are no settings: ignored');
  const { values: dotenv, interpolated } = readDotenv(dotenvFile, problems);
  const dollar = 'docker compose would replace what follows a $ in these variables: put the value in single quotes';
  remark('warn', interpolated, `.env: ${dollar}`);
  const environment = Object.fromEntries(Object.entries(variables).filter(([name]) => !links.has(name)));
  const places: readonly Place[] = [
    { given: environment, originOf: () => 'environment', suffix: '' },
    { given: dotenv, originOf: () => '.env', suffix: ' (.env)' },
    { given: defaults(environment, dotenv), originOf: name => `DEFAULT_${name}`, suffix: ' (DEFAULT_)' },
  ];
  const sources = new Map<string, Source>();
  for (const [name, reading] of readings) {
    const source = find(name, reading, places, problems);
    if (source) sources.set(name, source);
  }
  problems.push(...unknown(environment, '', readings), ...unknown(dotenv, ' (.env)', readings));
  return { sources, problems, remarks };
}

function readDotenv(path: string | undefined, problems: string[]): Dotenv {
  try {
    if (path !== undefined && existsSync(path)) return parseDotenv(readFileSync(path, 'utf8'));
  } catch (error) {
    problems.push(`${path} cannot be read: ${(error as Error).message}`);
  }
  return { values: {}, interpolated: [] };
}

/**
 * The DEFAULT_ names without that prefix. A database of one's own owes nothing to that of the demo: not its user, nor
 * its name.
 */
function defaults(environment: Variables, dotenv: Variables): Variables {
  const hasOwnDatabase = ['DATABASE_URL', 'DATABASE_URL_FILE', 'PGHOST', 'PGHOST_FILE'].some(
    name => environment[name] || dotenv[name],
  );
  const given = Object.entries(environment).flatMap(([name, value]) => {
    const [, base] = /^DEFAULT_((?:SLIM_|PG|DATABASE_URL).*)$/.exec(name) ?? [];
    return base === undefined || (hasOwnDatabase && !base.startsWith('SLIM_')) ? [] : [[base, value] as const];
  });
  return Object.fromEntries(given);
}

function find(
  name: string,
  { separator, isLate = false, mayBeEmpty = false }: Reading,
  places: readonly Place[],
  problems: string[],
): Source | undefined {
  const isSet = (text: string | undefined): text is string => Boolean(text) || (mayBeEmpty && text === '');
  const place = places.find(({ given }) => isSet(given[name]) || given[`${name}_FILE`]);
  if (!place) return undefined;
  const { given, originOf, suffix } = place;
  const named = given[`${name}_FILE`];
  if (named && isSet(given[name])) problems.push(`${name} and ${name}_FILE are both set${suffix}: keep one`);
  const file = named ? resolve(named) : undefined;
  const origin = file === undefined ? originOf(name) : `${name}_FILE=${file}${suffix}`;
  let text = given[name] ?? '';
  if (file !== undefined) text = isLate ? file : read(file, `${name}_FILE="${named}"`, problems);
  if (separator) {
    const items = text.split(file === undefined ? separator : '\n').map(item => item.trim());
    text = items.filter(Boolean).join('\n');
  }
  return isSet(text) ? { text, origin, ...(file !== undefined && { file }) } : undefined;
}

function read(path: string, what: string, problems: string[]): string {
  try {
    return readSettingFile(path);
  } catch (error) {
    problems.push(`${what} cannot be read: ${reasonOf(error)}`);
    return '';
  }
}

/**
 * What is wrong with the names of one place. The value of an unknown name is not shown: it could be a secret of a
 * setting misspelt.
 */
function unknown(given: Variables, suffix: string, readings: ReadonlyMap<string, Reading>): string[] {
  return Object.entries(given).flatMap(([name, value]) => {
    const [, prefix = '', base = '', file = ''] = /^(DEFAULT_)?(SLIM_.*?)(_FILE)?$/s.exec(name) ?? [];
    if (base === '' || !value || readings.has(base)) return [];
    const [nearest] = [...readings.keys()].toSorted((one, other) => likeness(base, other) - likeness(base, one));
    return [`${name}${suffix} is not a setting; the nearest is ${prefix}${nearest}${file}`];
  });
}

/** The part of their pairs of letters that two names share. */
function likeness(name: string, other: string): number {
  const pairs = Array.from(other, (_, at) => other.slice(at, at + 2));
  return pairs.filter(pair => name.includes(pair)).length / (name.length + other.length);
}
