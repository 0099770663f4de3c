// A list of captured mail: what its parameters ask for, and how it waits for mail that is still to come.
import * as limits from '../limits.ts';
import { type Answer, Problem, type Request, json } from '../server.ts';
import type { Desk } from './desk.ts';
import type { Item, Mailbox } from './mailbox.ts';
import { type Matches, parseSearch } from './search.ts';
import { list } from './shapes.ts';

/** Fields of a search that are parameters of a list by themselves. */
const filters = ['to', 'from', 'cc', 'bcc', 'subject', 'message-id', 'tag'] as const;
export const filterQuery = Object.fromEntries(filters.map(name => [name, `Only messages that have this in ${name}.`]));

export function listed({ mailbox }: Desk, matches: Matches, query: URLSearchParams): Answer {
  const all = mailbox.items();
  const found = all.filter(matches);
  return json(list(found, all, toNumber(query, 'start', 0, Infinity), toNumber(query, 'limit', 50, limits.maxListed)));
}

function toNumber(query: URLSearchParams, name: string, usual: number, most: number): number {
  const given = query.get(name) ?? '';
  if (given === '') return usual;
  if (!/^\d{1,9}$/.test(given)) throw new Problem(400, `${name} must be a number.`);
  return Math.min(Number(given), most);
}

/** What the parameters of a list ask for, together. `to` is also whoever the envelope names. */
export function filter(query: URLSearchParams): Matches {
  const timeZoneName = query.get('tz') ?? 'UTC';
  const wantedOnes = filters.flatMap(name => {
    const value = query.get(name)?.replaceAll('"', '').toLowerCase() ?? '';
    if (value === '') return [];
    const inField = parseSearch(`${name}:"${value}"`, timeZoneName);
    if (name !== 'to') return [inField];
    return [(item: Item) => inField(item) || item.mail.recipients.some(each => each.toLowerCase().includes(value))];
  });
  const searched = parseSearch(query.get('query') ?? '', timeZoneName);
  return item => searched(item) && wantedOnes.every(matches => matches(item));
}

/** Whether a message that matches is there, or comes within that time. */
export async function arrives(mailbox: Mailbox, matches: Matches, ms: number, gone: AbortSignal): Promise<boolean> {
  if (mailbox.items().some(matches)) return true;
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const stop = mailbox.listen(told => told.kind === 'arrived' && matches(told.item) && resolve(true));
  const timer = setTimeout(resolve, ms, false);
  gone.addEventListener('abort', () => resolve(false));
  return promise.finally(() => {
    stop();
    clearTimeout(timer);
  });
}

export function toMs(given: string): number {
  const [, digits, unit = ''] = /^(\d{1,6})(ms|s|m)$/.exec(given) ?? [];
  const ms = Number(digits) * ({ ms: 1, s: 1000, m: 60_000 }[unit] ?? NaN);
  if (!(ms <= limits.maxWaitMs))
    throw new Problem(400, 'wait must be a duration such as 500ms, 10s or 2m, 5m at most.');
  return ms;
}

/** The search of a request. */
export function wanted({ query }: Request): string {
  const given = query.get('query') ?? '';
  if (given.trim() === '') throw new Problem(400, 'query must say what is looked for.');
  return given;
}

/** The ids of what it finds. */
export const search = ({ mailbox }: Desk, query: string, request: Request): readonly string[] => {
  const matches = parseSearch(query, request.query.get('tz') ?? 'UTC');
  return mailbox
    .items()
    .filter(matches)
    .map(({ mail }) => mail.id);
};
