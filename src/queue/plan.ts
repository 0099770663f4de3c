// What a store for several replicas keeps of a job, so that it is found when it is due. Pure.
import type { JobPlan, StoredEntry } from '../mail/queue-store.ts';
import { waitAfter } from './destination.ts';
import type { Terms } from './outcome.ts';
import { isOver, pending } from './records.ts';

/** Plans a job by what its record says, with no notice before `quietUntil`. */
export function planOf(
  destination: string,
  record: StoredEntry,
  now: number,
  { lifetimeMs, delayNoticeMs, retryMs }: Terms,
  quietUntil = 0,
): JobPlan {
  const tried = pending(record).filter(({ isHeld }) => !isHeld);
  const rest = { destination, record, waitMs: 0, wakeMs: lifetimeMs };
  if (tried.length === 0) return { ...rest, state: isOver(record) ? 'done' : 'held' };
  const isUntold = delayNoticeMs < lifetimeMs && tried.some(({ isDelayTold }) => !isDelayTold);
  const wakeMs = Math.max(record.receivedAt + (isUntold ? delayNoticeMs : lifetimeMs), quietUntil) - now;
  const waitMs = Math.max(0, Math.min(...tried.map(({ nextAt }) => nextAt)) - now);
  return { ...rest, state: 'waiting', waitMs, wakeMs: wakeMs > 0 ? wakeMs : waitAfter(1, retryMs) };
}

/**
 * Joins what a turn has made of a record with what an operator has ordered meanwhile. What was delivered stays
 * delivered.
 */
export function join(record: StoredEntry, changed: StoredEntry): StoredEntry {
  for (const [at, recipient] of record.recipients.entries()) {
    const { isHeld = false, isDone } = changed.recipients[at] ?? {};
    recipient.isHeld = isHeld;
    if (isDone) recipient.isDone = true;
  }
  return record;
}
