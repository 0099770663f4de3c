// The transport of mail that stays here but could not be delivered at once: the queue tries it again through this.
// Promises:
// - A copy that several recipients share is made once, and belongs to each of them: a recipient is delivered when all
//   of its copies are made.
// - One full mailbox holds up no other: each copy is tried by itself, and what is made already is not made again.
// - What cannot be told now is deferred, never failed.
// - What is forwarded is an entry of its own, made once.
// - Where mail goes is never decided anew, unless it could not be told when the mail was taken (`routes` is empty).
import { CannotTell, type Found, type Place, type Resolve, type Storage, type Transport } from '../mail/ports.ts';
import {
  type Copy,
  type Delivery,
  type Message,
  type QueueEntry,
  type QueueRecipient,
  type Route,
  copiesFor,
  routeKey,
} from '../mail/message.ts';
import { toMailbox } from '../mail/address.ts';
import { parseAddress } from '../smtp/address.ts';
import type { Forwarding } from './forward.ts';

type LocalOptions = Readonly<{
  storages: Readonly<Record<Route['kind'], Storage>>;
  resolve: Resolve;
  /** Takes mail whose recipient turns out to be at another server. */
  remote: Transport;
  isRelayed: boolean;
  forward: Forwarding;
}>;

export function localTransport({ storages, resolve, remote, isRelayed, forward }: LocalOptions): Transport {
  return {
    async deliver(_hop, entry, message, recipients, place) {
      const makeCopies = copier(storages, entry, message, place);
      const passOn = async (to: QueueRecipient, found: Here, delivery: Delivery): Promise<Delivery> => {
        const key = `forward:${to.address}`;
        if (!(found.forwards ?? found.lmtp) || entry.madeCopies?.includes(key)) return delivery;
        const { copies = [] } = delivery;
        try {
          await forward(entry, message, to, found);
          return { ...delivery, copies: [...copies, key] };
        } catch (error) {
          return { ...deferral(error), copies };
        }
      };
      const deliveries: Delivery[] = [];
      for (const recipient of recipients)
        try {
          const found = await routesOf(recipient, resolve);
          if (found === 'nowhere')
            deliveries.push({ kind: 'failed', status: '5.1.1', text: 'there is no such mailbox' });
          else if (typeof found === 'object' && found.refusal !== undefined)
            deliveries.push({ kind: 'failed', status: found.refusal, text: 'the mailbox does not take this message' });
          else if (found !== 'elsewhere')
            deliveries.push(await passOn(recipient, found, await makeCopies(found.copies)));
          else {
            const { domain } = recipient;
            const hop = isRelayed ? ({ kind: 'relay' } as const) : ({ kind: 'domain', domain } as const);
            deliveries.push(...(await remote.deliver(hop, entry, message, [recipient], place)));
          }
        } catch (error) {
          deliveries.push(deferral(error));
        }
      return deliveries;
    },
  };
}

type Here = { readonly copies: readonly Copy[] } & Pick<Found, 'forwards' | 'lmtp' | 'refusal'>;

async function routesOf(
  { address, routes = [] }: QueueRecipient,
  resolve: Resolve,
): Promise<Here | 'elsewhere' | 'nowhere'> {
  if (routes.length > 0) return { copies: routes };
  const parsed = parseAddress(address);
  const mailbox = parsed && toMailbox(parsed);
  const found = mailbox && (await resolve(mailbox, undefined, parsed.local));
  if (found?.kind === 'local') {
    const copies = copiesFor(address, found);
    const { forwards, lmtp, refusal } = found;
    const isSomewhere = copies.length > 0 || forwards?.length || lmtp?.length || refusal !== undefined;
    // Otherwise no copy would be made for the recipient, and it would count as delivered.
    if (!isSomewhere) throw new CannotTell('the address leads nowhere');
    return { copies, ...(forwards && { forwards }), ...(lmtp && { lmtp }), ...(refusal !== undefined && { refusal }) };
  }
  return found?.kind === 'elsewhere' ? 'elsewhere' : 'nowhere';
}

/**
 * Makes the copies of one recipient after the other; what it has made, or failed to make, holds for all that share the
 * copy.
 */
function copier(storages: LocalOptions['storages'], entry: QueueEntry, message: Message, place: Place) {
  const made = new Set(entry.madeCopies);
  const failures = new Map<string, unknown>();
  const make = async (copy: Copy, key: string): Promise<void> => {
    if (made.has(key) || failures.has(key)) return;
    try {
      if (place.isEnded) throw new CannotTell('the attempt took long, and others wait for its place');
      const prepared = await storages[copy.kind].prepare([copy], message);
      if (place.confirm && !(await place.confirm())) {
        await prepared.abort();
        throw new CannotTell('it is not sure that no other replica delivers it');
      }
      await prepared.commit();
      made.add(key);
    } catch (error) {
      failures.set(key, error);
    }
    place.progressed();
  };
  return async (all: readonly Copy[]): Promise<Delivery> => {
    const keys = all.map(routeKey);
    for (const [index, copy] of all.entries()) await make(copy, keys[index] ?? '');
    const copies = keys.filter(key => made.has(key));
    const failed = keys.find(key => failures.has(key));
    if (failed !== undefined) return { ...deferral(failures.get(failed)), copies };
    return { kind: 'delivered', status: '2.0.0', text: 'delivered to its mailbox', copies };
  };
}

function deferral(error: unknown): Delivery {
  const status = error instanceof CannotTell ? error.status : '4.3.0';
  return { kind: 'deferred', status, text: `it cannot be stored now: ${String(error)}` };
}
