// What an operator sees of the queue, and what an order does to a record. All of it is pure but the last function,
// which carries out an order while no server runs.
// Held mail is neither tried nor given up. Removed mail is gone without a notice.
import { toDomain } from '../mail/address.ts';
import type { QueueAction, QueuedMessage, QueuedRecipient, Selector } from '../mail/admin.ts';
import type { QueueStore, StoredEntry, StoredRecipient } from '../mail/queue-store.ts';
import { isOver, pending } from './records.ts';

/** Says why a recipient is not tried now; undefined where its next attempt is planned. */
type Explain = (recipient: StoredRecipient) => string | undefined;

/** The recipients of a message that wait and that the selector means. */
function matching(record: StoredEntry, { domain, sender }: Selector): readonly StoredRecipient[] {
  if (sender !== undefined && record.from.toLowerCase() !== sender.toLowerCase()) return [];
  const wanted = domain && (toDomain(domain) ?? domain);
  return pending(record).filter(recipient => wanted === undefined || recipient.domain === wanted);
}

/**
 * Describes a message as it is listed; where the selector has an id, with the recipients that do not wait any more,
 * too. Undefined where the selector means none of its recipients.
 */
export function describe(
  record: StoredEntry,
  selector: Selector,
  now: number,
  explain: Explain,
): QueuedMessage | undefined {
  const waiting = matching(record, selector);
  if (waiting.length === 0) return undefined;
  const recipients = selector.id === undefined ? waiting : record.recipients;
  const { id, from, receivedAt, sizeBytes } = record;
  const ageSeconds = Math.floor((now - receivedAt) / 1000);
  const isHeld = pending(record).every(recipient => recipient.isHeld);
  return { id, from, ageSeconds, sizeBytes, isHeld, recipients: recipients.map(to => describeRecipient(to, explain)) };
}

function describeRecipient(recipient: StoredRecipient, explain: Explain): QueuedRecipient {
  const { address, domain, attempts, nextAt, last, isDone, isHeld } = recipient;
  const fields = { address, domain, attempts, status: last?.status, text: last?.text, remote: last?.remote };
  if (isDone) return { ...fields, state: last?.kind ?? 'removed' };
  const why = explain(recipient);
  const nextAttemptAt = isHeld ? undefined : new Date(nextAt).toISOString();
  if (why?.startsWith(sending)) return { ...fields, state: 'sending', nextAttemptAt, reason: why };
  if (isHeld) return { ...fields, state: 'held', reason: 'it is held' };
  const planned = last === undefined ? 'it was not tried yet' : `${last.status} ${last.text}`;
  return { ...fields, state: 'waiting', nextAttemptAt, reason: why ?? planned };
}

export const sending = 'it is being sent';

/** Does to a record what is ordered, and returns the recipients that it concerned. */
export function order(
  record: StoredEntry,
  action: QueueAction,
  selector: Selector,
  now: number,
): readonly StoredRecipient[] {
  const recipients = matching(record, selector).filter(({ isHeld }) => isHeld || action !== 'release');
  for (const recipient of recipients)
    switch (action) {
      case 'retry':
        recipient.nextAt = now;
        break;
      case 'hold':
        recipient.isHeld = true;
        break;
      case 'release':
        recipient.isHeld = false;
        recipient.nextAt = now;
        break;
      case 'remove':
        recipient.isDone = true;
        break;
      default:
        action satisfies never;
    }
  return recipients;
}

/**
 * Carries out an order while no server runs: the caller has the server's lock, and the journal is restored. Resolves
 * with the number of messages that it concerned.
 */
export async function orderWithoutServer(
  store: QueueStore,
  action: QueueAction,
  selector: Selector,
  now: number,
): Promise<number> {
  let touched = 0;
  for await (const record of store.claim()) {
    if (selector.id !== undefined && selector.id !== record.id) continue;
    if (order(record, action, selector, now).length === 0) continue;
    touched += 1;
    if (isOver(record)) await store.remove(record.id);
    else await store.update(record);
  }
  return touched;
}
