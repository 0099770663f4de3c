// What `slimsmtp doctor` learns from the database: whether it answers, whether the tables that the settings ask for are
// there and may be read, rows that lead nowhere, and what time it thinks it is.
import type { Finding } from '../mail/admin.ts';
import type { Database, Statement } from './pool.ts';

type Wanted = Readonly<{ smtp: boolean; users: boolean }>;

const about = 'database';
const makeSmtp = `CREATE TABLE IF NOT EXISTS smtp (id bigserial PRIMARY KEY, mailbox varchar(255), domain varchar(255), account_backend varchar(20), UNIQUE (mailbox, domain));`;
const makeUsers = 'CREATE TABLE IF NOT EXISTS users (username varchar(255) PRIMARY KEY, password text NOT NULL);';
/** Clocks that differ by more make mail look late, or signatures old. */
const maxClockSeconds = 60;

const statement = (name: string, text: string): Statement => ({ name: `slimsmtp_doctor_${name}`, text });
const now = statement('now', 'SELECT extract(epoch FROM clock_timestamp())::text AS seconds');
const columns = statement('smtp', 'SELECT id, mailbox, domain, account_backend FROM smtp LIMIT 1');
const users = statement('users', 'SELECT username, password FROM users LIMIT 1');
const lost = statement(
  'lost',
  String.raw`SELECT mailbox, domain, account_backend AS backend FROM smtp s
    WHERE coalesce(account_backend, '') !~* '^\s*(PAM|MAILDIR|ALIAS|@[^,]+)\s*(,\s*(PAM|MAILDIR|@[^,]+)\s*)*$'
      OR account_backend LIKE '@%' AND account_backend NOT LIKE '%,%'
        AND NOT EXISTS (SELECT FROM smtp m WHERE upper(m.domain) = upper(s.account_backend))
    ORDER BY 2, 1 LIMIT 5`,
);

export async function checkDatabase(database: Database, wanted: Wanted, nowMs: number): Promise<readonly Finding[]> {
  const found: Finding[] = [];
  const ask = async (what: Statement, text: string, mend: string) => {
    try {
      return await database.query(what);
    } catch (error) {
      found.push({ about, status: 'mend', text: `${text}: ${sqlReason(error)}`, mend });
      return undefined;
    }
  };
  const clock = await ask(
    now,
    'it does not answer',
    'docker compose up -d postgres, or mend DATABASE_URL or PGHOST, PGUSER, PGPASSWORD',
  );
  if (clock === undefined) return found;
  const aside = Math.abs(Number(clock[0]?.['seconds']) - nowMs / 1000);
  if (aside > maxClockSeconds) {
    const text = `the clocks of this machine and of the database differ by ${Math.round(aside)} s`;
    found.push({ about: 'clock', status: 'mend', text, mend: 'timedatectl set-ntp true' });
  }
  if (wanted.smtp && (await ask(columns, 'the table smtp cannot be read', makeSmtp)) !== undefined)
    for (const { mailbox, domain, backend } of (await ask(lost, 'the table smtp cannot be looked through', '')) ?? []) {
      const isShared = backend?.startsWith('@') === true;
      const text = `${mailbox}@${domain} leads nowhere: ${isShared ? `${backend} has no members` : `${backend} is no backend`}`;
      const member = `INSERT INTO smtp (mailbox, domain, account_backend) VALUES ('…', '${backend}', 'ALIAS');`;
      const row = `UPDATE smtp SET account_backend = 'MAILDIR' WHERE mailbox = '${mailbox}' AND domain = '${domain}';`;
      found.push({ about: 'table smtp', status: 'mend', text, mend: isShared ? member : row });
    }
  if (wanted.users) await ask(users, 'the table users cannot be read', makeUsers);
  return found.length > 0 ? found : [{ about, status: 'ok', text: 'it answers, and its tables are there' }];
}

const sqlReason = (error: unknown): string => {
  const { message, cause } = error as Error;
  return cause instanceof Error ? cause.message : message;
};
