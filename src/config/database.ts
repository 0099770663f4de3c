// Where the database is: DATABASE_URL or libpq's own names (PGHOST …) become a URL for each host, because `pg` looks
// for PG* in the environment only, and the settings may come from elsewhere; nor does it know several hosts.
// Promise: what libpq takes from such names is what `pg` is told; the files that hold the password are known, so that a
// new connection can read them again.
import { listOf, oneOf, parser } from './parser.ts';
import type { Source } from './sources.ts';
import { port } from './values.ts';

/** A URL for each host, in their order. */
export type DatabaseSettings = Readonly<{
  connectionStrings: readonly string[];
  urlFile?: string;
  passwordFile?: string;
}>;

/** One of these that is set turns the database on. */
export const databaseNames = ['DATABASE_URL', 'PGHOST', 'PGUSER', 'PGPASSWORD', 'PGDATABASE'];

/** As libpq calls them; `verify-ca` is not among them, because nothing but a root of one's own makes it safe. */
export const sslMode = oneOf('disable', 'allow', 'prefer', 'require', 'verify-full');

/** `postgres://user@/db?host=/folder` is good for libpq, but no URL for Node until it names a host. */
const completeUrl = (url: string, hostname = 'localhost'): string =>
  url.replace(/^([a-z]+:\/\/[^/?@]*@)(?=[/?]|$)/, `$1${hostname}`);

/** One port for all hosts, or one for each. */
export const ports = listOf(port, String, true);

/** `postgres://user@one,two:5433/db` names two hosts, and is no URL for Node: a URL for each. */
function urlsOf(text: string): readonly string[] {
  const [, start = '', hosts, rest = ''] = /^([a-z]+:\/\/(?:[^/?@]*@)?)([^/?]*,[^/?]*)(.*)$/s.exec(text) ?? [];
  return hosts === undefined ? [text] : hosts.split(',').map(host => `${start}${host}${rest}`);
}

export const databaseUrl = parser(
  'postgres://user:password@host:port/database is wanted (hosts by commas), with special characters as %XX',
  /^(postgres(?:ql)?:\/\/.*)$/s,
  text => urlsOf(text).every(url => URL.canParse(completeUrl(url))) && text,
  true,
);

/** Takes the passwords out of a URL. */
export const hidePassword = (url: string): string =>
  url.replace(/(?<=:\/\/[^:/]*:)[^/?]*(?=@)|(?<=password=)[^&]*/g, '***');

/**
 * The database, and the file that holds its password, where there is one. A password in the URL wins over PGPASSWORD.
 */
export function readDatabase(
  texts: Readonly<Record<string, string>>,
  sources: ReadonlyMap<string, Source>,
): DatabaseSettings {
  const urls = urlsOf(texts['DATABASE_URL'] ?? '');
  const isInUrl = Boolean(URL.parse(completeUrl(urls[0] ?? ''))?.password);
  const file = sources.get(isInUrl ? 'DATABASE_URL' : 'PGPASSWORD')?.file;
  const hosts = (texts['PGHOST'] ?? 'localhost').split(/[\n,]/);
  const portsOfHosts = (texts['PGPORT'] ?? '').split('\n');
  // Hosts of the URL win over those of PGHOST, which are all of them where the URL names none.
  const each = (urls.length > 1 ? urls : hosts).map((_, at) =>
    connectionString({
      ...texts,
      ...(texts['DATABASE_URL'] !== undefined && { DATABASE_URL: urls[at] ?? urls[0] ?? '' }),
      PGHOST: hosts[at] ?? hosts[0] ?? '',
      PGPORT: portsOfHosts[at] ?? portsOfHosts[0] ?? '',
    }),
  );
  const database = { connectionStrings: [...new Set(each)] };
  if (file === undefined) return database;
  return { ...database, ...(isInUrl ? { urlFile: file } : { passwordFile: file }) };
}

/** The connection string of one host. What a URL leaves out comes from the PG* names. */
function connectionString(given: Readonly<Record<string, string>>): string {
  const host = given['PGHOST'] ?? 'localhost';
  const url = new URL(completeUrl(given['DATABASE_URL'] ?? 'postgres://', encodeURIComponent(host)));
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
  // pg does not know `allow`. Both try TLS first and make do without it.
  if (query.get('sslmode') === 'allow') query.set('sslmode', 'prefer');
  // As libpq does: there is no TLS on a Unix socket.
  if (/^(?:\/|%2f)/i.test(query.get('host') ?? url.hostname)) query.set('sslmode', 'disable');
  return url.href;
}
