// The memory of all envelopes of all sessions together: a thousand recipients of full length are more than a megabyte.
// Promise: together they stay within one budget. A session may hold at most an eighth of what is free at that moment,
// so that fifty greedy sessions of one client leave a good part to everybody else, who need little.
import type { MessageWishes, Recipient, RecipientWishes, Sender } from '../smtp/envelope.ts';

/** All envelopes together may hold so many octets. */
const maxTotalBytes = 64 * 1024 * 1024;
/** What a sender or recipient costs besides its text: objects, and what is known of where it leads. */
const overheadBytes = 512;
/** A session may hold this part of what is free: an eighth. */
const share = 8;

export class EnvelopeBudget {
  readonly #maxBytes: number;
  #usedBytes = 0;

  constructor(maxBytes = maxTotalBytes) {
    this.#maxBytes = maxBytes;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** Takes that much for a session that has some already. Returns false where it has enough, or nothing is left. */
  take(heldBytes: number, bytes: number): boolean {
    if ((heldBytes + bytes) * share > this.#maxBytes - this.#usedBytes) return false;
    this.#usedBytes += bytes;
    return true;
  }

  giveBack(bytes: number): void {
    this.#usedBytes -= bytes;
  }
}

/** What a sender costs. An address is kept as sent and in parts, at up to two octets a character. */
export const senderBytes = ({ reversePath, wishes }: Sender): number =>
  overheadBytes + 2 * ((reversePath === '' ? 0 : 2 * reversePath.text.length) + lengthOf(wishes));

/** What a recipient costs. */
export const recipientBytes = ({ address, wishes }: Recipient): number =>
  overheadBytes + 2 * (2 * address.text.length + lengthOf(wishes));

/** Counts every wish there is, so that none which is added later can be forgotten. */
function lengthOf(wishes: MessageWishes | RecipientWishes): number {
  let length = 0;
  for (const wish of Object.values(wishes)) length += String(wish).length;
  return length;
}
