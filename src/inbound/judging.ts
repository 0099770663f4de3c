// The two checks that deal with who wrote a message. `judgingCheck`: mail from outside is judged, gets the field
// Authentication-Results, and what DMARC asks for is done. `claimsCheck`: in all mail, fields that claim to be ours are
// made harmless.
// Promises: one field, `Authentication-Results: <SLIM_HOSTNAME>; …`; mail that cannot be judged (its client's address says
// nothing, and it has neither a signature nor an ARC set) costs no question to the DNS, and starts no child.
// RFC 8601.
import type { Judge, Judgement } from '../mail/judgement.ts';
import { replies } from '../smtp/reply.ts';
import type { Gatherer } from '../system/gather.ts';
import type { Check } from './checks.ts';
import { harmlessName, isClaim } from './claims.ts';
import { type VerifyMode, fateOf } from './fate.ts';
import { type Found, maxFields } from './fields.ts';
import { clientKey } from './peer.ts';
import { isFromOutside, saysNothing } from './policy.ts';

/** Room for the field in the file of a large message; most have 300 octets. */
const roomBytes = 1024;
/** Two deadlines of the child, and the wait for one. */
const deadlineMs = 60_000;
/** A longer header is not parsed: it would not fit into the first piece that the judging child gets. */
const maxHeaderOctets = 64 * 1024;
/** So much of the From fields of such a header counts. */
const maxFromOctets = 16 * 1024;

export type JudgingOptions = Readonly<{ judge: Judge; mode: VerifyMode; hostname: string; gatherer: Gatherer }>;

export const judgingCheck = ({ judge, mode, hostname, gatherer }: JudgingOptions): Check => ({
  name: 'judging',
  deadlineMs,
  linesBytes: peer => (isFromOutside(peer) ? roomBytes : 0),
  judge: async ({ envelope, peer, receivedAt, fields, content }) => {
    if (!isFromOutside(peer)) return undefined;
    const found = await fields();
    const isNameless = saysNothing(peer);
    const { reversePath, helo } = envelope;
    const from = reversePath === '' ? '' : reversePath.text;
    const facts = { client: isNameless ? undefined : peer.client, helo, from, receivedAt };
    const judgement =
      isNameless && !isSigned(found) ? unjudged : await judge.judge(facts, await content(), onlyFrom(found));
    if (judgement === undefined) return replies.judgeLater;
    const { to, why } = fateOf(judgement, { mode, isNameless, hasListId: has(found, 'list-id') });
    if ([judgement.dmarc.result, judgement.spf?.result].includes('temperror')) {
      const told = { client: peer.client, from, reason: judgement.dmarc.reason };
      gatherer.line('warn', clientKey(peer.client), told, 'the author of a message could not be verified now');
    }
    const { results } = judgement;
    if (typeof to === 'object') return { ...to, why, results };
    const junk = to === 'junk' && { junk: replies.notTheAuthors };
    return { lines: resultsField(hostname, judgement), ...junk, why, results };
  },
});

export const claimsCheck = (hostname: string): Check => ({
  name: 'claims',
  deadlineMs: 30_000,
  judge: async ({ fields, overwrite }) => {
    const found = await fields();
    if (found.fields.length >= maxFields) return replies.headerTooLong;
    for (const field of found.fields) if (isClaim(field, hostname)) await overwrite(field.at, harmlessName);
    return undefined;
  },
});

/**
 * The field Authentication-Results, with a line for each result, and more where one is longer than a line should be.
 */
export function resultsField(hostname: string, { results }: Pick<Judgement, 'results'>): string {
  return `Authentication-Results: ${hostname};\n\t${results.map(fold).join(';\n\t')}\n`;
}

/** Folds a result where its line would be too long (RFC 5322 §2.1.1). */
function fold(result: string): string {
  const lines: string[] = [];
  for (const word of result.split(' ')) {
    const last = lines.at(-1);
    if (last === undefined || last.length + word.length > 74) lines.push(word);
    else lines[lines.length - 1] = `${last} ${word}`;
  }
  return lines.join('\n\t');
}

/** The judgement of mail whose client may be anyone and that bears no signature. */
const unjudged: Judgement = {
  dkim: [],
  arc: { result: 'none' },
  dmarc: { result: 'none', policy: 'none' },
  results: [
    'dkim=none (message not signed)',
    'dmarc=none (the address of the client may stand for anyone, and the message is not signed)',
  ],
};

const has = ({ fields }: Found, name: string): boolean => fields.some(field => field.name === name);
const isSigned = (found: Found): boolean => has(found, 'dkim-signature') || has(found, 'arc-seal');

/** What is judged of a header that is too long; undefined: all of it is. */
function onlyFrom({ fields, headerOctets }: Found): string | undefined {
  if (headerOctets <= maxHeaderOctets) return undefined;
  const from = fields.filter(({ name }) => name === 'from').map(({ text }) => text);
  return from.join('\n').slice(0, maxFromOctets);
}
