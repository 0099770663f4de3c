// What a next hop makes us change in a message. That is as little as possible: most hops take any message as it is.
// Promises:
// - A message is converted only for a next hop without 8BITMIME, or one that has refused it for its long lines.
// - What cannot be converted goes as it is, since nearly every such server takes it all the same, and a bounce would be
//   the only alternative. `left` says why it could not.
// - Only a message that needs SMTPUTF8 has no way to a server without it.
// - A file that was made for the next hop is gone after `remove`.
// RFC 6152 (8BITMIME), RFC 6531 §3.2 (SMTPUTF8), RFC 5321 §4.5.3.1.6 (lines).
import { isAscii } from 'node:buffer';
import { unlink } from 'node:fs/promises';
import type { Delivery, QueueEntry } from '../mail/message.ts';
import { type Stored, read } from './content.ts';
import type { Offers } from './replies.ts';

/**
 * A line of a message has at most so many octets without its end (RFC 5321 §4.5.3.1.6), where a server insists on that.
 */
const maxLineOctets = 998;
const maxHeaderBytes = 256 * 1024;

export type Adapted =
  | {
      readonly kind: 'fit';
      readonly message: Stored;
      readonly is8Bit: boolean;
      /** What was converted; with the same form the octets of a message are the same. */
      readonly form: string;
      /** Why something in it stays that the next hop should not get. */
      readonly left: string | undefined;
      readonly remove: () => Promise<void>;
    }
  | { readonly kind: 'unfit'; readonly status: string; readonly text: string };

/**
 * Adapts a message. `areLinesShort`: the next hop has refused lines of more than `maxLineOctets`. `path`: where a
 * converted message may be written; undefined: in memory.
 */
export async function adapt(
  message: Stored,
  { isUtf8, is8Bit, head = '' }: QueueEntry,
  { offers, areLinesShort }: { readonly offers: Offers; readonly areLinesShort: boolean },
  path: string | undefined,
): Promise<Adapted> {
  if (isUtf8 && !offers.has('SMTPUTF8') && !(hasAsciiHeader(message) && isAscii(Buffer.from(head))))
    return { kind: 'unfit', status: '5.6.9', text: 'the server does not take a header with UTF-8' };
  const limits = {
    is8BitOk: !is8Bit || offers.has('8BITMIME'),
    maxLineOctets: areLinesShort ? maxLineOctets : Infinity,
  };
  if (limits.is8BitOk && !areLinesShort)
    return { kind: 'fit', message, is8Bit, form: 'as it is', left: undefined, remove: async () => undefined };
  const remove = async (): Promise<void> => {
    if (path !== undefined) await unlink(path).catch(() => undefined);
  };
  const { reencode } = await import('./reencode.ts');
  try {
    const { isAscii: is7Bit, ...converted } = await reencode(message, limits, path);
    const form = `${limits.is8BitOk ? '' : '7bit '}${areLinesShort ? 'short lines' : ''}`;
    return { kind: 'fit', ...converted, form, is8Bit: limits.is8BitOk ? is8Bit : !is7Bit, remove };
  } catch (error) {
    await remove();
    throw error;
  }
}

/** Whether a server has refused a message for its long lines, as servers say that in many words. */
export function refusesLongLines({ kind, text }: Delivery): boolean {
  return (
    kind === 'failed' &&
    /\blines?\b.{0,30}\b(?:long|longer|length|exceed)|\b(?:long|length).{0,20}\blines?\b/i.test(text)
  );
}

/** Whether all lines of a message can be made short, so that it may be sent again to such a server. */
export async function canShortenLines(message: Stored): Promise<boolean> {
  const { examine } = await import('./reencode.ts');
  const { plan, left } = await examine(message, { is8BitOk: true, maxLineOctets });
  return plan.size > 0 && left === undefined;
}

function hasAsciiHeader(message: Stored): boolean {
  const [head = ''] = read(message, maxHeaderBytes).toString('latin1').split('\n\n', 1);
  return /^[\0-\x7f]*$/.test(head);
}
