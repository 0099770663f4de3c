// Who may send as whom, and to whom: the answers to MAIL and RCPT, and where an accepted recipient's mail goes.
// Promises: no relaying for strangers. A 5xx is said only when every source was asked and answered; what cannot be told
// is 4xx (CannotTell). A route through a catch-all never proves that an address is the login's own.
// Every decision about a peer (trusted, logged in, an author) stands here.
// RFC 5321 §3.6.2 and §4.5.1, RFC 6409 §6.1, RFC 7504.
import { CannotTell, type Filters, type Found, type Login, type Resolve, type ReturnPaths } from '../mail/ports.ts';
import type { Gatherer } from '../system/gather.ts';
import { routeKey } from '../mail/message.ts';
import { formatMailbox, toMailbox } from '../mail/address.ts';
import type { Address } from '../smtp/address.ts';
import { type Reply, replies } from '../smtp/reply.ts';
import type { ListenSocket } from './listener.ts';
import { type Peer, clientKey } from './peer.ts';

export type Policy = {
  readonly resolve: Resolve;
  readonly returnPaths: Pick<ReturnPaths, 'forForward'>;
  readonly senderCheck: 'strict' | 'domain' | 'off';
  readonly gatherer: Gatherer;
  readonly filters?: Filters | undefined;
};

/**
 * Where an accepted recipient leads: its domain (A-labels), and what is known of it here; without `found` it is for
 * another server. `sentAs`: the reverse-path of what is forwarded.
 */
export type Destination = { readonly domain: string; readonly found?: Found; readonly sentAs?: string };
export type Answer = { readonly reply: Reply; readonly destination?: Destination };

/** Who answers MAIL and RCPT. */
export type Answers = {
  sender(peer: Peer, reversePath: Address | ''): Reply | Promise<Reply>;
  /** `reversePath`: as text, '' being the null one. */
  recipient(address: Address, peer: Peer, reversePath: string): Promise<Answer>;
};

export const answersBy = (policy: Policy): Answers => ({
  sender: (peer, reversePath) => answerSender(peer, reversePath, policy),
  recipient: (address, peer, reversePath) => answerRecipient(address, peer, reversePath, policy),
});

/**
 * Whether mail of that peer comes from its author, not from another server: then its header is completed (RFC 6409 §8).
 */
export const isAuthors = ({ login, isTrusted }: Peer, isSubmission: boolean): boolean =>
  // Printers and programs of a trusted network rarely complete a header, and have no server before this one.
  isSubmission || isTrusted || login !== undefined;

/** What a session with that peer begins with, on a socket of that kind. `tlsRequire`: SLIM_TLS_REQUIRE. */
export function termsFor({ isTrusted }: Peer, kind: ListenSocket['kind'], tlsRequire: 'auth' | 'submission' | 'all') {
  const isSubmission = kind !== 'smtp';
  return {
    needsTls: tlsRequire === 'all' || (tlsRequire === 'submission' && isSubmission),
    needsLogin: isSubmission && !isTrusted,
    isSecure: kind === 'submissions',
  };
}

/** Whether we answer for mail of that peer: it may go to other servers, and is signed. */
export const isOurs = ({ login, isTrusted }: Peer): boolean => isTrusted || login !== undefined;

/** Whether mail of that peer comes from outside: then it is judged. */
export const isFromOutside = (peer: Peer): boolean => !isOurs(peer);

/** Whether anyone may have the address of that peer, so that it proves nothing. */
export const saysNothing = ({ client, isShared }: Peer): boolean =>
  isShared || client === '::1' || client.startsWith('127.');

/** Whether that peer is looked up in the block lists: its address must say something, and we do not answer for it. */
const isListable = (peer: Peer): boolean => isFromOutside(peer) && !saysNothing(peer);

/** Begins, for a client that has connected, what takes time: the look-up in the block lists. Waits for nothing. */
export function meet(peer: Peer, { filters }: Policy): void {
  if (isListable(peer)) void filters?.findListing?.(peer.client);
}

/** Decides on one recipient of mail with that reverse-path, '' being the null one. */
export const answerRecipient = (address: Address, peer: Peer, reversePath: string, policy: Policy): Promise<Answer> =>
  policy.filters ? filterRecipient(address, peer, reversePath, policy) : decide(address, peer, reversePath, policy);

async function filterRecipient(...[address, peer, reversePath, policy]: Parameters<typeof decide>): Promise<Answer> {
  const { findListing, countRecipient } = policy.filters ?? {};
  const { client, login } = peer;
  // A client that is listed by mistake must be able to tell the postmaster (RFC 5321 §4.5.1).
  const isAsked = isListable(peer) && toMailbox(address)?.local !== 'postmaster';
  const listed = isAsked ? await findListing?.(client) : undefined;
  if (listed) return { reply: listed };
  const answer = await decide(address, peer, reversePath, policy);
  if (login === undefined || answer.reply.code >= 400) return answer;
  const tooMany = await countRecipient?.(formatMailbox(login.address));
  return tooMany ? { reply: tooMany } : answer;
}

async function decide(
  address: Address,
  peer: Peer,
  reversePath: string,
  { resolve, returnPaths, gatherer }: Policy,
): Promise<Answer> {
  // Address literals are nobody's domain here.
  if (address.domain.startsWith('[')) return { reply: replies.relayDenied };
  const mailbox = toMailbox(address);
  if (mailbox === undefined) return { reply: replies.badDomain };
  const { domain } = mailbox;
  try {
    const found = await resolve(mailbox, undefined, address.local);
    if (found.kind === 'unknown') return { reply: replies.noSuchMailbox };
    if (found.kind === 'elsewhere')
      return isOurs(peer) ? { reply: replies.recipientOk, destination: { domain } } : { reply: replies.relayDenied };
    // Mail with a reverse-path is no bounce, and would be relayed for a stranger.
    if (found.isForBounces && reversePath !== '') return { reply: replies.noSuchMailbox };
    if (found.refusal !== undefined) return { reply: replies.mailboxRefuses(found.refusal) };
    // Never a 250 for nothing.
    if (found.routes.length === 0 && !found.forwards?.length && !found.lmtp?.length)
      throw new CannotTell('it leads nowhere');
    const sentAs = found.forwards && (await returnPaths.forForward(reversePath));
    return { reply: replies.recipientOk, destination: { domain, found, ...(sentAs !== undefined && { sentAs }) } };
  } catch (error) {
    return { reply: cannotTell(address, error, peer, gatherer) };
  }
}

/** Whether that peer may send as that address (SLIM_SENDER_CHECK): a stranger may use any, a login its own. */
export function answerSender(peer: Peer, reversePath: Address | '', policy: Policy): Reply | Promise<Reply> {
  const { login } = peer;
  const { countMessage } = policy.filters ?? {};
  if (countMessage && isFromOutside(peer) && !peer.isShared)
    return countMessage(peer.client).then(refusal => refusal ?? replies.senderOk);
  if (login === undefined || policy.senderCheck === 'off' || reversePath === '') return replies.senderOk;
  return answerLogin(login, reversePath, peer, policy);
}

async function answerLogin(login: Login, reversePath: Address, peer: Peer, policy: Policy): Promise<Reply> {
  const { resolve, senderCheck, gatherer } = policy;
  const sender = toMailbox(reversePath);
  if (sender === undefined) return replies.notYourAddress;
  const own = login.address;
  if (sender.local === own.local && sender.domain === own.domain) return replies.senderOk;
  try {
    const theirs = await resolve(sender);
    if (senderCheck === 'domain') return theirs.kind === 'elsewhere' ? replies.notYourAddress : replies.senderOk;
    if (theirs.kind !== 'local' || theirs.via === 'catch-all') return replies.notYourAddress;
    const mine = await resolve(own);
    const isMailbox = mine.kind === 'local' && mine.via !== 'shared' && mine.via !== 'catch-all';
    const keys = new Set(isMailbox ? (mine.own ?? mine.routes).map(routeKey) : []);
    if (login.account !== undefined) keys.add(routeKey({ kind: 'account', account: login.account, folder: 'Maildir' }));
    return (theirs.own ?? theirs.routes).some(route => keys.has(routeKey(route)))
      ? replies.senderOk
      : replies.notYourAddress;
  } catch (error) {
    return cannotTell(reversePath, error, peer, gatherer);
  }
}

function cannotTell({ text }: Address, error: unknown, { client }: Peer, gatherer: Gatherer): Reply {
  const fields = { client, address: text, error: String(error) };
  gatherer.line('warn', clientKey(client), fields, 'an address could not be looked up; 4xx');
  return replies.cannotTell(error instanceof CannotTell ? error.status : '4.3.0');
}
