// The settings: one table of all variables, and what they mean together (for users: docs/settings.md).
// Promises to report every wrong, unknown or contradictory setting in one go, secrets masked, and to give plain, frozen
// data that JSON carries to another process. Soft troubles (certificate, database down) are not its matter.
// A new setting is one line in `table` and one in `load`, where the settings are put together.
import { type CleanedEnv, customCleanEnv, makeExactValidator } from 'envalid';
import { type Environment, type Reading, type Source, collect } from './sources.ts';
import * as values from './values.ts';
import { toDomain } from '../mail/address.ts';

const required = <T>(parse: values.Parser<T>, how: Reading = {}) => Object.assign(makeExactValidator(parse)(), how);
const optional = <T>(parse: values.Parser<T>, how: Reading = {}) => ({ ...required(parse, how), default: undefined });
const hidden = (): string => '***';
const hidePassword = (url: string): string => url.replace(/(?<=:\/\/[^:/]*:)[^/?]*(?=@)|(?<=password=)[^&]*/g, '***');
const hideSecrets = (text: string): string => text.replaceAll(/:(?!@GENERATE$).*$/gm, ':***');
const words = /[\s,]+/;
const standardSockets = 'smtp://:25\nsubmission://:587\nsubmissions://:465';

/** Every variable. One that is neither set nor has a default, here or in `load`, is unset. */
const table = {
  SLIM_DOMAINS: required(values.domains, { separator: words, initially: '' }),
  SLIM_HOSTNAME: optional(values.domain),
  SLIM_LISTEN: required(values.sockets, { separator: words, initially: standardSockets }),
  SLIM_TLS_CERT: optional(String, { isLate: true, mask: hidden }),
  SLIM_TLS_KEY: optional(String, { isLate: true, mask: hidden }),
  SLIM_TLS_MIN: required(values.oneOf('TLSv1.2', 'TLSv1.3'), { initially: 'TLSv1.2' }),
  SLIM_TLS_REQUIRE: required(values.oneOf('auth', 'submission', 'all'), { initially: 'submission' }),
  SLIM_SUPPORTS: required(values.supports, { separator: /[,\r\n]/, initially: 'default' }),
  SLIM_MAX_SIZE: required(values.size, { initially: '50M' }),
  SLIM_USERS: optional(values.users, { separator: words, mask: hideSecrets }),
  SLIM_SENDER_CHECK: required(values.oneOf('strict', 'domain', 'off'), { initially: 'strict' }),
  SLIM_TRUSTED_NETWORKS: optional(values.networks, { separator: words }),
  SLIM_RELAY_HOST: optional(values.host),
  SLIM_RELAY_PORT: optional(values.port),
  SLIM_RELAY_TLS: required(values.oneOf('none', 'starttls', 'implicit'), { initially: 'starttls' }),
  SLIM_RELAY_USER: optional(values.loginName),
  SLIM_RELAY_PASSWORD: optional(String, { mask: hidden }),
  SLIM_EXTERNAL_TLS: required(values.oneOf('required', 'opportunistic'), { initially: 'required' }),
  SLIM_QUEUE_LIFETIME: required(values.wait, { initially: '5d' }),
  SLIM_MAX_SESSIONS_OUT: required(values.count, { initially: '20' }),
  SLIM_MAX_RECIPIENTS_OUT: required(values.count, { initially: '100' }),
  SLIM_RETRY: required(values.waits, { separator: words, initially: '1m\n5m\n15m\n1h\n3h' }),
  SLIM_DELAY_NOTICE: required(values.wait, { initially: '4h' }),
  SLIM_STORAGES: required(values.storages, { separator: words }),
  SLIM_MAIL_ROOT: required(values.path, { initially: '/var/mail' }),
  SLIM_SUBADDRESS: required(values.subaddress, { mayBeEmpty: true, initially: '+' }),
  SLIM_DATA: required(values.path, { initially: '/var/lib/slimsmtp' }),
  SLIM_ACCOUNTS: optional(values.accounts, { separator: words, mask: hideSecrets }),
  SLIM_MAX_SESSIONS: required(values.limit, { initially: '10000' }),
  SLIM_MAX_SESSIONS_PER_CLIENT: required(values.limit, { initially: '50' }),
  SLIM_RUN_AS: optional(values.account),
  SLIM_LOG_LEVEL: required(values.oneOf('debug', 'info', 'warn', 'error'), { initially: 'info' }),
  SLIM_LOG_FORMAT: required(values.oneOf('json', 'pretty')),
  SLIM_DRAIN: required(values.wait, { initially: '8s' }),
  DATABASE_URL: optional(values.databaseUrl, { mask: hidePassword }),
  PGHOST: optional(String),
  PGPORT: optional(values.port),
  PGUSER: optional(String),
  PGPASSWORD: optional(String, { mask: hidden }),
  PGDATABASE: optional(String),
  PGSSLMODE: optional(values.oneOf(...values.sslModes)),
  PGSSLROOTCERT: optional(values.path),
};
const rows: ReadonlyMap<string, Reading> = new Map(Object.entries(table));
const databaseNames = ['DATABASE_URL', 'PGHOST', 'PGUSER', 'PGPASSWORD', 'PGDATABASE'];

export type Settings = Readonly<ReturnType<typeof load>['settings']>;

/** Every problem of the settings, a sentence each. The exit status for it is 78. */
export class SettingsError extends Error {
  readonly problems: readonly string[] = this.message.split('\n');
}

/** Reads and checks everything. Throws SettingsError with all problems at once. */
export function loadSettings(environment: Environment): Settings {
  return load(environment).settings;
}

/** Every variable with its effective value, secrets masked, and its origin. Throws SettingsError as loadSettings does. */
export function describeSettings(environment: Environment): { name: string; value: string; origin: string }[] {
  const { settings, sources } = load(environment);
  const { hostname, maxSizeBytes } = settings;
  const computed = new Map(Object.entries({ SLIM_HOSTNAME: hostname, SLIM_MAX_SIZE: String(maxSizeBytes) }));
  return [...rows].map(([name, { mask = String }]) => {
    const { text = '', origin = 'default' } = sources.get(name) ?? {};
    return { name, value: computed.get(name) ?? (text && mask(text).replaceAll('\n', ',')), origin };
  });
}

function load(environment: Environment) {
  const { sources, problems } = collect(environment, rows);
  const hasDatabase = databaseNames.some(name => sources.has(name));
  const storages = `${hasDatabase ? '@POSTGRESQL\n' : ''}default=/var/mail/default`;
  const computed = { SLIM_STORAGES: storages, SLIM_LOG_FORMAT: environment.isTerminal ? 'pretty' : 'json' };
  for (const [name, { initially = computed[name as keyof typeof computed] }] of rows)
    if (initially !== undefined && !sources.has(name)) sources.set(name, { text: initially, origin: 'default' });
  const texts = Object.fromEntries([...sources].map(([name, { text }]) => [name, text]));
  const clean = customCleanEnv(texts, table, cleaned => cleaned, {
    reporter({ errors }) {
      for (const [name, { message }] of Object.entries(errors))
        problems.push(...message.split('\n').map(mistake => `${name}=${mistake}`));
    },
  });
  const isSet = (name: string): boolean => (sources.get(name)?.origin ?? 'default') !== 'default';
  problems.push(...contradictions(clean, hasDatabase, environment.isRoot, isSet));
  if (problems.length > 0) throw new SettingsError(problems.join('\n'));

  const ownName = environment.hostname.includes('.') ? toDomain(environment.hostname) : undefined;
  const entries = clean.SLIM_STORAGES;
  const settings = {
    domains: clean.SLIM_DOMAINS, // A-labels, lower case
    hostname: clean.SLIM_HOSTNAME ?? ownName ?? `mail.${clean.SLIM_DOMAINS[0]}`,
    listen: clean.SLIM_LISTEN,
    tls: {
      cert: pem(sources.get('SLIM_TLS_CERT')), // with its key, or neither
      key: pem(sources.get('SLIM_TLS_KEY')),
      minVersion: clean.SLIM_TLS_MIN,
      require: clean.SLIM_TLS_REQUIRE,
    },
    users: clean.SLIM_USERS ?? [],
    senderCheck: clean.SLIM_SENDER_CHECK,
    trustedNetworks: clean.SLIM_TRUSTED_NETWORKS ?? [], // address/bits
    relay: clean.SLIM_RELAY_HOST === undefined ? undefined : relay(clean.SLIM_RELAY_HOST, clean),
    externalTls: clean.SLIM_EXTERNAL_TLS,
    queue: { lifetimeMs: clean.SLIM_QUEUE_LIFETIME, retryMs: clean.SLIM_RETRY, delayNoticeMs: clean.SLIM_DELAY_NOTICE },
    maxSessionsOut: clean.SLIM_MAX_SESSIONS_OUT, // at once, to one destination
    maxRecipientsOut: clean.SLIM_MAX_RECIPIENTS_OUT, // of one transaction
    supports: clean.SLIM_SUPPORTS, // what may be announced, in order
    maxSizeBytes: Number(clean.SLIM_SUPPORTS.find(({ name }) => name === 'SIZE')?.parameter ?? clean.SLIM_MAX_SIZE),
    storages: {
      addresses: entries.filter(entry => entry.kind === 'address'),
      domains: entries.filter(entry => entry.kind === 'domain'),
      postgresql: entries.some(entry => entry.key === '@POSTGRESQL'),
      pam: entries.some(entry => entry.key === '@PAM'),
      default: entries.find(entry => entry.kind === 'default')?.path,
    },
    mailRoot: clean.SLIM_MAIL_ROOT,
    subaddress: clean.SLIM_SUBADDRESS, // '' is off
    database: hasDatabase ? database(texts, sources) : undefined,
    dataFolder: clean.SLIM_DATA,
    accounts: clean.SLIM_ACCOUNTS ?? [], // locked where without password
    maxSessions: clean.SLIM_MAX_SESSIONS, // 0 is no limit
    maxSessionsPerClient: clean.SLIM_MAX_SESSIONS_PER_CLIENT,
    runAs: clean.SLIM_RUN_AS,
    logLevel: clean.SLIM_LOG_LEVEL,
    logFormat: clean.SLIM_LOG_FORMAT,
    drainMs: clean.SLIM_DRAIN,
  };
  return { settings: freeze(settings), sources };
}

/** PEM text, or the file that holds it and may change. */
export type Pem = { readonly text?: string; readonly file?: string };

const pem = (source: Source | undefined): Pem | undefined =>
  source && { [source.isPath ? 'file' : 'text']: source.text };

function relay(host: string, clean: CleanedEnv<typeof table>) {
  const { SLIM_RELAY_PORT: port, SLIM_RELAY_TLS: tls, SLIM_RELAY_USER: user, SLIM_RELAY_PASSWORD: password } = clean;
  const usual = tls === 'implicit' ? 465 : user === undefined ? 25 : 587;
  return { host, port: port ?? usual, tls, ...(user !== undefined && password !== undefined && { user, password }) };
}

/** The database, and the files that hold its secret: they are read again when it connects anew. */
function database(texts: Readonly<Record<string, string>>, sources: ReadonlyMap<string, Source>): DatabaseSettings {
  const given = connectionString(texts);
  const [urlFile, passwordFile] = ['DATABASE_URL', 'PGPASSWORD'].map(name => sources.get(name)?.file);
  // A password in DATABASE_URL wins over PGPASSWORD.
  const isInUrl = Boolean(URL.parse(values.completeUrl(texts['DATABASE_URL'] ?? ''))?.password);
  if (isInUrl) return { connectionString: given, ...(urlFile && { urlFile }) };
  return { connectionString: given, ...(passwordFile && { passwordFile }) };
}

export type DatabaseSettings = Readonly<{ connectionString: string; urlFile?: string; passwordFile?: string }>;

/** The database as one URL, because pg looks for PG* in the environment only: what a URL leaves out comes from them. */
function connectionString(given: Readonly<Record<string, string>>): string {
  const host = given['PGHOST'] ?? 'localhost';
  const url = new URL(values.completeUrl(given['DATABASE_URL'] ?? 'postgres://', encodeURIComponent(host)));
  const parts = [
    ['hostname', host], // first: a URL without host can have no user
    ['port', given['PGPORT']],
    ['username', given['PGUSER']],
    ['password', given['PGPASSWORD']],
    ['pathname', given['PGDATABASE']],
  ] as const;
  for (const [part, value = ''] of parts) if (/^\/?$/.test(url[part])) url[part] = encodeURIComponent(value);
  const query = url.searchParams;
  // Without uselibpqcompat pg takes sslmode `require` for `verify-full`.
  const parameters = { uselibpqcompat: 'true', sslmode: given['PGSSLMODE'], sslrootcert: given['PGSSLROOTCERT'] };
  for (const [name, value] of Object.entries(parameters))
    if (value !== undefined && !query.has(name)) query.set(name, value);
  // Of `allow` pg knows nothing; both try TLS and make do without.
  if (query.get('sslmode') === 'allow') query.set('sslmode', 'prefer');
  // As libpq does: there is no TLS on a Unix socket.
  if (/^(?:\/|%2f)/i.test(query.get('host') ?? url.hostname)) query.set('sslmode', 'disable');
  return url.href;
}

type Clean = Partial<CleanedEnv<typeof table>>;
/** What is wrong between variables that are each right; the ones that are not are undefined here. */
function contradictions(clean: Clean, hasDatabase: boolean, isRoot: boolean, isSet: (name: string) => boolean) {
  const { SLIM_DOMAINS: hosted, SLIM_LISTEN: sockets, SLIM_SUPPORTS: supports, SLIM_STORAGES: entries = [] } = clean;
  const sources = new Set(entries.map(({ key }) => key));
  const users = new Set(clean.SLIM_USERS?.map(({ name }) => name));
  const mechanisms = supports?.find(({ name }) => name === 'AUTH')?.parameter?.split(' ') ?? ['PLAIN'];
  const isPlainRelay = clean.SLIM_RELAY_TLS === 'none';
  const relayParts = ['PORT', 'TLS', 'USER', 'PASSWORD'].map(part => `SLIM_RELAY_${part}`).filter(isSet);
  const needsStartTls = clean.SLIM_TLS_REQUIRE === 'all' && sockets?.some(({ kind }) => kind !== 'submissions');
  const has = (extension: string): boolean => supports?.some(({ name }) => name === extension) === true;
  // A database hosts domains of its own.
  const isStranger = (domain: string): boolean => !hasDatabase && hosted?.includes(domain) === false;
  const strangers = entries.filter(entry => 'domain' in entry && isStranger(entry.domain)).map(({ key }) => key);
  const rules = {
    [`SLIM_STORAGES: not in any of SLIM_DOMAINS: ${strangers.join(', ')}`]: strangers.length > 0,
    'SLIM_TLS_CERT, SLIM_TLS_KEY: only one is set': !clean.SLIM_TLS_CERT !== !clean.SLIM_TLS_KEY,
    'SLIM_TLS_REQUIRE="all": nobody could send without STARTTLS in SLIM_SUPPORTS':
      needsStartTls && supports && !has('STARTTLS'),
    'SLIM_SUPPORTS: SMTPUTF8 needs 8BITMIME (RFC 6531): take away both, or none': has('SMTPUTF8') && !has('8BITMIME'),
    'SLIM_STORAGES="@POSTGRESQL": DATABASE_URL or PGHOST is not set': sources.has('@POSTGRESQL') && !hasDatabase,
    'SLIM_USERS="@POSTGRESQL": DATABASE_URL or PGHOST is not set': users.has('@POSTGRESQL') && !hasDatabase,
    'SLIM_USERS="@PAM": only a server started as root has it': users.has('@PAM') && !isRoot,
    'SLIM_SUPPORTS: @PAM in SLIM_USERS cannot verify SCRAM, and AUTH offers nothing else: add PLAIN or LOGIN':
      users.has('@PAM') && mechanisms.every(name => name.startsWith('SCRAM')),
    [`${relayParts.join(', ')}: SLIM_RELAY_HOST is not set`]: relayParts.length > 0 && !isSet('SLIM_RELAY_HOST'),
    'SLIM_RELAY_USER, SLIM_RELAY_PASSWORD: only one is set': isSet('SLIM_RELAY_USER') !== isSet('SLIM_RELAY_PASSWORD'),
    'SLIM_RELAY_TLS="none": SLIM_RELAY_USER would send its password in clear text':
      isPlainRelay && isSet('SLIM_RELAY_USER'),
    'SLIM_RELAY_TLS="none", SLIM_EXTERNAL_TLS="required": they contradict each other; take one away':
      isPlainRelay && isSet('SLIM_EXTERNAL_TLS') && clean.SLIM_EXTERNAL_TLS === 'required',
    'SLIM_STORAGES="@PAM": only a server started as root has it': sources.has('@PAM') && !isRoot,
    'SLIM_ACCOUNTS: only a server started as root makes accounts': clean.SLIM_ACCOUNTS && !isRoot,
  };
  return Object.entries(rules).flatMap(([problem, isBroken]) => (isBroken ? [problem] : []));
}

function freeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null) Object.values(Object.freeze(value)).forEach(freeze);
  return value;
}
