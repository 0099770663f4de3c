// Forwards mail whose recipient was looked up only in the queue (a notice, say): it becomes an entry of its own.
// Most forwards are planned when the mail comes (src/inbound/plan.ts).
import type { Listen } from '../mail/event.ts';
import { type Forward, type Message, type QueueEntry, type QueueRecipient, toForwarded } from '../mail/message.ts';
import type { Queue, ReturnPaths } from '../mail/ports.ts';
import { newId } from '../system/names.ts';
import type { Clock, Random } from '../system/world.ts';

type ForwardOptions = Readonly<{
  returnPaths: Pick<ReturnPaths, 'forForward'>;
  queue: () => Queue;
  listen?: Listen | undefined;
  clock: Clock;
  random: Random;
}>;

/** Resolves when the forward is stable in the queue. */
export type Forwarding = (
  entry: QueueEntry,
  message: Message,
  recipient: QueueRecipient,
  forwards: readonly Forward[],
) => Promise<void>;

export function createForward({ returnPaths, queue, listen, clock, random }: ForwardOptions): Forwarding {
  return async (entry, message, recipient, forwards) => {
    const { id: _id, madeCopies: _copies, sentAs: _sentAs, ...envelope } = entry;
    const sentAs = await returnPaths.forForward(entry.from);
    const id = newId(clock.now(), random);
    const planned = { ...envelope, id, ...toForwarded(recipient, forwards) };
    const prepared = await queue().prepare(sentAs === entry.from ? planned : { ...planned, sentAs }, message);
    await prepared.commit();
    const to = planned.recipients.map(({ address }) => address);
    listen?.({ kind: 'forward', message: entry.id, as: id, from: sentAs, to });
  };
}
