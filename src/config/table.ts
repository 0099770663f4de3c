// Every variable: what it is, how its value is read and checked, its default. What the values mean together:
// settings.ts. A variable that is neither set nor has a default, here or in settings.ts, is unset.
import { type CleanedEnv, makeExactValidator } from 'envalid';
import * as acme from './acme.ts';
import { databaseUrl, hidePassword, ports, sslMode } from './database.ts';
import { externalTls } from './external-tls.ts';
import { accounts, users } from './logins.ts';
import { networks } from './networks.ts';
import { type Parser, oneOf } from './parser.ts';
import { httpSocket, sockets, standardSockets } from './sockets.ts';
import type { Reading } from './sources.ts';
import { storages } from './storages.ts';
import { resolvers } from './resolvers.ts';
import { supports } from './supports.ts';
import * as values from './values.ts';

type How = Omit<Reading, 'about'>;
const required = <T>(about: string, parse: Parser<T>, how: How = {}) =>
  Object.assign(makeExactValidator(parse)(), { about, ...how });
const optional = <T>(about: string, parse: Parser<T>, how: How = {}) => ({
  ...required(about, parse, how),
  default: undefined,
});
const hidden = (): string => '***';
const hideSecrets = (text: string): string => text.replaceAll(/:(?!@GENERATE$).*$/gm, ':***');
const separator = /[\s,]+/;

export const table = {
  SLIM_DOMAINS: required(
    'The domains whose mail is taken in, the main one first. A database adds those of its table.',
    values.domains,
    { separator, initially: '' },
  ),
  SLIM_HOSTNAME: optional('The name in the greeting, in EHLO and in Received.', values.domain),
  SLIM_LISTEN: required(
    'Sockets: smtp for mail from outside, submission (STARTTLS and a login), submissions (TLS from the start and a login).',
    sockets,
    { separator, initially: standardSockets },
  ),
  SLIM_TLS_CERT: optional('The certificate chain, PEM. As a file it is looked at every minute.', String, {
    isLate: true,
    mask: hidden,
  }),
  SLIM_TLS_KEY: optional('The private key of the certificate, PEM.', String, { isLate: true, mask: hidden }),
  SLIM_ACME: optional(
    'The mail address of an account at an ACME authority, from which the certificate comes then.',
    acme.address,
  ),
  SLIM_ACME_URL: required('The directory of the authority.', acme.directory, {
    initially: 'https://acme-v02.api.letsencrypt.org/directory',
  }),
  SLIM_ACME_NAMES: optional('Further names of the certificate, besides SLIM_HOSTNAME.', values.domains, { separator }),
  SLIM_ACME_HTTP: required('Where the authority comes to see that the names are ours (http-01).', httpSocket, {
    initially: ':80',
  }),
  SLIM_TLS_MIN: required('The oldest version of TLS that clients may use.', oneOf('TLSv1.2', 'TLSv1.3'), {
    initially: 'TLSv1.2',
  }),
  SLIM_TLS_REQUIRE: required(
    'Who must use TLS: auth (logins), submission (also all mail on submission sockets), all (also mail on port 25).',
    oneOf('auth', 'submission', 'all'),
    { initially: 'submission' },
  ),
  SLIM_SUPPORTS: required(
    'The extensions that are announced: default, default with changes, or a whole list.',
    supports,
    {
      separator: /[,\r\n]/,
      initially: 'default',
    },
  ),
  SLIM_MAX_SIZE: required('The limit for a message, inclusive, unless SIZE in SLIM_SUPPORTS gives one.', values.size, {
    initially: '50M',
  }),
  SLIM_USERS: optional(
    'Logins: name:secret, name:@GENERATE, @PAM, @POSTGRESQL. The first source that knows the name decides.',
    users,
    { separator, mask: hideSecrets },
  ),
  SLIM_SENDER_CHECK: required(
    'Which envelope senders a login may use: strict (its own addresses), domain (any hosted domain), off.',
    oneOf('strict', 'domain', 'off'),
    { initially: 'strict' },
  ),
  SLIM_VERIFY: required(
    'Mail from outside: on (SPF, DKIM, ARC and DMARC are judged, and DMARC is obeyed), strict, tag (only a header field), off.',
    oneOf('on', 'strict', 'tag', 'off'),
    { initially: 'on' },
  ),
  SLIM_DNSBL: optional('Block lists in the DNS that clients from outside are looked up in.', values.domains, {
    separator,
  }),
  SLIM_RATE_CLIENT: optional('How many messages a client from outside may send: 200/1h.', values.rate),
  SLIM_RATE_LOGIN: optional('To how many recipients a login may send: 200/1h.', values.rate),
  SLIM_RSPAMD: optional('Rspamd, which judges mail from outside: http://rspamd:11333.', values.rspamd),
  SLIM_DKIM: optional(
    'Whether outgoing mail of hosted domains is signed: on, off. Unset: on by MX, off through a relay.',
    oneOf('on', 'off'),
  ),
  SLIM_TRUSTED_NETWORKS: optional('Networks that may send outward without a login, on every socket.', networks, {
    separator,
  }),
  SLIM_PROXY_NETWORKS: optional('Networks of proxies that name their clients by a PROXY header.', networks, {
    separator,
  }),
  SLIM_RELAY_HOST: optional('The relay that takes all mail for other domains.', values.host),
  SLIM_RELAY_PORT: optional('Its port: 25, or 587 with a user, or 465 with implicit TLS.', values.port),
  SLIM_RELAY_TLS: optional(
    'TLS to the relay: none, starttls (required), implicit. On port 465 implicit, else starttls.',
    oneOf('none', 'starttls', 'implicit'),
  ),
  SLIM_RELAY_USER: optional('The login at the relay.', values.loginName),
  SLIM_RELAY_PASSWORD: optional('Its password. As a file it is read again when a login fails, and on SIGHUP.', String, {
    mask: hidden,
  }),
  SLIM_RESOLVER: optional(
    "DNS servers for names that come from mail: address, address:port or a host name. By default the system's.",
    resolvers,
    { separator },
  ),
  SLIM_EXTERNAL_TLS: required(
    'TLS to other servers: required (never in plain text) or opportunistic, then exceptions: example.net=opportunistic.',
    externalTls,
    { separator, initially: 'required' },
  ),
  SLIM_MAX_SESSIONS_OUT: required('Sessions with one destination at once, at most.', values.count, { initially: '20' }),
  SLIM_MAX_RECIPIENTS_OUT: required('Recipients in one transaction with another server, at most.', values.count, {
    initially: '100',
  }),
  SLIM_QUEUE: required(
    'Where mail waits: disk (SLIM_DATA), or @POSTGRESQL, the queue of all replicas that use this database.',
    oneOf('disk', '@POSTGRESQL'),
    { initially: 'disk' },
  ),
  SLIM_QUEUE_LIFETIME: required('How long mail for other servers may wait before it bounces.', values.wait, {
    initially: '5d',
  }),
  SLIM_RETRY: required('The waits between attempts; the last one repeats.', values.waits, {
    separator,
    initially: '1m\n5m\n15m\n1h\n3h',
  }),
  SLIM_DELAY_NOTICE: required('When the sender is told that mail is late.', values.wait, { initially: '4h' }),
  SLIM_STORAGES: required(
    'Who gets the mail: addr@domain=PATH, *@domain=PATH, @POSTGRESQL, @PAM, default=PATH. A PATH is a Maildir, or an address.',
    storages,
    { separator },
  ),
  SLIM_DKIM_KEYS: optional(
    'The folder of the keys that sign, the same for all replicas; it may be read-only. Unset: below SLIM_DATA.',
    values.path,
  ),
  SLIM_SRS_SECRET: optional(
    'The secret behind the reverse-paths of forwarded mail; the same for all replicas. Unset: one is made at need.',
    values.secret,
    { mask: hidden },
  ),
  SLIM_MAIL_ROOT: required('Where the MAILDIR mailboxes of a database live: <root>/<domain>/<mailbox>/.', values.path, {
    initially: '/var/mail',
  }),
  SLIM_SUBADDRESS: required('What begins a subaddress: with +, anton+shop@ is anton@. Empty: off.', values.subaddress, {
    mayBeEmpty: true,
    initially: '+',
  }),
  SLIM_DATA: required('The folder of queue, keys and state.', values.path, { initially: '/var/lib/slimsmtp' }),
  SLIM_ACCOUNTS: optional(
    'Unix accounts that are made at start where missing: name (locked) or name:password.',
    accounts,
    {
      separator,
      mask: hideSecrets,
    },
  ),
  SLIM_MAX_SESSIONS: required('Sessions at once; 0 is no limit.', values.limit, { initially: '10000' }),
  SLIM_MAX_SESSIONS_PER_CLIENT: required('Sessions of one client at once; 0 is no limit.', values.limit, {
    initially: '50',
  }),
  SLIM_HISTORY: required(
    'How long the life events of messages are kept, for slimsmtp trace; or off.',
    values.lifetime,
    {
      initially: '7d',
    },
  ),
  SLIM_RUN_AS: optional('Started as root: the user whom the process that speaks to strangers runs as.', values.account),
  SLIM_LOG_LEVEL: required(
    'What is logged: debug, info, warn or error, and what is graver.',
    oneOf('debug', 'info', 'warn', 'error'),
    {
      initially: 'info',
    },
  ),
  SLIM_LOG_FORMAT: required('How: json, or pretty, which is the default on a terminal.', oneOf('json', 'pretty')),
  SLIM_DRAIN: required('How long sessions may take to end after SIGTERM.', values.wait, { initially: '8s' }),
  SLIM_HTTP: optional('Where the HTTP server listens: host:port. Unset: there is none.', httpSocket),
  SLIM_CAPTURE: required(
    'A mail catcher for tests: on (everything is taken, every login is right, nothing leaves), users (the same, with the logins of SLIM_USERS), off.',
    oneOf('off', 'on', 'users'),
    { initially: 'off' },
  ),
  SLIM_CAPTURE_KEEP: required('The newest so many captured messages stay.', values.kept, { initially: '1000' }),
  DATABASE_URL: optional('PostgreSQL as one URL, with one host or several.', databaseUrl, { mask: hidePassword }),
  PGHOST: optional(
    'The host of PostgreSQL, or the folder of its Unix socket; of several hosts the first that takes writes.',
    String,
    { separator: /\s*,\s*/ },
  ),
  PGPORT: optional('The port of PostgreSQL: one for all hosts, or one for each.', ports, { separator }),
  PGUSER: optional('The user at PostgreSQL.', String),
  PGPASSWORD: optional('The password at PostgreSQL. As a file it is read again by each new connection.', String, {
    mask: hidden,
  }),
  PGDATABASE: optional('The database.', String),
  PGSSLMODE: optional('TLS to PostgreSQL: disable, allow, prefer, require, verify-full.', sslMode),
  PGSSLROOTCERT: optional('The file of the authorities that verify-full trusts.', values.path),
  NODE_EXTRA_CA_CERTS: optional(
    'A file of further certificate authorities (PEM), for the relay and for other servers.',
    values.path,
  ),
};

/** How each variable is read, by its name. */
export const readings: ReadonlyMap<string, Reading> = new Map(Object.entries(table));

/** The values, all of them right. */
export type Clean = CleanedEnv<typeof table>;
