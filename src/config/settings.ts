// The settings: one table of all variables, and what they mean together (for users: the table in README.md).
// Promises to report every wrong, unknown or contradictory setting in one go, secrets masked, and to give plain, frozen
// data that structured clone carries to another process. Soft troubles (certificate, database down) are not its matter.
// A new setting is one line in `table` and one in `load`, where the settings are put together.
import { resolve } from 'node:path';
import { customCleanEnv, makeExactValidator } from 'envalid';
import type { CleanedEnv, RequiredValidatorSpec } from 'envalid';
import { readDatabase } from './database.ts';
import { collect } from './sources.ts';
import type { Environment, Reading, Source } from './sources.ts';
import * as values from './values.ts';
import { toDomain } from '../mail.ts';

/** `initially`: what it is unless set, as a user would write it. `mask` takes secrets out of a value to be shown. */
type Treatment = Reading & { readonly initially?: string; readonly mask?: (text: string) => string };

const required = <T>(parse: (text: string) => T, how: Treatment = {}): RequiredValidatorSpec<T> & Treatment =>
  Object.assign(makeExactValidator(parse)(), how);
const optional = <T>(parse: (text: string) => T, how: Treatment = {}) => ({
  ...required(parse, how),
  default: undefined,
});
const text = (value: string): string => value;
const hidden = (): string => '***';
const words = /[\s,]+/;

/** Every variable. One that is neither set nor has a default, here or in `load`, is unset. */
const table = {
  SLIM_DOMAINS: required(values.domains, { separator: words }),
  SLIM_HOSTNAME: optional(values.domain),
  SLIM_LISTEN: required(values.sockets, {
    separator: words,
    initially: 'smtp://:25\nsubmission://:587\nsubmissions://:465',
  }),
  SLIM_TLS_CERT: optional(text, { isLate: true, mask: cert => cert.split('\n')[0] ?? '' }),
  SLIM_TLS_KEY: optional(text, { isLate: true, mask: hidden }),
  SLIM_TLS_MIN: required(values.oneOf('TLSv1.2', 'TLSv1.3'), { initially: 'TLSv1.2' }),
  SLIM_TLS_REQUIRE: required(values.oneOf('auth', 'submission', 'all'), { initially: 'submission' }),
  SLIM_SUPPORTS: required(values.supports, { separator: /[,\r\n]/, initially: 'default' }),
  SLIM_MAX_SIZE: required(values.size, { initially: '50M' }),
  SLIM_STORAGES: required(values.storages, { separator: words }),
  SLIM_MAIL_ROOT: required(values.path, { initially: '/var/mail' }),
  SLIM_SUBADDRESS: required(values.subaddress, { mayBeEmpty: true, initially: '+' }),
  SLIM_DATA: required(values.path, { initially: '/var/lib/slimsmtp' }),
  SLIM_ACCOUNTS: optional(values.accounts, { separator: words, mask: values.maskAccounts }),
  SLIM_MAX_SESSIONS: required(values.limit, { initially: '10000' }),
  SLIM_MAX_SESSIONS_PER_CLIENT: required(values.limit, { initially: '50' }),
  SLIM_RUN_AS: optional(values.account),
  SLIM_LOG_LEVEL: required(values.oneOf('debug', 'info', 'warn', 'error'), { initially: 'info' }),
  SLIM_LOG_FORMAT: required(values.oneOf('json', 'pretty')),
  SLIM_DRAIN: required(values.wait, { initially: '8s' }),
  DATABASE_URL: optional(text, { mask: values.maskUrl }),
  PGHOST: optional(text),
  PGPORT: optional(text),
  PGUSER: optional(text),
  PGPASSWORD: optional(text, { mask: hidden }),
  PGDATABASE: optional(text),
  PGSSLMODE: optional(text),
  PGSSLROOTCERT: optional(text),
};
const rows: ReadonlyMap<string, Treatment> = new Map(Object.entries(table));

export type Settings = Readonly<ReturnType<typeof load>['settings']>;

/** Every problem of the settings, a sentence each. The exit status for it is 78. */
export class SettingsError extends Error {
  override readonly name = 'SettingsError';
  readonly problems: readonly string[];
  constructor(problems: readonly string[]) {
    super(problems.join('\n'));
    this.problems = problems;
  }
}

/** Reads and checks everything. Throws SettingsError with all problems at once. */
export function loadSettings(environment: Environment): Settings {
  return load(environment).settings;
}

/** Every variable with its effective value, secrets masked, and its origin. Throws SettingsError as loadSettings does. */
export function describeSettings(environment: Environment): { name: string; value: string; origin: string }[] {
  const { settings, sources } = load(environment);
  const effective = new Map([
    ['SLIM_DATA', settings.dataFolder],
    ['SLIM_HOSTNAME', settings.hostname],
    ['SLIM_MAIL_ROOT', settings.mailRoot],
    ['SLIM_MAX_SIZE', String(settings.maxSizeBytes)],
  ]);
  return [...rows].map(([name, { mask = text }]) => {
    const { text: value = '', origin = 'default' } = sources.get(name) ?? {};
    return { name, value: effective.get(name) ?? (value && mask(value).replaceAll('\n', ',')), origin };
  });
}

function load(environment: Environment) {
  const problems: string[] = [];
  const sources = collect(environment, rows, problems);
  const database = readDatabase(name => sources.get(name)?.text, environment, problems);
  const computed = new Map([
    ['SLIM_STORAGES', `${database ? '@POSTGRESQL\n' : ''}default=/var/mail/default`],
    ['SLIM_LOG_FORMAT', environment.isTerminal ? 'pretty' : 'json'],
  ]);
  for (const [name, { initially = computed.get(name) }] of rows)
    if (initially !== undefined && !sources.has(name)) sources.set(name, { text: initially, origin: 'default' });

  const texts = Object.fromEntries([...sources].map(([name, source]) => [name, source.text]));
  const clean = customCleanEnv(texts, table, cleaned => cleaned, {
    reporter: ({ errors }) =>
      void problems.push(...Object.entries(errors).flatMap(([name, error]) => explain(name, error))),
  });
  problems.push(...contradictions(clean, environment.isRoot, sources, database !== undefined));
  if (problems.length > 0) throw new SettingsError(problems);

  const ownName = environment.hostname.includes('.') ? toDomain(environment.hostname) : undefined;
  const sizeAnnounced = clean.SLIM_SUPPORTS.find(({ name }) => name === 'SIZE')?.parameter;
  const absolute = (path: string): string => resolve(environment.cwd, path);
  const entries = clean.SLIM_STORAGES.map(entry =>
    'path' in entry ? { ...entry, path: absolute(entry.path) } : entry,
  );
  const settings = {
    /** A-labels, lower case. */
    domains: clean.SLIM_DOMAINS,
    hostname: clean.SLIM_HOSTNAME ?? ownName ?? `mail.${clean.SLIM_DOMAINS[0]}`,
    listen: clean.SLIM_LISTEN,
    tls: {
      /** Certificate and key are both there or both absent. */
      cert: pem(sources.get('SLIM_TLS_CERT')),
      key: pem(sources.get('SLIM_TLS_KEY')),
      minVersion: clean.SLIM_TLS_MIN,
      require: clean.SLIM_TLS_REQUIRE,
    },
    /** What may be announced, in order. Only AUTH may have a parameter; SIZE's is `maxSizeBytes`. */
    supports: clean.SLIM_SUPPORTS.map(each => (each.name === 'SIZE' ? { name: 'SIZE' } : each)),
    /** SIZE in SLIM_SUPPORTS wins, also over a SLIM_MAX_SIZE set by hand: so is SLIM_MAX_SIZE defined. */
    maxSizeBytes: sizeAnnounced === undefined ? clean.SLIM_MAX_SIZE : Number(sizeAnnounced),
    storages: {
      addresses: entries.filter(entry => entry.kind === 'address'),
      domains: entries.filter(entry => entry.kind === 'domain'),
      postgresql: entries.some(entry => entry.kind === '@POSTGRESQL'),
      pam: entries.some(entry => entry.kind === '@PAM'),
      default: entries.find(entry => entry.kind === 'default')?.path,
    },
    mailRoot: absolute(clean.SLIM_MAIL_ROOT),
    /** '' is off. */
    subaddress: clean.SLIM_SUBADDRESS,
    database,
    dataFolder: absolute(clean.SLIM_DATA),
    /** Without password: locked. */
    accounts: clean.SLIM_ACCOUNTS ?? [],
    /** Infinity is no limit. */
    maxSessions: clean.SLIM_MAX_SESSIONS,
    maxSessionsPerClient: clean.SLIM_MAX_SESSIONS_PER_CLIENT,
    runAs: clean.SLIM_RUN_AS,
    logLevel: clean.SLIM_LOG_LEVEL,
    logFormat: clean.SLIM_LOG_FORMAT,
    drainMs: clean.SLIM_DRAIN,
  };
  return { settings: freeze(settings), sources };
}

/** PEM text, or the file that holds it and may change. */
export type Pem = { readonly text: string } | { readonly file: string };

function pem(source: Source | undefined): Pem | undefined {
  return source && (source.isPath ? { file: source.text } : { text: source.text });
}

/** The problems of one variable as sentences. */
function explain(name: string, error: Error): readonly string[] {
  const mask = rows.get(name)?.mask ?? text;
  return error instanceof values.Wrong
    ? error.mistakes.map(({ value, wanted }) => `${name}=${JSON.stringify(mask(value))}: ${wanted}`)
    : [`${name} is not set: the domains to host are wanted, such as example.com`];
}

/** What is wrong between variables that are each right; the ones that are not are undefined here. */
function contradictions(
  clean: Partial<CleanedEnv<typeof table>>,
  isRoot: boolean,
  sources: ReadonlyMap<string, Source>,
  hasDatabase: boolean,
): readonly string[] {
  const { SLIM_DOMAINS: hosted, SLIM_LISTEN: sockets = [], SLIM_STORAGES: entries = [], SLIM_RUN_AS: runAs } = clean;
  const kinds = new Set(entries.map(entry => entry.kind));
  const hasPlain = sockets.some(({ kind }) => kind !== 'submissions');
  const hasStartTls = clean.SLIM_SUPPORTS?.some(({ name }) => name === 'STARTTLS');
  const named = entries.flatMap(entry => ('domain' in entry ? [entry.domain] : []));
  const strangers = named.filter(name => !hasDatabase && hosted?.includes(name) === false);
  const clashes = sockets.filter((one, index) => sockets.slice(0, index).some(other => values.overlap(one, other)));
  const rules: readonly (readonly [unknown, string])[] = [
    [sources.has('SLIM_TLS_KEY') && !sources.has('SLIM_TLS_CERT'), 'SLIM_TLS_CERT is not set, but SLIM_TLS_KEY is'],
    [sources.has('SLIM_TLS_CERT') && !sources.has('SLIM_TLS_KEY'), 'SLIM_TLS_KEY is not set, but SLIM_TLS_CERT is'],
    ...clashes.map(({ port }) => [true, `SLIM_LISTEN: two sockets on port ${port} of the same address`] as const),
    ...strangers.map(name => [true, `SLIM_STORAGES: ${name} is not among SLIM_DOMAINS`] as const),
    [
      clean.SLIM_TLS_REQUIRE === 'all' && hasPlain && !hasStartTls,
      'SLIM_TLS_REQUIRE="all": SLIM_SUPPORTS has no STARTTLS, so nobody could send',
    ],
    [
      kinds.has('@POSTGRESQL') && !hasDatabase,
      'SLIM_STORAGES="@POSTGRESQL": no database is set (DATABASE_URL, PGHOST …)',
    ],
    [kinds.has('@PAM') && !isRoot, 'SLIM_STORAGES="@PAM": only a server started as root delivers to Unix accounts'],
    [clean.SLIM_ACCOUNTS && !isRoot, 'SLIM_ACCOUNTS: only a server started as root creates Unix accounts'],
    [runAs === 'root', 'SLIM_RUN_AS="root": a user without privileges is wanted'],
    [clean.SLIM_ACCOUNTS?.some(each => each.name === runAs), `SLIM_ACCOUNTS="${runAs}": that is SLIM_RUN_AS`],
  ];
  return rules.filter(([isBroken]) => isBroken).map(([, problem]) => problem);
}

function freeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null) Object.values(Object.freeze(value)).forEach(freeze);
  return value;
}
