// The settings: what all variables mean together (for users: docs/settings.md).
// Promises: every wrong, unknown or contradictory setting is reported in one go, secrets masked; what is given is
// plain, frozen data that JSON carries to another process. Troubles that pass (no certificate yet, a database that is
// down) are not its matter. A new setting is a line in table.ts and one in `load`; what contradicts another variable
// goes into contradictions.ts.
import { customCleanEnv } from 'envalid';
import { toDomain } from '../mail/address.ts';
import type { Format } from '../system/log.ts';
import { applyCapture } from './capture.ts';
import { contradictions } from './contradictions.ts';
import { databaseNames, readDatabase } from './database.ts';
import { type Environment, type Source, collect } from './sources.ts';
import { mailRoots, sortStorages } from './storages.ts';
import { type Clean, readings, table } from './table.ts';

export type Settings = Readonly<ReturnType<typeof load>['settings']>;
export type { DatabaseSettings } from './database.ts';

/** Every problem of the settings, a sentence each. The exit status for it is 78. */
export class SettingsError extends Error {
  readonly problems: readonly string[];
  /** How the log would be written: its own setting may well be right. */
  readonly logFormat: Format;
  constructor(problems: readonly string[], logFormat: Format) {
    super(problems.join('\n'));
    this.problems = problems;
    this.logFormat = logFormat;
  }
}

/** Reads and checks everything. Throws SettingsError with all problems at once. */
export function loadSettings(environment: Environment): Settings {
  return load(environment).settings;
}

/** A variable with its effective value, secrets masked, and where that came from. */
type Described = Readonly<Record<'name' | 'value' | 'origin' | 'about', string>>;

/** Every variable. Throws SettingsError as loadSettings does. */
export function describeSettings(environment: Environment): readonly Described[] {
  const { settings, sources } = load(environment);
  const { hostname, maxSizeBytes, relay: hop, dkim } = settings;
  const given = {
    SLIM_HOSTNAME: hostname,
    SLIM_MAX_SIZE: String(maxSizeBytes),
    SLIM_RELAY_TLS: hop?.tls ?? 'starttls',
    SLIM_DKIM: dkim ? 'on' : 'off',
  };
  const computed = new Map(Object.entries(given));
  return [...readings].map(([name, { about, mask = String }]) => {
    const { text = '', origin = 'default' } = sources.get(name) ?? {};
    return { name, value: computed.get(name) ?? (text && mask(text).replaceAll('\n', ',')), origin, about };
  });
}

function load(environment: Environment) {
  const { sources, problems, remarks } = collect(environment, readings);
  applyCapture(sources, remarks, environment);
  const hasDatabase = databaseNames.some(name => sources.has(name));
  addDefaults(sources, hasDatabase, environment);
  const texts = Object.fromEntries([...sources].map(([name, { text }]) => [name, text]));
  const clean = customCleanEnv(texts, table, cleaned => cleaned, {
    reporter({ errors }) {
      for (const [name, { message }] of Object.entries(errors))
        problems.push(...message.split('\n').map(mistake => `${name}=${mistake}`));
    },
  });
  const isSet = (name: string): boolean => (sources.get(name)?.origin ?? 'default') !== 'default';
  problems.push(...contradictions(clean, { hasDatabase, isRoot: environment.isRoot, isSet, signs: signs(clean) }));
  const usualFormat = environment.isTerminal ? 'pretty' : 'json';
  if (problems.length > 0) throw new SettingsError(problems, clean.SLIM_LOG_FORMAT ?? usualFormat);

  const ownName = environment.hostname.includes('.') ? toDomain(environment.hostname) : undefined;
  const storages = sortStorages(clean.SLIM_STORAGES);
  const hostname = clean.SLIM_HOSTNAME ?? ownName ?? `mail.${clean.SLIM_DOMAINS[0]}`;
  const settings = {
    domains: clean.SLIM_DOMAINS, // A-labels, lower case
    hostname,
    listen: clean.SLIM_LISTEN,
    tls: {
      cert: pem(sources.get('SLIM_TLS_CERT')), // with its key, or neither
      key: pem(sources.get('SLIM_TLS_KEY')),
      minVersion: clean.SLIM_TLS_MIN,
      require: clean.SLIM_TLS_REQUIRE,
    },
    acme: clean.SLIM_ACME === undefined ? undefined : acme(clean, clean.SLIM_ACME, hostname),
    extraAuthorities: authorities(clean, sources),
    users: clean.SLIM_USERS ?? [],
    senderCheck: clean.SLIM_SENDER_CHECK,
    verify: clean.SLIM_VERIFY,
    blockLists: clean.SLIM_DNSBL ?? [],
    rateOfClient: clean.SLIM_RATE_CLIENT,
    rateOfLogin: clean.SLIM_RATE_LOGIN,
    rspamd: clean.SLIM_RSPAMD,
    trustedNetworks: clean.SLIM_TRUSTED_NETWORKS ?? [], // address/bits
    proxyNetworks: clean.SLIM_PROXY_NETWORKS ?? [], // address/bits
    relay: clean.SLIM_RELAY_HOST === undefined ? undefined : relay(clean.SLIM_RELAY_HOST, clean, sources),
    dkim: signs(clean),
    dkimKeys: clean.SLIM_DKIM_KEYS, // unset: below dataFolder
    sharesQueue: clean.SLIM_QUEUE === '@POSTGRESQL', // with other replicas, in the database
    resolver: clean.SLIM_RESOLVER, // undefined: the system's
    externalTls: clean.SLIM_EXTERNAL_TLS, // the policy, then the domains that have another one
    queue: { lifetimeMs: clean.SLIM_QUEUE_LIFETIME, retryMs: clean.SLIM_RETRY, delayNoticeMs: clean.SLIM_DELAY_NOTICE },
    maxSessionsOut: clean.SLIM_MAX_SESSIONS_OUT, // at once, to one destination
    maxRecipientsOut: clean.SLIM_MAX_RECIPIENTS_OUT, // of one transaction
    supports: clean.SLIM_SUPPORTS, // what may be announced, in order
    maxSizeBytes: Number(clean.SLIM_SUPPORTS.find(({ name }) => name === 'SIZE')?.parameter ?? clean.SLIM_MAX_SIZE),
    storages,
    srsSecret: clean.SLIM_SRS_SECRET, // unset: one is made when it is needed
    mailRoot: clean.SLIM_MAIL_ROOT,
    mailRoots: mailRoots(storages, clean.SLIM_MAIL_ROOT), // every folder below which mail is kept
    subaddress: clean.SLIM_SUBADDRESS, // '' is off
    database: hasDatabase ? readDatabase(texts, sources) : undefined,
    dataFolder: clean.SLIM_DATA,
    accounts: clean.SLIM_ACCOUNTS ?? [], // locked where without password
    maxSessions: clean.SLIM_MAX_SESSIONS, // 0 is no limit
    maxSessionsPerClient: clean.SLIM_MAX_SESSIONS_PER_CLIENT,
    historyMs: clean.SLIM_HISTORY, // 0: off
    runAs: clean.SLIM_RUN_AS,
    logLevel: clean.SLIM_LOG_LEVEL,
    logFormat: clean.SLIM_LOG_FORMAT,
    drainMs: clean.SLIM_DRAIN,
    http: clean.SLIM_HTTP, // undefined: no HTTP server
    // It is undefined where the server is an ordinary one.
    capture: capture(clean, storages.places.filter(each => 'path' in each).find(each => each.kind === 'default')?.path),
    remarks, // for the log, at the start
  };
  return { settings: freeze(settings), sources };
}

/** Whose logins are right, how much is kept and where. */
const capture = ({ SLIM_CAPTURE: mode, SLIM_CAPTURE_KEEP: keep }: Clean, folder = '') =>
  mode === 'off' ? undefined : { users: mode === 'on' ? ('all' as const) : ('listed' as const), keep, folder };

const acme = (
  { SLIM_ACME_URL: directoryUrl, SLIM_ACME_NAMES = [], SLIM_ACME_HTTP: http }: Clean,
  email: string,
  hostname: string,
) => ({
  email,
  directoryUrl,
  names: [...new Set([hostname, ...SLIM_ACME_NAMES])],
  http,
});

/** A file of certificates. From the environment, Node itself has read it. */
const authorities = ({ NODE_EXTRA_CA_CERTS: file }: Clean, sources: ReadonlyMap<string, Source>) =>
  file === undefined ? undefined : { file, isNodes: sources.get('NODE_EXTRA_CA_CERTS')?.origin === 'environment' };

/** Many relays sign themselves, or refuse a signature of somebody else. */
const signs = ({ SLIM_DKIM: asked, SLIM_RELAY_HOST: relayHost }: Clean): boolean =>
  asked === undefined ? relayHost === undefined : asked === 'on';

/** The defaults of the table, and those that depend on where the server runs. */
function addDefaults(sources: Map<string, Source>, hasDatabase: boolean, { isTerminal }: Environment): void {
  const mailRoot = sources.get('SLIM_MAIL_ROOT')?.text ?? readings.get('SLIM_MAIL_ROOT')?.initially;
  const computed: Readonly<Record<string, string>> = {
    SLIM_STORAGES: `${hasDatabase ? '@POSTGRESQL\n' : ''}default=${mailRoot}/default`,
    SLIM_LOG_FORMAT: isTerminal ? 'pretty' : 'json',
  };
  for (const [name, { initially = computed[name] }] of readings)
    if (initially !== undefined && !sources.has(name)) sources.set(name, { text: initially, origin: 'default' });
}

/** PEM text, or the file that holds it and may change. */
export type Pem = { readonly text?: string; readonly file?: string };

/** In a variable of one line the ends of lines are often written out, as \n. */
function pem(source: Source | undefined): Pem | undefined {
  if (!source) return undefined;
  const { text, file } = source;
  return file === undefined ? { text: text.replaceAll('\\n', '\n') } : { file };
}

/** `passwordFile`: the password may be read again from there. */
function relay(host: string, clean: Clean, sources: ReadonlyMap<string, Source>) {
  const { SLIM_RELAY_PORT: port, SLIM_RELAY_USER: user, SLIM_RELAY_PASSWORD: password } = clean;
  const tls = clean.SLIM_RELAY_TLS ?? (port === 465 ? 'implicit' : 'starttls');
  const usual = tls === 'implicit' ? 465 : user === undefined ? 25 : 587;
  const passwordFile = sources.get('SLIM_RELAY_PASSWORD')?.file;
  return {
    host,
    port: port ?? usual,
    tls,
    ...(user !== undefined && password !== undefined && { user, password, ...(passwordFile && { passwordFile }) }),
  };
}

function freeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null) Object.values(Object.freeze(value)).forEach(freeze);
  return value;
}
