// The database by libpq's own names: DATABASE_URL, what it leaves out from PG*, and what those leave out from defaults
// (host localhost, the user that the server runs as). Promises a complete answer, so that pg never looks into the
// environment itself. Never connects.
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';

/** Plain data for pg's Pool; `ssl` is false or what node:tls takes. */
export type DatabaseSettings = {
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly password: string | undefined;
  readonly database: string;
  readonly ssl: false | { readonly rejectUnauthorized: boolean; readonly ca: string | undefined };
};

const parameters = new Map([
  ...(['host', 'port', 'user', 'password', 'sslmode', 'sslrootcert'] as const).map(
    name => [name, `PG${name.toUpperCase()}`] as const,
  ),
  ['dbname', 'PGDATABASE'],
]);

/** A URL as the PG* names would say it. Throws an error for a person, without the value. */
function fromUrl(text: string): ReadonlyMap<string, string> {
  const url = URL.parse(text);
  if (!url || !/^postgres(ql)?:$/.test(url.protocol) || /%(?![\da-f]{2})/i.test(text))
    throw new Error('postgresql://user:password@host:port/database is wanted, with special characters as %XX');
  const found = new Map([
    ['PGHOST', decodeURIComponent(url.hostname).replace(/^\[(.*)\]$/, '$1')],
    ['PGPORT', url.port],
    ['PGUSER', decodeURIComponent(url.username)],
    ['PGPASSWORD', decodeURIComponent(url.password)],
    ['PGDATABASE', decodeURIComponent(url.pathname.slice(1))],
  ]);
  for (const [name, value] of url.searchParams) {
    const known = parameters.get(name);
    if (!known) throw new Error(`the parameter ${name} is not known, only ${[...parameters.keys()].join(', ')}`);
    found.set(known, value);
  }
  return found;
}

/** The database, or undefined when none is set; mistakes are added to `problems`. */
export function readDatabase(
  given: (name: string) => string | undefined,
  environment: { readonly cwd: string; readonly variables: NodeJS.ProcessEnv },
  problems: string[],
): DatabaseSettings | undefined {
  if (!['DATABASE_URL', 'PGHOST', 'PGUSER', 'PGPASSWORD', 'PGDATABASE'].some(given)) return undefined;
  const attempt = <T>(name: string, shown: string | undefined, work: () => T): T | undefined => {
    try {
      return work();
    } catch (error) {
      problems.push(`${name}="${shown}": ${error instanceof Error ? error.message : String(error)}`);
      return undefined;
    }
  };
  const url = given('DATABASE_URL');
  const inUrl = url === undefined ? undefined : attempt('DATABASE_URL', '***', () => fromUrl(url));
  const value = (name: string): string | undefined => inUrl?.get(name) || given(name);

  const port = value('PGPORT') ?? '5432';
  if (!/^\d{1,5}$/.test(port) || Number(port) > 65_535) problems.push(`PGPORT="${port}": a port is wanted`);
  // pg has nothing like libpq's prefer (encrypted if the server can), so one has to choose.
  const mode = value('PGSSLMODE') ?? 'disable';
  if (!/^(disable|require|verify-full)$/.test(mode))
    problems.push(`PGSSLMODE="${mode}": one of disable, require, verify-full is wanted`);
  const root = value('PGSSLROOTCERT');
  const ca = root && attempt('PGSSLROOTCERT', root, () => readFileSync(resolve(environment.cwd, root), 'utf8'));
  const user = value('PGUSER') ?? given('SLIM_RUN_AS') ?? environment.variables.USER ?? 'postgres';
  return {
    host: value('PGHOST') ?? 'localhost',
    port: Number(port),
    user,
    password: value('PGPASSWORD'),
    database: value('PGDATABASE') ?? user,
    // As in libpq, `require` with a root certificate verifies.
    ssl: mode !== 'disable' && { rejectUnauthorized: mode === 'verify-full' || Boolean(ca), ca },
  };
}
