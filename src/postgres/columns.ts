// The columns of the table `smtp` in the form in which they are compared, and the index on them.
// Promise: rows that were typed by hand count: in mixed case, with blanks around a name, with a final dot on a domain.
// COLLATE "C": queries and index must agree on it, or PostgreSQL would not use the index.

const prefix = (table: string): string => (table === '' ? '' : `${table}.`);
/** Lower case, without blanks around it and without a final dot. `table` is the alias in a join. */
export const domainColumn = (table = ''): string =>
  `lower(rtrim(btrim(${prefix(table)}domain, E' \\t\\r\\n'), '.')) COLLATE "C"`;
/** Lower case, without blanks around it. */
export const mailboxColumn = (table = ''): string => `lower(btrim(${prefix(table)}mailbox, E' \\t\\r\\n')) COLLATE "C"`;

/** The domain comes first, so that the index also lists members and domains. */
export const createIndex = `CREATE INDEX smtp_address ON smtp ((${domainColumn()}), (${mailboxColumn()}))`;
