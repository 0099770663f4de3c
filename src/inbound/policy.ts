// Who may send as whom, and to whom: the answers to MAIL and RCPT, and where an accepted recipient's mail goes.
// Promises: no relaying for strangers. A 5xx is said only when every source was asked and answered; what cannot be told
// is 4xx (CannotTell). A route through a catch-all never proves that an address is the login's own.
// RFC 5321 §3.6.2 and §4.5.1, RFC 6409 §6.1, RFC 7504.
import { CannotTell, type Found, type Login, type Resolve } from '../mail/ports.ts';
import type { Log } from '../system/log.ts';
import { routeKey } from '../mail/message.ts';
import { toMailbox } from '../mail/address.ts';
import type { Address } from '../smtp/address.ts';
import { type Reply, replies } from '../smtp/reply.ts';

export type Policy = {
  readonly resolve: Resolve;
  readonly senderCheck: 'strict' | 'domain' | 'off';
  readonly log: Log;
};

/** Of an accepted recipient: its domain (A-labels), and what is known of it here; without `found` it is for another server. */
export type Destination = { readonly domain: string; readonly found?: Found };
export type Answer = { readonly reply: Reply; readonly destination?: Destination };

/** Decides on one recipient; `mayRelay`: of a login, or of a trusted network. */
export async function answerRecipient(address: Address, mayRelay: boolean, { resolve, log }: Policy): Promise<Answer> {
  if (address.domain.startsWith('[')) return { reply: replies.relayDenied }; // address literals are nobody's domain here
  const mailbox = toMailbox(address);
  if (mailbox === undefined) return { reply: replies.badDomain };
  const { domain } = mailbox;
  try {
    const found = await resolve(mailbox);
    if (found.kind === 'unknown') return { reply: replies.noSuchMailbox };
    if (found.kind === 'elsewhere')
      return mayRelay ? { reply: replies.recipientOk, destination: { domain } } : { reply: replies.relayDenied };
    if (found.routes.length === 0) throw new CannotTell('it leads nowhere'); // never a 250 for nothing
    return { reply: replies.recipientOk, destination: { domain, found } };
  } catch (error) {
    return { reply: cannotTell(address, error, log) };
  }
}

/** Whether a login may send as that address (SLIM_SENDER_CHECK). */
export async function answerSender(login: Login, reversePath: Address | '', policy: Policy): Promise<Reply> {
  const { resolve, senderCheck, log } = policy;
  if (senderCheck === 'off' || reversePath === '') return replies.senderOk;
  const sender = toMailbox(reversePath);
  if (sender === undefined) return replies.notYourAddress;
  const own = login.address;
  if (sender.local === own.local && sender.domain === own.domain) return replies.senderOk;
  try {
    const theirs = await resolve(sender);
    if (senderCheck === 'domain') return theirs.kind === 'elsewhere' ? replies.notYourAddress : replies.senderOk;
    if (theirs.kind !== 'local' || theirs.via === 'catch-all') return replies.notYourAddress;
    const mine = await resolve(own);
    const keys = new Set(mine.kind === 'local' && mine.via === undefined ? mine.routes.map(routeKey) : []);
    if (login.account !== undefined) keys.add(routeKey({ kind: 'account', account: login.account, folder: 'Maildir' }));
    return theirs.routes.some(route => keys.has(routeKey(route))) ? replies.senderOk : replies.notYourAddress;
  } catch (error) {
    return cannotTell(reversePath, error, log);
  }
}

function cannotTell({ text }: Address, error: unknown, log: Log): Reply {
  log.warn({ address: text, error: String(error) }, 'an address could not be looked up; 4xx');
  return replies.cannotTell(error instanceof CannotTell ? error.status : '4.3.0');
}
