// Where the database is: DATABASE_URL or libpq's own names (PGHOST …) become one URL, because `pg` looks for PG* in the
// environment only, and the settings may come from elsewhere.
// Promise: what libpq takes from such names is what `pg` is told; the files that hold the password are known, so that a
// new connection can read them again.
import { oneOf, parser } from './parser.ts';
import type { Source } from './sources.ts';

export type DatabaseSettings = Readonly<{ connectionString: string; urlFile?: string; passwordFile?: string }>;

/** One of these that is set turns the database on. */
export const databaseNames = ['DATABASE_URL', 'PGHOST', 'PGUSER', 'PGPASSWORD', 'PGDATABASE'];

/** As libpq calls them; `verify-ca` is not among them, because nothing but a root of one's own makes it safe. */
export const sslMode = oneOf('disable', 'allow', 'prefer', 'require', 'verify-full');

/** `postgres://user@/db?host=/folder` is good for libpq, but no URL for Node until it names a host. */
const completeUrl = (url: string, hostname = 'localhost'): string =>
  url.replace(/^([a-z]+:\/\/[^/?@]*@)(?=[/?]|$)/, `$1${hostname}`);

export const databaseUrl = parser(
  'postgres://user:password@host:port/database is wanted, with special characters as %XX',
  /^(postgres(?:ql)?:\/\/.*)$/s,
  text => URL.canParse(completeUrl(text)) && text,
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
  const isInUrl = Boolean(URL.parse(completeUrl(texts['DATABASE_URL'] ?? ''))?.password);
  const file = sources.get(isInUrl ? 'DATABASE_URL' : 'PGPASSWORD')?.file;
  const database = { connectionString: connectionString(texts) };
  if (file === undefined) return database;
  return { ...database, ...(isInUrl ? { urlFile: file } : { passwordFile: file }) };
}

/** What a URL leaves out comes from the PG* names. */
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
