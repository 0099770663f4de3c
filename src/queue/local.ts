// The transport of mail that stays here but could not be delivered at once: the queue tries it again through this.
// Promises: each recipient on its own, so that one full mailbox holds up no other; what cannot be told is deferred.
// Never decides anew where mail goes, unless that could not be told when it was taken (`routes` is empty).
import { CannotTell, type Prepared, type Resolution, type Resolve, type Storage } from '../mail/ports.ts';
import type { Message } from '../mail/message.ts';
import { toMailbox } from '../mail/address.ts';
import type { Delivery, QueueEntry, QueueRecipient, Route } from '../mail/message.ts';
import type { Place, Transport } from '../mail/ports.ts';
import { parseAddress } from '../smtp/address.ts';

export type LocalOptions = Readonly<{
  storages: Readonly<Record<Route['kind'], Storage>>;
  resolve: Resolve;
  remote: Transport; // for a recipient that turns out to be elsewhere
  isRelayed: boolean;
}>;

export function localTransport({ storages, resolve, remote, isRelayed }: LocalOptions): Transport {
  async function store(routes: readonly Route[], message: Message): Promise<Delivery> {
    const prepared: Prepared[] = [];
    try {
      for (const [kind, group] of Map.groupBy(routes, route => route.kind))
        prepared.push(await storages[kind].prepare(group, message));
    } catch (error) {
      await Promise.all(prepared.map(copies => copies.abort()));
      throw error;
    }
    await Promise.all(prepared.map(copies => copies.commit()));
    return { kind: 'delivered', status: '2.0.0', text: 'delivered to its mailbox' };
  }

  async function attempt(recipient: QueueRecipient, entry: QueueEntry, message: Message, place: Place) {
    const { address, domain, routes = [] } = recipient;
    const parsed = parseAddress(address);
    const mailbox = parsed && toMailbox(parsed);
    const unknown: Resolution = { kind: 'unknown' };
    const found = routes.length > 0 ? { kind: 'local' as const, routes } : mailbox ? await resolve(mailbox) : unknown;
    if (found.kind === 'local') return [await store(found.routes, message)];
    if (found.kind === 'elsewhere') {
      const hop = isRelayed ? ({ kind: 'relay' } as const) : ({ kind: 'domain', domain } as const);
      return remote.deliver(hop, entry, message, [recipient], place);
    }
    return [{ kind: 'failed' as const, status: '5.1.1', text: 'there is no such mailbox' }];
  }

  return {
    async deliver(_hop, entry, message, recipients, place) {
      const deliveries: Delivery[] = [];
      for (const recipient of recipients)
        try {
          deliveries.push(...(await attempt(recipient, entry, message, place)));
        } catch (error) {
          const status = error instanceof CannotTell ? error.status : '4.3.0';
          deliveries.push({ kind: 'deferred', status, text: `it cannot be stored now: ${String(error)}` });
        }
      return deliveries;
    },
  };
}
