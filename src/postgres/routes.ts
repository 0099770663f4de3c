// @POSTGRESQL: routes from the table `smtp`. A row says PAM, MAILDIR or @NAME; @NAME is a shared mailbox, its members
// are the rows of domain @NAME with backend ALIAS; a member with an `@` is a full address, a forward. One query for an
// address, one more for each level of members; what it has told is good for that second.
// Promises: loops and deep nesting end; an operator's mistake is logged once a minute and never bounces mail. Text from
// the network reaches SQL only as a parameter, and a path only encoded.
import { hash } from 'node:crypto';
import { join } from 'node:path';
import { domainToUnicode } from 'node:url';
import { accountRoute } from '../mail/account-route.ts';
import { type Mailbox, formatMailbox, toMailbox } from '../mail/address.ts';
import { type Forward, type Route, routeKey } from '../mail/message.ts';
import { type Accounts, CannotTell, type Directory, type Explain, type Found } from '../mail/ports.ts';
import { parseAddress } from '../smtp/address.ts';
import type { World } from '../system/world.ts';
import type { Query } from './pool.ts';
import { domainColumn, mailboxColumn } from './columns.ts';

type TableOptions = Pick<World, 'clock' | 'log'> &
  Readonly<{
    query: Query;
    accounts: Accounts | undefined; // undefined: this server cannot deliver to Unix accounts at all
    mailRoot: string;
    hasDefault: boolean; // whether a catch-all takes what a mistaken row leaves undefined
  }>;

const address = {
  name: 'slimsmtp_address',
  text: `SELECT account_backend::text AS backend FROM smtp
    WHERE ${domainColumn()} = ANY($1::text[]) AND ${mailboxColumn()} = ANY($2::text[]) ORDER BY 1`,
};
// Every row of a member stands with the member; `has_row` tells a member without a row from one whose row is empty.
const members = {
  name: 'slimsmtp_members',
  text: `SELECT ${domainColumn('m')} AS shared, m.mailbox::text AS member,
      (r.domain IS NOT NULL)::text AS has_row, r.account_backend::text AS backend
    FROM smtp m LEFT JOIN smtp r ON ${domainColumn('r')} = ANY($2::text[]) AND ${mailboxColumn('r')} = ${mailboxColumn('m')}
    WHERE ${domainColumn('m')} = ANY($1::text[]) AND upper(btrim(m.account_backend)) = 'ALIAS'
      AND ${mailboxColumn('m')} <> '' ORDER BY 1, ${mailboxColumn('m')}, 4`,
};

/** A look-up: what it has found, and the shared mailboxes on the way, in the order in which they were met. */
type Search = {
  readonly routes: Map<string, Route>;
  readonly forwards: Map<string, Forward>;
  readonly shared: Set<string>;
  mistakes: number;
  explain: Explain;
};

export class TableDirectory implements Directory {
  readonly name = '@POSTGRESQL';
  readonly #options: TableOptions;
  readonly #logged = new Set<string>();
  #minute = 0;
  /** One look-up serves whoever asks for the same mailbox in the same second; a failed one serves nobody else. */
  readonly #recent = new Map<string, Promise<Found | undefined>>();
  #second = 0;

  constructor(options: TableOptions) {
    this.#options = options;
  }

  lookup(mailbox: Mailbox, explain?: Explain): Promise<Found | undefined> {
    if (explain) return this.#find(mailbox, explain);
    const second = Math.floor(this.#options.clock.now() / 1000);
    if (second !== this.#second) this.#recent.clear();
    this.#second = second;
    const key = formatMailbox(mailbox);
    const found = this.#recent.get(key) ?? this.#find(mailbox);
    this.#recent.set(key, found);
    found.catch(() => this.#recent.delete(key));
    return found;
  }

  async #find(mailbox: Mailbox, explain?: Explain): Promise<Found | undefined> {
    const { query, hasDefault } = this.#options;
    const indent = (depth: number) => (line: string) => explain?.(`@POSTGRESQL: ${'  '.repeat(depth)}${line}`);
    const search: Search = {
      routes: new Map(),
      forwards: new Map(),
      shared: new Set(),
      mistakes: 0,
      explain: indent(0),
    };
    // A row may spell an internationalised domain either way (what only looks like one has no other), and a name typed
    // on some systems is NFD, which lower() leaves alone.
    const domains = [mailbox.domain, domainToUnicode(mailbox.domain) || mailbox.domain];
    const names = [mailbox.local, mailbox.local.normalize('NFD')];
    for (const row of await query(address, [domains, names])) await this.#follow(row['backend'], mailbox, search);
    const isMistaken = search.mistakes > 0;

    for (let depth = 1, done = 0; done < search.shared.size; depth += 1) {
      const asked = [...search.shared].slice(done);
      done = search.shared.size;
      if (depth > 10) {
        this.#complain(mailbox, `shared mailboxes nest more than 10 deep: ${asked.join(', ')}`, search);
        break;
      }
      const rows = await query(members, [asked, domains]);
      for (const shared of asked)
        if (!rows.some(row => row['shared'] === shared)) this.#complain(mailbox, `${shared} has no members`, search);
      for (const row of rows) {
        const name = (row['member'] ?? '').trim();
        if (name.includes('@')) {
          this.#addForward(name, mailbox, row['shared'] ?? '', search, indent(depth));
          continue;
        }
        const member = toMailbox({ local: name, domain: mailbox.domain });
        if (member === undefined) continue;
        indent(depth)(`member ${member.local} of ${row['shared']}`);
        search.explain = indent(depth + 1);
        // Without a row of its own, a member is the Unix account of that name.
        await this.#follow(row['has_row'] === 'false' ? 'PAM' : row['backend'], member, search);
      }
    }
    const routes = [...search.routes.values()];
    const forwards = [...search.forwards.values()];
    if (routes.length > 0 || forwards.length > 0)
      return { routes, ...(search.shared.size > 0 && { via: 'shared' }), ...(forwards.length > 0 && { forwards }) };
    if (isMistaken && !hasDefault)
      throw new CannotTell(`the row of ${formatMailbox(mailbox)} in table smtp is mistaken: see the log`, {
        status: '4.3.5',
      });
    return undefined;
  }

  /** Adds a member that is a full address, here or elsewhere. */
  #addForward(text: string, mailbox: Mailbox, shared: string, search: Search, explain: Explain): void {
    const parsed = parseAddress(text);
    const to = parsed && toMailbox(parsed);
    if (to === undefined) return this.#complain(mailbox, `member '${text}' of ${shared} is no address`, search);
    explain(`member ${text} of ${shared}`);
    search.forwards.set(formatMailbox(to), { address: text, mailbox: to });
  }

  /** Adds what one cell of account_backend means for a mailbox. */
  async #follow(cell: string | null | undefined, mailbox: Mailbox, search: Search): Promise<void> {
    const { accounts, mailRoot } = this.#options;
    const say: Explain = line => search.explain(`${formatMailbox(mailbox)} is ${line}`);
    for (const backend of (cell ?? '').split(',').map(part => part.trim())) {
      let route: Route | undefined;
      if (/^@./.test(backend)) {
        say(`a way into the shared mailbox ${backend}`);
        search.shared.add(backend.toLowerCase());
      } else if (/^MAILDIR$/i.test(backend)) {
        const path = join(mailRoot, toFileName(mailbox.domain), toFileName(mailbox.local));
        say(`MAILDIR: ${path}`);
        route = { kind: 'maildir', path, root: mailRoot };
      } else if (!/^PAM$/i.test(backend)) {
        this.#complain(mailbox, `unknown backend '${backend}': PAM, MAILDIR or @NAME is wanted`, search);
      } else if (accounts === undefined) {
        const reason = `${formatMailbox(mailbox)} is a Unix account, and this server has none: it is not root, or a replica`;
        throw new CannotTell(reason, { status: '4.3.5' });
      } else {
        route = await accountRoute(accounts, mailbox.local, line => say(`PAM: ${line}`));
        if (route === undefined) this.#complain(mailbox, `no Unix account ${mailbox.local} may receive mail`, search);
      }
      if (route !== undefined) search.routes.set(routeKey(route), route);
    }
  }

  /** An operator's mistake: explained each time, logged once a minute. */
  #complain(mailbox: Mailbox, mistake: string, search: Search): void {
    search.mistakes += 1;
    const text = `${formatMailbox(mailbox)}: ${mistake}`;
    search.explain(text);
    const minute = Math.floor(this.#options.clock.now() / 60_000);
    if (minute !== this.#minute) this.#logged.clear();
    this.#minute = minute;
    const fields = { mailbox: formatMailbox(mailbox), mistake };
    if (!this.#logged.has(text)) this.#options.log.warn(fields, 'a row of table smtp leads nowhere');
    this.#logged.add(text);
  }
}

/** What a component of a path may have on every file system that keeps mail. */
const maxNameOctets = 255;

/**
 * As one component of a path: never empty, '.', '..' or hidden, no '/', no controls; '%' too, so that names stay
 * different. A name that is too long for a file system, because each of its letters takes three, is a hash. What begins
 * with `%` and a small letter is never the encoded form of a name.
 */
export function toFileName(name: string): string {
  if (name === '') return '%empty';
  const encoded = name.replace(/^\.|[%/\p{Cc}]/gu, part => (part === '.' ? '%2E' : encodeURIComponent(part)));
  return Buffer.byteLength(encoded) <= maxNameOctets ? encoded : `%sha256-${hash('sha256', name)}`;
}
