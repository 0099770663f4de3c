// What an attempt means for a recipient: what is recorded, when it is tried next, and what its sender is told. Pure.
// The order of events is fixed: judge, tell the sender, conclude, write the record. A crash in between makes the notice
// come twice, and never makes it missing.
import type { Delivery, Outcome } from '../mail/message.ts';
import type { StoredRecipient } from '../mail/queue-store.ts';
import { waitAfter } from './destination.ts';

/**
 * 10 % of a wait, up or down, so that messages that were deferred together do not come back together. In thousandths.
 */
export const jitterRange = 201;
const leastThousandths = 900;

export type Terms = Readonly<{ lifetimeMs: number; delayNoticeMs: number; retryMs: readonly number[] }>;
type Times = Readonly<{
  now: number;
  receivedAt: number;
  /** A random number below `jitterRange`. */
  jitter: number;
}>;

/** What is recorded of a recipient, and what its sender is to be told. */
type Judgement = Readonly<{
  changes: Pick<StoredRecipient, 'last' | 'attempts' | 'nextAt'>;
  action?: Outcome['action'] | undefined;
}>;

/**
 * `how`: `counted`, an attempt; `uncounted`, the next hop was busy or crowded, so the message is tried again as soon as
 * it can be; `untried`, time has passed while the destination could not be tried, or a notice is still owed.
 */
export function judge(
  recipient: StoredRecipient,
  delivery: Delivery,
  how: 'counted' | 'uncounted' | 'untried',
  times: Times,
  terms: Terms,
): Judgement {
  const { now, receivedAt, jitter } = times;
  const endsAt = receivedAt + terms.lifetimeMs;
  const isOver = delivery.kind === 'deferred' && now >= endsAt && !recipient.isHeld;
  const last = isOver ? givenUp(delivery) : delivery;
  const attempts = recipient.attempts + (how === 'counted' ? 1 : 0);
  const waitMs = Math.round((waitAfter(attempts, terms.retryMs) * (leastThousandths + jitter)) / 1000);
  // The last attempt is made at the very end of the message's life.
  const next = now < endsAt ? Math.min(now + waitMs, endsAt) : now + waitMs;
  const nextAt = how === 'counted' ? next : recipient.nextAt;
  const isLate = now >= receivedAt + terms.delayNoticeMs;
  return { changes: { last, attempts, nextAt }, action: actionFor(recipient, last, isLate) };
}

/** What is recorded when the sender has been told, or could not be told before `quietUntil`. */
export function conclude(
  recipient: StoredRecipient,
  action: Outcome['action'] | undefined,
  isTold: boolean,
  quietUntil: number,
): Partial<StoredRecipient> {
  const isFinal = recipient.last?.kind !== 'deferred';
  if (action === undefined) return isFinal ? { isDone: true } : {};
  if (isTold) return isFinal ? { isDone: true } : { isDelayTold: true };
  return isFinal ? { nextAt: Math.max(recipient.nextAt, quietUntil) } : {};
}

/** At the end of its life a deferral becomes a failure, for the reason that it had. */
function givenUp(delivery: Delivery): Delivery {
  const text = `${delivery.text} (given up: this is how long mail may wait)`;
  return { ...delivery, kind: 'failed', status: `5${delivery.status.slice(1)}`, text };
}

/** That there is no TLS (4.7.4) is told at once: waiting rarely helps. */
function actionFor(
  to: StoredRecipient,
  { kind, ...delivery }: Delivery,
  isLate: boolean,
): Outcome['action'] | undefined {
  switch (kind) {
    case 'failed':
      return 'failed';
    case 'deferred':
      return !to.isDelayTold && (isLate || delivery.status === '4.7.4') ? 'delayed' : undefined;
    case 'delivered':
      if (!to.notify?.includes('SUCCESS') || delivery.isDsnPassedOn) return undefined;
      if (delivery.remote !== undefined) return 'relayed';
      return to.isShared ? 'expanded' : 'delivered';
    default:
      return kind satisfies never;
  }
}
