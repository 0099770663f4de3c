// Who may send to whom: the answer to RCPT, and the routes behind it.
// Promise: a 5xx is said only when every source was asked and answered; what cannot be told is 4xx (CannotTell).
// RFC 5321 §3.6.2 and §4.5.1, RFC 7504; no relaying for strangers.
import { CannotTell, type Log, type Resolve, type Route, toMailbox } from '../mail.ts';
import type { Address } from '../smtp/address.ts';
import { type Reply, replies } from '../smtp/reply.ts';

export type Answer = { readonly reply: Reply; readonly routes: readonly Route[] };

const refuse = (reply: Reply): Answer => ({ reply, routes: [] });

/** Decides on one recipient. */
export async function answerRecipient(address: Address, resolve: Resolve, log: Log): Promise<Answer> {
  if (address.domain.startsWith('[')) return refuse(replies.relayDenied); // address literals are nobody's domain here
  const mailbox = toMailbox(address);
  if (mailbox === undefined) return refuse(replies.badDomain);
  try {
    const resolution = await resolve(mailbox);
    if (resolution.kind === 'elsewhere') return refuse(replies.relayDenied);
    if (resolution.kind === 'unknown') return refuse(replies.noSuchMailbox);
    if (resolution.routes.length === 0) throw new CannotTell('it leads nowhere'); // never a 250 for nothing
    return { reply: replies.recipientOk, routes: resolution.routes };
  } catch (error) {
    log.warn({ recipient: address.text, error: String(error) }, 'a recipient could not be looked up; 4xx');
    return refuse(replies.cannotTell(error instanceof CannotTell ? error.status : '4.3.0'));
  }
}
