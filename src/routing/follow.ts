// Follows forwards: an address whose mail goes to another one of ours goes where that one's does; what is left are
// addresses at other servers.
// Promises: a loop ends, since each address is followed once; one that leads nowhere is passed over while others lead
// somewhere; what a forward leads to never counts as the address's own. Forwards that lead to nobody are an operator's
// mistake, so CannotTell: the mail waits at its sender.
import { type Mailbox, formatMailbox } from '../mail/address.ts';
import { type Forward, routeKey } from '../mail/message.ts';
import { CannotTell, type Explain, type Found, type Resolution } from '../mail/ports.ts';

/** So many addresses are followed for one recipient. */
const maxForwards = 1000;

/** `decide` looks an address up, without following anything. */
export async function followForwards(
  start: Mailbox,
  first: Found,
  decide: (mailbox: Mailbox, explain?: Explain) => Promise<Resolution>,
  explain?: Explain,
): Promise<Found> {
  const routes = new Map(first.routes.map(route => [routeKey(route), route]));
  const lmtp = [...(first.lmtp ?? [])];
  const elsewhere: Forward[] = [];
  const seen = new Set([formatMailbox(start)]);
  const waiting = [...(first.forwards ?? [])];
  for (const forward of waiting) {
    const name = formatMailbox(forward.mailbox);
    if (seen.has(name)) {
      explain?.(`forwarded to ${name}: that was followed before`);
      continue;
    }
    if (seen.size > maxForwards)
      throw new CannotTell(`more than ${maxForwards} addresses get its mail`, { status: '4.3.5' });
    seen.add(name);
    explain?.(`forwarded to ${name}:`);
    const found = await decide(forward.mailbox, line => explain?.(`  ${line}`));
    if (found.kind === 'elsewhere') elsewhere.push(forward);
    else if (found.kind === 'unknown' || found.refusal !== undefined) explain?.('  that leads nowhere');
    else {
      for (const route of found.routes) routes.set(routeKey(route), route);
      lmtp.push(...(found.lmtp ?? []));
      waiting.push(...(found.forwards ?? []));
    }
  }
  if (routes.size === 0 && elsewhere.length === 0 && lmtp.length === 0)
    throw new CannotTell(`the forwards of ${formatMailbox(start)} lead nowhere`, { status: '4.3.5' });
  const { via, isForBounces } = first;
  const isFollowed = routes.size > first.routes.length;
  // What comes by a forward says by whose address it came.
  const how = isFollowed ? { own: first.routes, via: via ?? ('alias' as const) } : via && { via };
  return {
    routes: [...routes.values()],
    ...how,
    ...(elsewhere.length > 0 && { forwards: elsewhere }),
    ...(lmtp.length > 0 && { lmtp }),
    ...(isForBounces && { isForBounces }),
  };
}
