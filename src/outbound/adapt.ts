// What becomes of a message whose content the next hop cannot take as it is.
// Promises: what is returned fits the hop, or says why it cannot; a file that was made for it is gone after `remove`.
// RFC 6152 (8BITMIME), RFC 6531 (SMTPUTF8).
import { unlink } from 'node:fs/promises';
import type { QueueEntry } from '../mail/message.ts';
import { type Stored, read } from './content.ts';
import type { Offers } from './replies.ts';

const maxHeaderBytes = 256 * 1024;

export type Adapted =
  | { readonly kind: 'fit'; readonly message: Stored; readonly is8Bit: boolean; readonly remove: () => Promise<void> }
  | { readonly kind: 'unfit'; readonly status: string; readonly text: string };

/** `path`: where a converted message may be written; undefined: it stays in memory. */
export async function adapt(
  message: Stored,
  { isUtf8, is8Bit }: QueueEntry,
  offers: Offers,
  path: string | undefined,
): Promise<Adapted> {
  if (isUtf8 && !offers.has('SMTPUTF8') && !hasAsciiHeader(message))
    return { kind: 'unfit', status: '5.6.9', text: 'the server does not take a header with UTF-8' };
  if (!is8Bit || offers.has('8BITMIME')) return { kind: 'fit', message, is8Bit, remove: async () => undefined };
  const remove = async (): Promise<void> => {
    if (path !== undefined) await unlink(path).catch(() => undefined);
  };
  const { toSevenBit } = await import('./reencode.ts');
  let converted: Stored | string | undefined;
  try {
    converted = await toSevenBit(message, path);
  } finally {
    if (typeof converted !== 'object') await remove();
  }
  if (typeof converted !== 'string') return { kind: 'fit', message: converted, is8Bit: false, remove };
  const text = `the server takes no 8-bit mail, and this cannot be converted: ${converted}`;
  return { kind: 'unfit', status: '5.6.3', text };
}

function hasAsciiHeader(message: Stored): boolean {
  const [head = ''] = read(message, maxHeaderBytes).toString('latin1').split('\n\n', 1);
  return /^[\0-\x7f]*$/.test(head);
}
