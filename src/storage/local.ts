// The transport of mail that stays here but could not be delivered at once: the queue tries it again through this.
// Promises: each recipient on its own, so that one full mailbox holds up no other; what cannot be told is deferred.
// Never decides anew where mail goes, unless that could not be told when it was taken (`routes` is empty).
import { CannotTell, toMailbox } from '../mail.ts';
import type { Delivery, Prepared, QueueRecipient, Resolve, Route, Storage, StoredMessage, Transport } from '../mail.ts';
import { parseAddress } from '../smtp/address.ts';

export type LocalOptions = {
  readonly storages: Readonly<Record<Route['kind'], Storage>>;
  readonly resolve: Resolve;
  /** For a recipient that turns out to be elsewhere. */
  readonly remote: Transport;
  readonly isRelayed: boolean;
};

export function localTransport({ storages, resolve, remote, isRelayed }: LocalOptions): Transport {
  async function store(routes: readonly Route[], message: StoredMessage): Promise<Delivery> {
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

  async function find({ address, routes = [] }: QueueRecipient): Promise<readonly Route[] | 'unknown' | 'elsewhere'> {
    if (routes.length > 0) return routes;
    const parsed = parseAddress(address);
    const mailbox = parsed && toMailbox(parsed);
    const found = mailbox ? await resolve(mailbox) : ({ kind: 'unknown' } as const);
    return found.kind === 'local' ? found.routes : found.kind;
  }

  return {
    async deliver(_destination, entry, message, recipients) {
      const deliveries: Delivery[] = [];
      for (const recipient of recipients) {
        try {
          const routes = await find(recipient);
          if (routes === 'unknown')
            deliveries.push({ kind: 'failed', status: '5.1.1', text: 'there is no such mailbox' });
          else if (routes !== 'elsewhere') deliveries.push(await store(routes, message));
          else
            deliveries.push(
              ...(await remote.deliver(isRelayed ? 'relay' : recipient.domain, entry, message, [recipient])),
            );
        } catch (error) {
          const status = error instanceof CannotTell ? error.status : '4.3.0';
          deliveries.push({ kind: 'deferred', status, text: `it cannot be stored now: ${String(error)}` });
        }
      }
      return deliveries;
    },
  };
}
