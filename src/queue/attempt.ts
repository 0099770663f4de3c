// One turn of a job: the attempt, what it means for each recipient, the notice to the sender, the record; in this
// order.
// Promise: that a recipient is done is recorded only after its notice is stable. So a crash may make a notice come
// twice, and never makes it missing.
import type { Listen } from '../mail/event.ts';
import type { Delivery, NextHop, Outcome } from '../mail/message.ts';
import type { Report, Transport } from '../mail/ports.ts';
import type { QueueStore, StoredEntry, StoredRecipient } from '../mail/queue-store.ts';
import type { Log } from '../system/log.ts';
import type { Clock, Random } from '../system/world.ts';
import { afterAttempt, foundBy, waitAfter } from './destination.ts';
import { type Terms, conclude, jitterRange, judge } from './outcome.ts';
import type { Destination } from './job.ts';
import type { Occupied } from './places.ts';

export type AttemptOptions = Terms &
  Readonly<{
    store: Pick<QueueStore, 'message'>;
    transports: Readonly<Record<NextHop['kind'], Transport>>;
    report: Report;
    listen?: Listen | undefined;
    clock: Clock;
    random: Random;
    log: Log;
  }>;

/** The turn of a job, as far as the attempt looks at it. */
export type Turn = Readonly<{
  isAttempt: boolean;
  place: Occupied;
  job: { readonly destination: Pick<Destination, 'hop' | 'key' | 'limits' | 'running' | 'state'>; quietUntil: number };
}>;
type Result = Readonly<{ delivery: Delivery; how: Parameters<typeof judge>[2] }>;
type Results = ReadonlyMap<StoredRecipient, Result>;
type Recipients = readonly StoredRecipient[];

const sentences = { delivered: 'mail was delivered', deferred: 'mail is deferred', failed: 'mail has failed' } as const;
const unexplained: Delivery = { kind: 'deferred', status: '4.3.0', text: 'an internal error' };

/**
 * Carries out a turn for these recipients. Resolves with what the attempt found, and whether the record says something
 * new.
 */
export async function carryOut(turn: Turn, record: StoredEntry, recipients: Recipients, options: AttemptOptions) {
  const { state } = turn.job.destination;
  const { results, found } = turn.isAttempt
    ? await deliver(turn, record, recipients, options)
    : { found: undefined, results: new Map(recipients.map(to => [to, untried(to.last ?? state.reason)])) };
  const isChanged = await tell(turn, record, results, options);
  return { found, isChanged };
}

const untried = (delivery: Delivery = unexplained): Result => ({ delivery, how: 'untried' });

/** Makes the attempt. A recipient that is decided, so that only its notice is owed, is not tried again. */
async function deliver(turn: Turn, record: StoredEntry, recipients: Recipients, options: AttemptOptions) {
  const { place } = turn;
  const { destination } = turn.job;
  const { store, transports, clock, log } = options;
  const results = new Map<StoredRecipient, Result>();
  for (const recipient of recipients)
    if (recipient.last && recipient.last.kind !== 'deferred')
      results.set(recipient, { delivery: recipient.last, how: 'untried' });
  const tried = recipients.filter(recipient => !results.has(recipient));
  if (tried.length === 0) return { results, found: undefined };
  const round = destination.state.failures;
  const { hop, key } = destination;
  let deliveries: readonly Delivery[] = [];
  try {
    const message = await store.message(record);
    deliveries = await transports[hop.kind].deliver(hop, record, message, tried, place);
  } catch (error) {
    const fields = { message: record.id, destination: key };
    log.error({ ...fields, error: error instanceof Error ? error.stack : error }, 'an attempt ended in a surprise');
  }
  const said = foundBy(deliveries);
  // A crowded job waits for an address. Where none is known it would be tried again at once, without end.
  const found = said === 'crowded' && place.crowdedAt === undefined ? 'reached' : said;
  const attempt = {
    found,
    now: clock.now(),
    round,
    others: destination.running - 1,
    isProgress: deliveries.some(({ kind }) => kind === 'delivered'),
    attempts: 1 + Math.min(...tried.map(({ attempts }) => attempts)),
    reason: deliveries.find(({ kind }) => kind === 'deferred'),
  };
  const after = afterAttempt(destination.state, attempt, destination.limits);
  destination.state = after.state;
  if (found === 'busy')
    log.debug({ destination: key, sessions: Math.floor(after.state.sessions) }, 'a server wants fewer sessions');
  for (const [index, recipient] of tried.entries()) {
    const delivery = deliveries[index] ?? unexplained;
    const isCounted = after.isCounted || !(delivery.isBusy || delivery.isCrowded);
    results.set(recipient, { delivery, how: isCounted ? 'counted' : 'uncounted' });
  }
  return { results, found };
}

/** Judges what came back and tells the sender. Resolves with whether the record says something new. */
async function tell(
  { job, place }: Turn,
  record: StoredEntry,
  results: Results,
  options: AttemptOptions,
): Promise<boolean> {
  const { store, report, retryMs, clock, random, log } = options;
  const now = clock.now();
  const outcomes = new Map<StoredRecipient, Outcome>();
  const changed: StoredRecipient[] = [];
  for (const [recipient, { delivery, how }] of results) {
    if (recipient.isDone) continue; // an operator has removed it meanwhile
    const said = withoutCopies(delivery, record);
    const times = { now, receivedAt: record.receivedAt, jitter: random.below(jitterRange) };
    const { changes, action } = judge(recipient, said, how, times, options);
    if (how === 'uncounted' && action === undefined) continue; // nothing has happened to it
    Object.assign(recipient, changes);
    changed.push(recipient);
    if (action) outcomes.set(recipient, { recipient, action, delivery: changes.last ?? said });
  }
  const counted = changed.filter(
    recipient => results.get(recipient)?.how !== 'untried' || recipient.last?.kind !== 'deferred',
  );
  const times = { ms: now - place.startedAt, ageMs: now - record.receivedAt };
  tellDeliveries({ message: record.id, from: record.from }, job.destination, counted, times, options);
  let isTold = true;
  try {
    if (outcomes.size > 0) await report(record, await store.message(record), [...outcomes.values()]);
  } catch (error) {
    log.warn({ message: record.id, error: String(error) }, 'a notice cannot be kept now; it is tried again');
    isTold = false;
    job.quietUntil = now + waitAfter(1, retryMs);
  }
  for (const recipient of changed)
    Object.assign(recipient, conclude(recipient, outcomes.get(recipient)?.action, isTold, job.quietUntil));
  return changed.length > 0;
}

/**
 * What is said of a recipient. The copies that were made for it are a matter of the whole message, and are recorded
 * there.
 */
function withoutCopies(delivery: Delivery, record: StoredEntry): Delivery {
  if (delivery.copies === undefined) return delivery;
  const { copies, ...said } = delivery;
  record.madeCopies = [...new Set([...(record.madeCopies ?? []), ...copies])];
  return said;
}

/** Logs a line and raises an event for each delivery, with the recipients who share it. */
function tellDeliveries(
  mail: Readonly<{ message: string; from: string }>,
  { key: destination, hop }: Pick<Destination, 'key' | 'hop'>,
  recipients: Recipients,
  { ms, ageMs }: Readonly<{ ms: number; ageMs: number }>,
  { log, listen }: Pick<AttemptOptions, 'log' | 'listen'>,
): void {
  // Most messages have one recipient, who needs no comparison.
  const groups =
    recipients.length > 1 ? Map.groupBy(recipients, ({ last }) => JSON.stringify(last)).values() : [recipients];
  for (const group of groups) {
    const [first] = group;
    if (first === undefined) continue;
    const { kind: result, status, text, remote, tls } = first.last ?? unexplained;
    const to = group.slice(0, 20).map(({ address }) => address);
    const { attempts, nextAt } = first;
    const said = { remote, tls, reply: text, status, recipients: group.length, attempt: attempts };
    const { message, from } = mail;
    log.info({ message, destination, from, to, ...said, age: Math.round(ageMs / 1000) }, sentences[result]);
    listen?.({
      kind: 'attempt',
      ...mail,
      destination,
      hop: hop.kind,
      to,
      recipients: group.length,
      result,
      status,
      text,
      remote,
      tls,
      attempts,
      nextAt: result === 'deferred' ? nextAt : undefined,
      ms,
      ageMs,
    });
  }
}
