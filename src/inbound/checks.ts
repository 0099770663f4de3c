// The checks of a message that has arrived whole, before it is kept: each may refuse it, or have lines to put in front
// of it.
// Promises: checks run one after the other, in their order; the first refusal ends it. Each has a deadline; a check
// that is late, or fails in an unforeseen way, is no answer, so the client hears 4xx and sends the message again. A new
// check is a value of type `Check` in a file of its own, and its place in the array in src/wiring/receiving.ts.
import type { Verdict as Told } from '../mail/event.ts';
import type { Content } from '../mail/judgement.ts';
import type { Envelope } from '../smtp/envelope.ts';
import type { Destination } from './policy.ts';
import { type Reply, replies } from '../smtp/reply.ts';
import { within } from '../system/deadline.ts';
import type { Found } from './fields.ts';
import type { Peer } from './peer.ts';

export type Arrived = Readonly<{
  /** The id that will be in our 250. */
  id: string;
  envelope: Envelope<Destination>;
  peer: Peer;
  receivedAt: number;
  /** How many Received lines its header has; ours is not among them. */
  receivedLines: number;
  /** The first octets of the message as it came, up to the end of its header; as latin1. */
  header: () => Promise<string>;
  /** The fields of its header that say how it is to be judged. */
  fields: () => Promise<Found>;
  /** The whole message, as it came. */
  content: () => Promise<Content>;
  /** Writes these octets over as many of the message, from `at` on. A long message is not written anew. */
  overwrite: (at: number, octets: string) => Promise<void>;
}>;

/**
 * Lines for the header, each ending in LF. `junk`: the message goes to the folder for junk of its mailboxes, and where
 * it would only be forwarded it is refused with this reply. `isUnjudged`: the check could not be made, which is only
 * counted.
 */
type Findings = { readonly lines: string; readonly junk?: Reply; readonly isUnjudged?: true };
/** A refusal, findings, or nothing to say; `why`: for the log; `results`: as in Authentication-Results. */
export type Verdict =
  | ((Reply | Findings) & { readonly why?: string; readonly results?: readonly string[] })
  | undefined;

export type Check = Readonly<{
  /** The name of the check in the log. */
  name: string;
  deadlineMs: number;
  /** Room for its lines, where it has any, in the file of a large message: with more, the message is written twice. */
  linesBytes?: (peer: Peer) => number;
  judge: (arrived: Arrived) => Verdict | Promise<Verdict>;
}>;

/**
 * What all checks together say: a refusal, or the findings of all. Rejects when one is late or fails. `tell`: hears
 * what each of them has said.
 */
export async function runChecks(
  checks: readonly Check[],
  arrived: Arrived,
  tell?: (verdict: Told) => void,
): Promise<Verdict & {}> {
  let lines = '';
  let junk: Reply | undefined;
  let why: string | undefined;
  for (const check of checks) {
    const verdict = await judge(check, arrived);
    if (verdict === undefined) continue;
    const { why: reason, results } = verdict;
    tell?.({ check: check.name, result: resultOf(verdict), why: reason, results });
    if ('code' in verdict) return verdict;
    lines += verdict.lines;
    // The first reason counts, but for the one that sends it to the junk.
    why = verdict.junk && !junk ? reason : (why ?? reason);
    junk ??= verdict.junk;
  }
  return { lines, ...(junk && { junk }), ...(why !== undefined && { why }) };
}

function resultOf(verdict: Verdict & {}): Told['result'] {
  if ('code' in verdict) return 'refused';
  if (verdict.isUnjudged) return 'unjudged';
  return verdict.junk ? 'junk' : 'passed';
}

async function judge({ name, deadlineMs, judge: ask }: Check, arrived: Arrived): Promise<Verdict> {
  const answer = ask(arrived);
  if (!(answer instanceof Promise)) return answer;
  return within(deadlineMs, answer, () => new Error(`the check '${name}' did not answer in time`));
}

const maxReceivedLines = 100; // no way through honest servers makes more

/** A message that goes round in circles (RFC 5321 §6.3). */
export const loopCheck: Check = {
  name: 'loop',
  deadlineMs: 0,
  judge: ({ receivedLines }) =>
    receivedLines > maxReceivedLines ? replies.loop('Too many Received lines') : undefined,
};
