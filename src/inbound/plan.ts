// What becomes of a message once its recipients are known: the copies that are made here, and what the queue gets.
// Pure: a function of the envelope, of where each recipient leads, and of the copies that could not be made.
// Promises: a copy is made once, however many recipients led to it; a copy that cannot be made now waits for each
// recipient whose mail it carries; no recipient is without both a copy and an entry, or the plan throws and the client
// hears 451; what MAIL and RCPT wished for goes along whole. A copy names, in Delivered-To, the addresses that led to
// that mailbox and no others, so that nobody learns of a Bcc to somebody else.
import type { Copy, Outcome, QueueEntry, QueueRecipient, Route } from '../mail/message.ts';
import { deliveredTo, routeKey, toForwarded } from '../mail/message.ts';
import { CannotTell } from '../mail/ports.ts';
import type { Accepted, Envelope } from '../smtp/envelope.ts';
import type { Destination } from './policy.ts';

/** A queue entry, but for what only the arrived message can tell. */
type PlannedEntry = Omit<QueueEntry, 'id' | 'receivedAt' | 'is8Bit' | 'returnPathBytes' | 'isOurs'>;

export type Plan = {
  /** Each with another `routeKey`. */
  readonly copies: readonly Copy[];
  /** One for each envelope that leaves. Empty where every recipient has all copies. */
  readonly entries: readonly PlannedEntry[];
};

/** `unmade`: the keys of copies that cannot be made now. */
export function plan(envelope: Envelope<Destination>, unmade: ReadonlySet<string> = new Set()): Plan {
  const copies = copiesOf(envelope.recipients);
  const isUnmade = (route: Route): boolean => unmade.size > 0 && unmade.has(routeKey(route));
  const waiting: QueueRecipient[] = [];
  const forwards: PlannedEntry[] = [];
  for (const accepted of envelope.recipients) {
    const destination = destinationOf(accepted);
    const { routes, lmtp = [] } = destination.found ?? {};
    const forward = forwardOf(envelope, accepted, destination);
    if (forward) forwards.push(forward);
    for (const mailbox of lmtp) waiting.push({ ...toQueue(accepted, destination, undefined), lmtp: mailbox });
    const left = routes?.filter(isUnmade).map(route => copies.get(routeKey(route)) ?? route);
    if (left?.length !== 0) waiting.push(toQueue(accepted, destination, left));
    // A 250 would lose the mail of this recipient.
    else if (routes?.length === 0 && !forward && lmtp.length === 0)
      throw new CannotTell(`${accepted.address.text} leads nowhere`);
  }
  return {
    copies: [...copies.values()].filter(copy => !isUnmade(copy)),
    entries: [...(waiting.length > 0 ? [entryFor(envelope, waiting)] : []), ...forwards],
  };
}

/**
 * A second envelope for a recipient whose mail is forwarded, even where another leads to the same address: each has its
 * own line.
 */
function forwardOf(
  envelope: Envelope<Destination>,
  accepted: Accepted<Destination>,
  destination: Destination,
): PlannedEntry | undefined {
  const { found, sentAs } = destination;
  if (!found?.forwards?.length) return undefined;
  const { recipients, ...more } = toForwarded(toQueue(accepted, destination, undefined), found.forwards);
  const entry = entryFor(envelope, recipients);
  return { ...entry, ...more, ...(sentAs !== undefined && sentAs !== entry.from && { sentAs }) };
}

/**
 * The Maildir++ folder of a mailbox for mail that its author's domain does not vouch for. Mail readers show it as Junk.
 */
const junkFolder = '.Junk';

/** Whether a recipient's mail goes to other servers alone, so that no folder here could take it. */
export const isForwardedOnly = ({ recipients }: Envelope<Destination>): boolean =>
  recipients.some(({ ticket }) => {
    const { routes, forwards, lmtp } = ticket?.found ?? {};
    return routes?.length === 0 && forwards !== undefined && lmtp === undefined;
  });

/** Whether a recipient's mail goes to an LMTP server, which is told by a header line what is junk. */
export const isHandedOver = ({ recipients }: Envelope<Destination>): boolean =>
  recipients.some(({ ticket }) => ticket?.found?.lmtp !== undefined);

/** The same envelope with that folder in place of each mailbox. Nothing of it is forwarded. */
export function toJunk(envelope: Envelope<Destination>): Envelope<Destination> {
  const junk = (route: Route): Route =>
    route.kind === 'maildir'
      ? { ...route, path: `${route.path}/${junkFolder}` }
      : { ...route, folder: route.folder === '' ? junkFolder : `${route.folder}/${junkFolder}` };
  const recipients = envelope.recipients.map(accepted => {
    const { domain, found } = destinationOf(accepted);
    if (found === undefined) return accepted;
    const { forwards: _forwards, ...here } = found;
    return { ...accepted, ticket: { domain, found: { ...here, routes: found.routes.map(junk) } } };
  });
  return { ...envelope, recipients };
}

/**
 * The lines that every copy has in front of it. They may stand in the message itself: then a large one is written once.
 */
export function sharedHead({ copies }: Plan): string {
  const [head = '', ...others] = new Set(copies.map(copy => copy.head ?? ''));
  return others.length === 0 ? head : '';
}

/** The same plan for a message in which that head stands already. */
export function behindHead({ copies, entries }: Plan, shared: string): Plan {
  if (shared === '') return { copies, entries };
  const behind = ({ head, ...route }: Copy): Copy => (head === shared ? route : { ...route, ...(head && { head }) });
  const waiting = ({ routes, ...recipient }: QueueRecipient): QueueRecipient =>
    routes ? { ...recipient, routes: routes.map(behind) } : recipient;
  return {
    copies: copies.map(behind),
    entries: entries.map(entry => ({ ...entry, recipients: entry.recipients.map(waiting) })),
  };
}

/** The envelope as the queue and notices know it, for these recipients. */
export function entryFor(envelope: Envelope<Destination>, waiting: readonly QueueRecipient[]): PlannedEntry {
  const { reversePath, wishes } = envelope;
  return { ...wishes, from: reversePath === '' ? '' : reversePath.text, recipients: waiting };
}

/** What a notice says of the recipients that have all their copies, where their sender wants to know. */
export function successes(envelope: Envelope<Destination>, unmade: ReadonlySet<string>): readonly Outcome[] {
  const delivery = { kind: 'delivered', status: '2.0.0', text: 'delivered to its mailbox' } as const;
  return envelope.recipients.flatMap((accepted): Outcome[] => {
    if (!accepted.wishes.notify?.includes('SUCCESS')) return [];
    const destination = destinationOf(accepted);
    const { routes, forwards, lmtp, via } = destination.found ?? {};
    // The queue tells of that, once the LMTP server has it.
    if (lmtp !== undefined) return [];
    // The server to which it is forwarded tells of that. Of a shared mailbox one notice tells, here.
    if (routes?.length === 0 && forwards !== undefined && via !== 'shared') return [];
    if (routes?.some(route => unmade.has(routeKey(route))) !== false) return [];
    const recipient = toQueue(accepted, destination, routes);
    return [{ recipient, action: recipient.isShared ? 'expanded' : 'delivered', delivery }];
  });
}

/** Every copy that stays here, by its key. */
function copiesOf(recipients: readonly Accepted<Destination>[]): ReadonlyMap<string, Copy> {
  const copies = new Map<string, Copy>();
  const unnamed = new Set<string>(); // copies that an address other than the mailbox's own has led to
  for (const { ticket } of recipients)
    for (const route of ticket?.found?.routes ?? []) {
      const key = routeKey(route);
      copies.set(key, route);
      if (ticket?.found?.via !== undefined) unnamed.add(key);
    }
  for (const key of unnamed) {
    const copy = copies.get(key);
    if (copy) copies.set(key, { ...copy, head: deliveredTo(addressesOf(key, recipients)) });
  }
  return copies;
}

/** The addresses that led to a copy, each once. */
function addressesOf(key: string, recipients: readonly Accepted<Destination>[]): readonly string[] {
  const led = recipients.filter(({ ticket }) => ticket?.found?.routes.some(route => routeKey(route) === key));
  return [...new Set(led.map(({ address }) => address.text))];
}

/** A recipient as the queue keeps it, with these copies that stay here. */
function toQueue(
  { address, wishes }: Accepted<Destination>,
  { domain, found }: Destination,
  routes: readonly Copy[] | undefined,
): QueueRecipient {
  const isShared = found?.via === 'shared';
  return { address: address.text, domain, ...(routes && { routes }), ...(isShared && { isShared }), ...wishes };
}

function destinationOf({ address, ticket }: Accepted<Destination>): Destination {
  if (ticket === undefined) throw new CannotTell(`${address.text} was accepted, and leads nowhere`);
  return ticket;
}
