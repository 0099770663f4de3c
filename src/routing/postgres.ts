// @POSTGRESQL: routes from the table `smtp`. A row says PAM, MAILDIR or @NAME; @NAME is a shared mailbox, its members
// are the rows of domain @NAME with backend ALIAS. One query for an address, one more for each level of members.
// Promises: an answer or CannotTell within 8 s; loops and deep nesting end; an operator's mistake is logged once a
// minute and never bounces mail. Text from the network reaches SQL only as a parameter, and a path only encoded.
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { domainToUnicode } from 'node:url';
import { CannotTell, routeKey, toMailbox } from '../mail.ts';
import type { Accounts, Directory, Explain, Log, Mailbox, Route } from '../mail.ts';
import type { Clock } from '../system.ts';
import { ACCOUNT_FOLDER, findAccount } from './accounts.ts';

/** Runs a prepared statement. Rejects with CannotTell, whatever the reason. */
export type Query = (
  statement: { readonly name: string; readonly text: string },
  values: readonly (readonly string[])[],
) => Promise<readonly Readonly<Record<string, string | null>>[]>;

export type TableOptions = {
  readonly query: Query;
  /** undefined: this server cannot deliver to Unix accounts at all. */
  readonly accounts: Accounts | undefined;
  readonly mailRoot: string;
  /** Whether a catch-all takes what a mistaken row leaves undefined. */
  readonly hasDefault: boolean;
  readonly clock: Clock;
  readonly log: Log;
};

// COLLATE "C": as in the index (see postgres/schema.ts), or PostgreSQL would not use it.
const address = {
  name: 'slimsmtp_address',
  text: `SELECT account_backend::text AS backend FROM smtp
    WHERE lower(domain) COLLATE "C" = ANY($1::text[]) AND lower(mailbox) COLLATE "C" = ANY($2::text[]) ORDER BY id`,
};
const members = {
  name: 'slimsmtp_members',
  text: `SELECT lower(m.domain) AS shared, m.mailbox::text AS member, r.id::text AS row, r.account_backend::text AS backend
    FROM smtp m LEFT JOIN smtp r ON lower(r.domain) COLLATE "C" = ANY($2::text[])
      AND lower(r.mailbox) COLLATE "C" = lower(m.mailbox) COLLATE "C"
    WHERE lower(m.domain) COLLATE "C" = ANY($1::text[]) AND upper(btrim(m.account_backend)) = 'ALIAS'
      AND m.mailbox <> '' ORDER BY m.id, r.id`,
};

const deepest = 10;
const longestName = 255;
const deadlineMs = 8_000;

/** One look-up: what it has found, and the shared mailboxes whose members are still to be asked for. */
type Search = {
  readonly routes: Map<string, Route>;
  readonly seen: Set<string>;
  readonly next: string[];
  mistakes: number;
  explain: Explain;
};

export class TableDirectory implements Directory {
  readonly name = '@POSTGRESQL';
  readonly #options: TableOptions;
  readonly #logged = new Set<string>();
  #loggedSince = 0;

  constructor(options: TableOptions) {
    this.#options = options;
  }

  async lookup(mailbox: Mailbox, explain: Explain): Promise<readonly Route[] | undefined> {
    // No column holds more.
    if (mailbox.local.length > longestName) return undefined;
    return within(deadlineMs, this.#search(mailbox, explain));
  }

  async #search(mailbox: Mailbox, explain: Explain): Promise<readonly Route[] | undefined> {
    const { query, hasDefault } = this.#options;
    // A row may spell an internationalised domain either way; what only looks like an A-label has no other. And a name
    // typed on some systems is NFD, which lower() leaves alone.
    const domains = [...new Set([mailbox.domain, domainToUnicode(mailbox.domain) || mailbox.domain])];
    const names = [...new Set([mailbox.local, mailbox.local.normalize('NFD')])];
    const search: Search = { routes: new Map(), seen: new Set(), next: [], mistakes: 0, explain: () => {} };
    const indent = (depth: number) => (line: string) => explain(`@POSTGRESQL: ${'  '.repeat(depth)}${line}`);
    search.explain = indent(0);
    for (const row of await query(address, [domains, names])) await this.#follow(row['backend'], mailbox, search);
    const isMistaken = search.mistakes > 0;
    for (let depth = 1; search.next.length > 0; depth += 1) {
      const asked = search.next.splice(0);
      if (depth > deepest) {
        this.#complain(mailbox, `shared mailboxes nest more than ${deepest} deep: ${asked.join(', ')}`, search);
        break;
      }
      const rows = await query(members, [asked, domains]);
      for (const shared of asked)
        if (!rows.some(row => row['shared'] === shared)) this.#complain(mailbox, `${shared} has no members`, search);
      for (const row of rows) {
        const member = toMailbox({ local: row['member'] ?? '', domain: mailbox.domain });
        if (member === undefined) continue;
        indent(depth)(`member ${member.local} of ${row['shared']}`);
        search.explain = indent(depth + 1);
        // Without a row of its own, a member is the Unix account of that name.
        await this.#follow(row['row'] === null ? 'PAM' : row['backend'], member, search);
      }
    }
    if (search.routes.size > 0) return [...search.routes.values()];
    if (isMistaken && !hasDefault)
      throw new CannotTell(`the row of ${show(mailbox)} in table smtp is mistaken: see the log`, { status: '4.3.5' });
    return undefined;
  }

  /** Adds what one cell of account_backend means for a mailbox. */
  async #follow(cell: string | null | undefined, mailbox: Mailbox, search: Search): Promise<void> {
    const { accounts, mailRoot } = this.#options;
    const { explain, routes, seen, next } = search;
    const text = show(mailbox);
    for (const part of (cell ?? '').split(',')) {
      const backend = part.trim();
      if (backend.startsWith('@') && backend.length > 1) {
        explain(`${text} is a way into the shared mailbox ${backend}`);
        const shared = backend.toLowerCase();
        if (!seen.has(shared)) next.push(shared);
        seen.add(shared);
      } else if (backend.toUpperCase() === 'MAILDIR') {
        const path = join(mailRoot, toFileName(mailbox.domain), toFileName(mailbox.local));
        explain(`${text} is MAILDIR: ${path}`);
        const route: Route = { kind: 'maildir', path, root: mailRoot };
        routes.set(routeKey(route), route);
      } else if (backend.toUpperCase() === 'PAM') {
        if (accounts === undefined)
          throw new CannotTell(`${text} is a Unix account, and only a server started as root delivers to those`, {
            status: '4.3.5',
          });
        const account = await findAccount(accounts, mailbox.local);
        if (account === undefined) {
          this.#complain(mailbox, `there is no Unix account ${mailbox.local} that may receive mail`, search);
          continue;
        }
        explain(`${text} is PAM: Unix account ${account.name} (uid ${account.uid}): ${account.home}/${ACCOUNT_FOLDER}`);
        const route: Route = { kind: 'account', account: account.name, folder: ACCOUNT_FOLDER };
        routes.set(routeKey(route), route);
      } else {
        this.#complain(mailbox, `unknown backend '${backend}': PAM, MAILDIR or @NAME is wanted`, search);
      }
    }
  }

  /** An operator's mistake: explained each time, logged once a minute. */
  #complain(mailbox: Mailbox, mistake: string, search: Search): void {
    search.mistakes += 1;
    search.explain(`${show(mailbox)}: ${mistake}`);
    const now = this.#options.clock.now();
    if (Math.abs(now - this.#loggedSince) >= 60_000) {
      this.#logged.clear();
      this.#loggedSince = now;
    }
    const key = `${show(mailbox)} ${mistake}`;
    if (this.#logged.has(key) || this.#logged.size >= 1_000) return;
    this.#logged.add(key);
    this.#options.log.warn({ mailbox: show(mailbox), mistake }, 'a row of table smtp leads nowhere');
  }
}

/**
 * The name as one component of a path: never '', '.', '..' or hidden, no '/' and no control characters, at most 255
 * octets. Different names stay different: '%' is always encoded, so '%~' begins only what was too long.
 */
export function toFileName(name: string): string {
  const encoded = name.replace(/^\.|[%/\p{Cc}]/gu, part => (part === '.' ? '%2E' : encodeURIComponent(part)));
  if (encoded !== '' && Buffer.byteLength(encoded) <= longestName) return encoded;
  return `%~${createHash('sha256').update(name).digest('hex')}`;
}

function show(mailbox: Mailbox): string {
  return `${mailbox.local}@${mailbox.domain}`;
}

async function within<T>(timeoutMs: number, work: Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new CannotTell(`no answer within ${timeoutMs / 1000} s`)), timeoutMs);
  return Promise.race([work, late.promise]).finally(() => clearTimeout(timer));
}
