// What an operator sees of the queue that replicas share, and orders: on any of them, for all.
// An order changes the records of jobs, also of those that another replica is sending: that replica finds it when it
// writes what became of them.
import type { QueueAction, QueuedMessage, Selector } from '../mail/admin.ts';
import type { Listen } from '../mail/event.ts';
import type { SharedMessage, SharedStore, StoredRecipient } from '../mail/queue-store.ts';
import type { Clock } from '../system/world.ts';
import { describe, order, sending } from './admin.ts';
import { explainState } from './destination.ts';
import type { Terms } from './outcome.ts';
import { planOf } from './plan.ts';

type Job = SharedMessage['jobs'][number];
/** An order is carried out for so many messages side by side. */
const maxOrders = 8;
/** An order on a job whose record changes meanwhile is tried so often. */
const maxTries = 10;

type OrderOptions = Terms & { readonly listen?: Listen | undefined; readonly clock: Clock };

export async function* listShared(store: SharedStore, selector: Selector, clock: Clock): AsyncGenerator<QueuedMessage> {
  for await (const { jobs } of store.list(selector)) {
    const [first] = jobs;
    if (first === undefined) continue;
    const jobOf = new Map(jobs.flatMap(job => job.record.recipients.map(to => [to, job] as const)));
    const record = { ...first.record, recipients: [...jobOf.keys()] };
    const now = clock.now();
    const found = describe(record, selector, now, recipient => explain(recipient, jobOf.get(recipient), now));
    if (found) yield found;
  }
}

/** Carries out an order, and says how many messages it concerned. */
export async function actShared(
  store: SharedStore,
  action: QueueAction,
  selector: Selector,
  options: OrderOptions,
): Promise<number> {
  let touched = 0;
  const back = new Set<string>();
  const change = async ({ jobs }: SharedMessage): Promise<void> => {
    const changed = await Promise.all(jobs.map(job => changeJob(store, job, action, selector, options)));
    for (const [at, { destination }] of jobs.entries()) if (changed[at]) back.add(destination);
    if (changed.includes(true)) touched += 1;
  };
  const changes: Promise<void>[] = [];
  for await (const message of store.list(selector)) {
    changes.push(change(message));
    if (changes.length === maxOrders) await Promise.all(changes.splice(0));
  }
  await Promise.all(changes);
  // Who says 'now' knows that the destination is back, so its other mail may go as well.
  if (action === 'retry' && back.size > 0) await store.unblock([...back]);
  return touched;
}

/**
 * Carries out an order on one job, and resolves with whether it concerned any of its recipients. A job that changes
 * meanwhile is looked at again.
 */
async function changeJob(
  store: SharedStore,
  job: Job,
  action: QueueAction,
  selector: Selector,
  options: OrderOptions,
): Promise<boolean> {
  let seen: Job | undefined = job;
  for (let tries = 0; seen && tries < maxTries; tries += 1) {
    const now = options.clock.now();
    const concerned = order(seen.record, action, selector, now);
    if (concerned.length === 0) return false;
    if (await store.order(seen, planOf(seen.destination, seen.record, now, options))) {
      const to = concerned.slice(0, 20).map(({ address }) => address);
      options.listen?.({ kind: 'order', message: job.record.id, action, by: 'operator', to });
      return true;
    }
    seen = undefined;
    for await (const { jobs } of store.list({ id: job.record.id }))
      seen = jobs.find(({ destination }) => destination === job.destination);
  }
  return false;
}

/** Says why a recipient is not tried now; undefined where its next attempt is planned. */
function explain({ nextAt }: StoredRecipient, job: Job | undefined, now: number): string | undefined {
  if (job?.sender !== undefined) return `${sending} by ${job.sender}`;
  if (job === undefined || nextAt > now) return undefined;
  const { failures, isBlocked, reason } = job;
  return explainState(failures, isBlocked, reason ?? undefined) ?? 'it waits for its turn';
}
