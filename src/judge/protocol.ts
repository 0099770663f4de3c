// What the network process and the judging child say to each other over IPC. Content goes in pieces, each asked for by
// the child, so neither side ever holds more of a message than one.
import type { NamedServer } from '../dns/servers.ts';
import type { Judgement, MailFacts } from '../mail/judgement.ts';

/** The first message to the child. `servers`: the DNS servers that it asks, in place of the system's. */
export type Start = { readonly kind: 'start'; readonly hostname: string; readonly servers?: readonly NamedServer[] };
/** A piece of content. The first one has the header whole, and `facts`. */
export type Piece = Readonly<{
  kind: 'piece';
  id: number;
  octets: Buffer;
  isLast: boolean;
  facts?: MailFacts;
  /** Whether the piece is the From fields of a header that is too long, and nothing else. */
  isCut?: boolean;
}>;
export type ToChild = Start | Piece;

export type FromChild =
  | { readonly kind: 'more'; readonly id: number }
  | { readonly kind: 'judged'; readonly id: number; readonly judgement: Judgement };
