// The table that routes mail, to the letter of the documentation, and the index that finds rows however they are
// capitalised. Its domain column comes first, so that it also lists members and domains. COLLATE "C" makes its order
// that of the octets: all '@NAME' stand together, below 'A'.

export const createTable = `CREATE TABLE IF NOT EXISTS smtp (id bigserial PRIMARY KEY, mailbox varchar(255), domain varchar(255),
  account_backend varchar(20), UNIQUE (mailbox, domain))`;

export const createIndex =
  'CREATE INDEX IF NOT EXISTS smtp_lower ON smtp (lower(domain) COLLATE "C", lower(mailbox) COLLATE "C")';

/** Every domain once, by a walk from one to the next through the index: no scan of a table of a million rows. */
export const listDomains = `WITH RECURSIVE walk AS (
    (SELECT lower(domain) COLLATE "C" AS domain FROM smtp WHERE domain IS NOT NULL ORDER BY 1 LIMIT 1)
  UNION ALL
    SELECT (SELECT lower(s.domain) COLLATE "C" FROM smtp s
      WHERE lower(s.domain) COLLATE "C" > CASE WHEN walk.domain LIKE '@%' THEN 'A' ELSE walk.domain END ORDER BY 1 LIMIT 1)
    FROM walk WHERE walk.domain IS NOT NULL)
  SELECT domain FROM walk WHERE domain NOT LIKE '@%'`;

/** The same without the index, where that walk would scan the table once for every domain. */
export const scanDomains = `SELECT DISTINCT lower(domain) AS domain FROM smtp WHERE domain NOT LIKE '@%'`;
