// The messages that the parts hand to each other: where a copy goes, the content, the envelope as the queue keeps it,
// and what became of a recipient. Plain data.
import { closeSync, createReadStream, openSync, readSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import type { Mailbox } from './address.ts';
import type { MessageWishes, RecipientWishes } from '../smtp/envelope.ts';
import { type Octets, collect, insert, slice } from './octets.ts';

/** Where one copy of a message goes. Fixed when the recipient is accepted; equal routes have an equal `routeKey`. */
export type Route =
  /**
   * A Maildir of the server's user: `path` is absolute and holds new/ cur/ tmp/; folders are made only below `root`.
   */
  | { readonly kind: 'maildir'; readonly path: string; readonly root: string }
  /** A Maildir of a Unix account: `folder` is relative to its home. Uid and home are looked up again by the steward. */
  | { readonly kind: 'account'; readonly account: string; readonly folder: string };

/** Another address that gets the mail of one. `address`: as it was written, without brackets. */
export type Forward = { readonly address: string; readonly mailbox: Mailbox };

/**
 * A copy of a message on its way to a mailbox. `head`: the part of its head that no other copy has; each line ends in
 * LF.
 */
export type Copy = Route & { readonly head?: string };

/**
 * The head of a copy to which other addresses than the mailbox's own led. It names these alone, so that nobody learns
 * of a Bcc to others.
 */
export const deliveredTo = (addresses: readonly string[]): string =>
  addresses.map(address => `Delivered-To: ${address}\n`).join('');

/** The copies for one recipient alone; `via` as in `Found`. */
export const copiesFor = (
  address: string,
  { routes, via }: { routes: readonly Route[]; via?: string },
): readonly Copy[] => (via === undefined ? routes : routes.map(route => ({ ...route, head: deliveredTo([address]) })));

/** Identity of a route, for de-duplication. */
export function routeKey(route: Route): string {
  return route.kind === 'maildir' ? `maildir:${route.path}` : `account:${route.account}:${route.folder}`;
}

/** A whole message with its trace lines, line ends LF: in memory while small, else in a file that is not yet synced. */
export type Message =
  | { readonly kind: 'memory'; readonly octets: Octets; readonly sizeBytes: number }
  | { readonly kind: 'file'; readonly path: string; readonly sizeBytes: number };

/** An address has 254 octets at most. */
const maxReturnPathOctets = 300;
/** How long the Return-Path line is that a message begins with: it stays the first one of each copy (RFC 5321 §4.4). */
export function returnPathLineOctets(message: Message): number {
  const start = readMessage(message, 0, maxReturnPathOctets).toString('latin1');
  return /^Return-Path:.*\n/.exec(start)?.[0].length ?? 0;
}

/** A message in memory with these lines in front of it, but behind its Return-Path. */
export function withHead(octets: Octets, head: string): Octets {
  if (head === '') return octets;
  const at = returnPathLineOctets({ kind: 'memory', octets, sizeBytes: octets.sizeBytes });
  return insert(octets, at, Buffer.from(head));
}

/** A message in memory of these pieces, which belong to it from now on. */
export function inMemory(...pieces: readonly Buffer[]): Message {
  const octets = collect(pieces);
  return { kind: 'memory', octets, sizeBytes: octets.sizeBytes };
}

/**
 * So many octets of a message from `start`, or as many as there are. By three short synchronous calls, because
 * asynchronous ones cost more than a small message.
 */
export function readMessage(message: Message, start: number, length: number): Buffer {
  if (message.kind === 'memory') return slice(message.octets, start, length);
  const file = openSync(message.path, 'r');
  try {
    const buffer = Buffer.allocUnsafe(Math.max(0, Math.min(length, message.sizeBytes - start)));
    return buffer.subarray(0, readSync(file, buffer, 0, buffer.length, start));
  } finally {
    closeSync(file);
  }
}

/** The octets of a message from `start` on, in pieces of at most that size; the event loop has its turn after each. */
export async function* piecesOf(message: Message, start: number, pieceBytes: number): AsyncGenerator<Buffer> {
  if (message.kind === 'file') return yield* createReadStream(message.path, { start, highWaterMark: pieceBytes });
  for (let at = start; at < message.sizeBytes; at += pieceBytes) {
    yield readMessage(message, at, pieceBytes);
    await turn();
  }
}

/**
 * A mailbox that an LMTP server keeps. `server`: as SLIM_STORAGES names it. `address`: the one by which that server
 * knows it.
 */
export type LmtpMailbox = { readonly server: string; readonly address: string };

/** A recipient of a message that is kept for later. */
export type QueueRecipient = RecipientWishes & {
  /** As in RCPT, without brackets. */
  readonly address: string;
  /** Whose servers take it: A-labels, lower case. */
  readonly domain: string;
  /**
   * Where the mail goes on this machine; empty where that is still to be looked up. Unset for mail to another server.
   */
  readonly routes?: readonly Copy[];
  /** The mailbox to which the mail goes by LMTP. Never together with `routes`. */
  readonly lmtp?: LmtpMailbox;
  /** It is a shared mailbox: copies of it mean 'expanded', not 'delivered' (RFC 3461 §5.2.7.1). */
  readonly isShared?: boolean;
};

/**
 * What makes a second envelope of a forward: the recipients at other servers, and the line that tells them which
 * address led to them, by which a loop is noticed. `isShared`: success is told once, for the shared mailbox (RFC 3461
 * §5.2.7).
 */
export function toForwarded(
  { address, notify, originalRecipient, isShared }: QueueRecipient,
  forwards: readonly Forward[],
): Pick<QueueEntry, 'recipients' | 'head'> {
  const wanted = isShared ? notify?.filter(each => each !== 'SUCCESS') : notify;
  // RFC 3461 §5.2.1: the address that the sender knows.
  const original = originalRecipient ?? asOriginal(address);
  const wishes = {
    ...(wanted?.length && { notify: wanted }),
    ...(original !== undefined && { originalRecipient: original }),
  };
  const recipients = forwards.map(to => ({ address: to.address, domain: to.mailbox.domain, ...wishes }));
  return { recipients, head: deliveredTo([address]) };
}

/** An address as ORCPT names it (RFC 3461 §4.2); undefined where it is not ASCII. */
export function asOriginal(address: string): string | undefined {
  const xtext = address.replaceAll(/[+= ]/g, each => `+${Buffer.from(each).toString('hex').toUpperCase()}`);
  return /^[ -~]*$/.test(address) ? `rfc822;${xtext}` : undefined;
}

/** A message with its envelope, as the queue keeps it. Plain data, which JSON carries. */
export type QueueEntry = MessageWishes & {
  /** The one in our 250, in Received and in the log: letters and digits. */
  readonly id: string;
  /** Reverse-path, without brackets; '' is the null one. */
  readonly from: string;
  /**
   * The reverse-path towards other servers, where it is another one: mail of a foreign sender that is forwarded (SRS).
   */
  readonly sentAs?: string;
  /** Header lines in front of what other servers get; each ends in LF. */
  readonly head?: string;
  /** Whether its content has octets above 127. */
  readonly is8Bit: boolean;
  readonly receivedAt: number;
  /** Octets at the start of the message that are for Maildirs alone (Return-Path). */
  readonly returnPathBytes: number;
  /** A login or a trusted network has handed it in, or it is a notice of ours: so we answer for it, and sign it. */
  readonly isOurs?: true;
  readonly recipients: readonly QueueRecipient[];
  /**
   * The `routeKey` of each copy that has been made already, while some of its recipients wait for others: each is made
   * once.
   */
  readonly madeCopies?: readonly string[];
};

/** The next hop: who takes the message from us. Attempts are planned and counted by it. */
export type NextHop =
  /** The mail stays on this server, in its mailboxes. */
  | { readonly kind: 'here' }
  /** An LMTP server that keeps mailboxes of ours, as SLIM_STORAGES names it. */
  | { readonly kind: 'lmtp'; readonly server: string }
  /** The one server that takes all mail for other servers. */
  | { readonly kind: 'relay' }
  /** The MX hosts of a domain: A-labels, lower case. */
  | { readonly kind: 'domain'; readonly domain: string };

/** Identity of a next hop, also its name in the log. No domain has an `@` or a `:`. */
export function nextHopKey(hop: NextHop): string {
  switch (hop.kind) {
    case 'here':
      return '@local';
    case 'lmtp':
      return hop.server;
    case 'relay':
      return '@relay';
    case 'domain':
      return hop.domain;
    default:
      return hop satisfies never;
  }
}

/** Who takes the mail of a recipient from us. `isRelayed`: all mail for other servers goes to one. */
export function nextHopOf({ domain, routes, lmtp }: QueueRecipient, isRelayed: boolean): NextHop {
  if (routes) return { kind: 'here' };
  if (lmtp) return { kind: 'lmtp', server: lmtp.server };
  return isRelayed ? { kind: 'relay' } : { kind: 'domain', domain };
}

/** The next hop with that key. */
export function nextHopAt(key: string): NextHop {
  if (key === '@local') return { kind: 'here' };
  if (key.startsWith('lmtp:')) return { kind: 'lmtp', server: key };
  return key === '@relay' ? { kind: 'relay' } : { kind: 'domain', domain: key };
}

/**
 * The lane of mail on its way to a next hop. `notice` is mail with the null reverse-path to another server: strangers
 * choose where it leads, so its lane has few places.
 */
export type Lane = 'mail' | 'notice';
export const laneOf = (isNotice: boolean, { kind }: NextHop): Lane =>
  isNotice && kind !== 'here' && kind !== 'lmtp' ? 'notice' : 'mail';

/** What became of one recipient in one attempt. */
export type Delivery = {
  readonly kind: 'delivered' | 'deferred' | 'failed';
  /** Enhanced status code (RFC 3463), of the class that `kind` wants. */
  readonly status: string;
  /** For people: the remote server's words as they came, or what went wrong here. One line, no control characters. */
  readonly text: string;
  /** The server that said so: its host name. */
  readonly remote?: string;
  /**
   * TLS version and cipher on the way there, and what has verified the server; unset: plain text, or nobody was
   * reached.
   */
  readonly tls?: string;
  /** Nobody could be reached at all: the destination backs off, not only this message. */
  readonly isUnreachable?: boolean;
  /**
   * The next hop allows fewer sessions than we have with it (421 or 432): tried again soon, with fewer. Always with
   * `deferred`.
   */
  readonly isBusy?: true;
  /** Nothing was tried, because `Place.enter` said no: it does not count as an attempt. Always with `deferred`. */
  readonly isCrowded?: true;
  /** Mail that stays here: the `routeKey` of each copy that was made. */
  readonly copies?: readonly string[];
  /** The next hop has promised notices of its own (DSN). */
  readonly isDsnPassedOn?: boolean;
};

/** What a notice says of a recipient (RFC 3464 §2.3.3). */
export type Outcome = {
  readonly recipient: QueueRecipient;
  readonly action: 'failed' | 'delayed' | 'delivered' | 'relayed' | 'expanded';
  readonly delivery: Delivery;
};
