// The few fields of a header that say how a message is to be judged, found without parsing the rest. A header may be as
// long as a message: it is read in windows, in linear time.
import { setImmediate as turn } from 'node:timers/promises';
import type { Content } from '../mail/judgement.ts';
import { readMessage } from '../mail/message.ts';

/**
 * `at`: the octet of the content where the field begins. `text`: the start of the field, as latin1; `isCut`: it is
 * longer.
 */
export type Field = Readonly<{ name: string; at: number; text: string; isCut: boolean }>;
export type Found = Readonly<{ fields: readonly Field[]; headerOctets: number }>;

const windowOctets = 64 * 1024;
/** What two windows have in common: a field that begins there belongs to the second one. */
const overlapOctets = 8 * 1024;
/** So much is kept of a field: what nobody reads is not held. */
const maxTextOctets: Readonly<Record<string, number>> = {
  from: 8192,
  'authentication-results': 512,
};
/** A message with more of these fields is refused (judging.ts). */
export const maxFields = 5000;
const wanted =
  /^(from|list-id|dkim-signature|arc-seal|arc-message-signature|arc-authentication-results|authentication-results)[ \t]*:[^\n]*(?:\n[ \t][^\n]*)*/gim;

export async function findFields({ message, start }: Content): Promise<Found> {
  const fields: Field[] = [];
  for (let at = 0; ; at += windowOctets - overlapOctets) {
    // From the second window on it is read with the octet before it, which tells whether a line begins there.
    const before = at === 0 ? 0 : 1;
    const read = readMessage(message, start + at - before, windowOctets + before);
    const isEmpty = at === 0 && read[0] === 10;
    const found = isEmpty ? 0 : read.indexOf('\n\n');
    const isLast = found >= 0 || read.length < windowOctets + before;
    const text = read.toString('latin1', 0, found < 0 ? read.length : found);
    for (const match of text.matchAll(wanted)) {
      const { index } = match;
      if ((before === 1 && index === 0) || (!isLast && index - before >= windowOctets - overlapOctets)) continue;
      const [field, name = ''] = match;
      const kept = maxTextOctets[name.toLowerCase()] ?? 0;
      const isCut = field.length > kept || (!isLast && index + field.length >= text.length);
      if (fields.length < maxFields)
        fields.push({ name: name.toLowerCase(), at: at - before + index, text: copy(field.slice(0, kept)), isCut });
    }
    if (isLast) return { fields, headerOctets: at - before + text.length };
    await turn();
  }
}

/** Makes a string of its own: a part of a longer one would keep all of that in memory. */
const copy = (text: string): string => Buffer.from(text, 'latin1').toString('latin1');
