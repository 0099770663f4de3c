// What is looked for among captured mail, in the words of Mailpit's search: `to:anton subject:"your order" !is:read
// hello`. Every term must hold; `!` or `-` in front turns it round; without a field it is looked for in the text, the
// subject and all names and addresses. Letter case does not count. Pure.
import * as limits from '../limits.ts';
import type { Item } from './mailbox.ts';
import type { Person } from './parse.ts';

export type Matches = (item: Item) => boolean;

const term = /([!-])?(?:([a-z-]+):)?(?:"([^"]*)"?|(\S+))/giu;
const has = (text: string, part: string): boolean => text.toLowerCase().includes(part);
const among = (people: readonly Person[], part: string): boolean =>
  people.some(({ Name, Address }) => has(`${Name} <${Address}>`, part));

const fields: Readonly<Record<string, (item: Item, part: string) => boolean>> = {
  to: ({ summary }, part) => among(summary.to, part),
  from: ({ summary }, part) => among([summary.from], part),
  cc: ({ summary }, part) => among(summary.cc, part),
  bcc: ({ summary }, part) => among(summary.bcc, part),
  'reply-to': ({ summary }, part) => among(summary.replyTo, part),
  addressed: ({ summary: { from, to, cc, bcc, replyTo } }, part) =>
    among([from, ...to, ...cc, ...bcc, ...replyTo], part),
  subject: ({ summary }, part) => has(summary.subject, part),
  'message-id': ({ summary }, part) => has(summary.messageId, part),
  tag: ({ tags }, part) => tags.some(tag => tag.toLowerCase() === part),
};
const states: Readonly<Record<string, Matches>> = {
  'is:read': ({ isRead }) => isRead,
  'is:unread': ({ isRead }) => !isRead,
  'is:tagged': ({ tags }) => tags.length > 0,
  'has:attachment': ({ summary }) => summary.attachments > 0,
  'has:attachments': ({ summary }) => summary.attachments > 0,
  'has:inline': ({ summary }) => summary.inline > 0,
};

/**
 * Parses a search. `timeZone` is that of its dates, UTC unless given. What cannot be understood is passed over, as
 * Mailpit does.
 */
export function parseSearch(query: string, timeZone = 'UTC'): Matches {
  const terms = [...query.slice(0, limits.maxQueryLength).matchAll(term)].slice(0, limits.maxTerms);
  const wanted = terms.flatMap(([whole, not, field = '', phrase, word]) => {
    const matches =
      parseTerm(field.toLowerCase(), (phrase ?? word ?? '').toLowerCase(), timeZone) ??
      parseTerm('', bare(whole, not), timeZone);
    if (matches === undefined) return [];
    return [not === undefined ? matches : (item: Item) => !matches(item)];
  });
  return item => wanted.every(matches => matches(item));
}

/** A term whose field there is not, such as `https://x`, is looked for as it stands. */
const bare = (whole: string, not: string | undefined): string =>
  whole
    .slice(not?.length ?? 0)
    .replaceAll('"', '')
    .toLowerCase();

/** Parses a term; undefined where there is no such field. */
function parseTerm(field: string, part: string, timeZone: string): Matches | undefined {
  const state = states[`${field}:${part}`];
  if (state) return state;
  const look = fields[field];
  if (look) return item => look(item, part);
  if (field === 'before' || field === 'after') {
    const at = parseDate(part, timeZone);
    if (at === undefined) return () => true;
    return ({ mail }) => (field === 'before' ? mail.receivedAt < at : mail.receivedAt >= at);
  }
  if (field !== '') return undefined;
  return item =>
    item.searched.includes(part) || has(item.summary.subject, part) || (fields['addressed']?.(item, part) ?? false);
}

/** Parses `2026-11-29` or `2026/11/29`, both also with a time behind, in that time zone. */
function parseDate(text: string, timeZone: string): number | undefined {
  const [, year, month, day, hour = '0', minute = '0', second = '0'] =
    /^(\d{4})[-/](\d{1,2})[-/](\d{1,2})(?:[t ](\d{1,2}):(\d{2})(?::(\d{2}))?)?$/.exec(text) ?? [];
  if (year === undefined) return undefined;
  const utc = Date.UTC(Number(year), Number(month) - 1, Number(day), Number(hour), Number(minute), Number(second));
  return Number.isNaN(utc) ? undefined : utc - offsetOf(utc, timeZone);
}

/** How far the clocks of a zone are ahead of UTC; 0 for a zone that there is not. */
function offsetOf(time: number, timeZone: string): number {
  try {
    const parts = new Intl.DateTimeFormat('en', { timeZone, timeZoneName: 'longOffset' }).formatToParts(time);
    const name = parts.find(({ type }) => type === 'timeZoneName')?.value ?? '';
    const [, sign, hours, minutes] = /^GMT([+-])(\d\d):(\d\d)$/.exec(name) ?? [];
    if (sign === undefined) return 0;
    return (sign === '-' ? -1 : 1) * (Number(hours) * 60 + Number(minutes)) * 60_000;
  } catch {
    return 0;
  }
}
