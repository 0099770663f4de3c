// Passes on mail whose recipient was looked up only in the queue (a notice, say): to where it is forwarded, and to the
// LMTP servers that keep its mailbox. Each becomes an entry of its own. Most are planned when the mail comes
// (src/inbound/plan.ts).
import type { Listen } from '../mail/event.ts';
import { type Message, type QueueEntry, type QueueRecipient, toForwarded } from '../mail/message.ts';
import type { Found, Prepared, Queue, ReturnPaths } from '../mail/ports.ts';
import { newId } from '../system/names.ts';
import type { Clock, Random } from '../system/world.ts';

type ForwardOptions = Readonly<{
  returnPaths: Pick<ReturnPaths, 'forForward'>;
  queue: () => Queue;
  listen?: Listen | undefined;
  clock: Clock;
  random: Random;
}>;

/** Resolves when what is passed on is stable in the queue. */
export type Forwarding = (
  entry: QueueEntry,
  message: Message,
  recipient: QueueRecipient,
  to: Pick<Found, 'forwards' | 'lmtp'>,
) => Promise<void>;

export function createForward({ returnPaths, queue, listen, clock, random }: ForwardOptions): Forwarding {
  return async (entry, message, recipient, { forwards = [], lmtp = [] }) => {
    const { id: _id, madeCopies: _copies, sentAs: _sentAs, ...envelope } = entry;
    const { routes: _routes, ...wished } = recipient;
    const entries: QueueEntry[] = [];
    const id = (): string => newId(clock.now(), random);
    if (lmtp.length > 0)
      entries.push({ ...envelope, id: id(), recipients: lmtp.map(each => ({ ...wished, lmtp: each })) });
    if (forwards.length > 0) {
      const sentAs = await returnPaths.forForward(entry.from);
      const planned = { ...envelope, id: id(), ...toForwarded(recipient, forwards) };
      entries.push(sentAs === entry.from ? planned : { ...planned, sentAs });
    }
    const prepared: Prepared[] = [];
    try {
      for (const each of entries) prepared.push(await queue().prepare(each, message));
    } catch (error) {
      await Promise.all(prepared.map(each => each.abort()));
      throw error;
    }
    await Promise.all(prepared.map(each => each.commit()));
    for (const { id: as, from, sentAs = from, recipients } of entries) {
      const to = recipients.map(({ address }) => address);
      listen?.({ kind: 'forward', message: entry.id, as, from: sentAs, to });
    }
  };
}
