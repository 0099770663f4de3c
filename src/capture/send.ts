// A message that the HTTP process hands over, to be kept as if it had come by SMTP. That process may have been broken
// into, so that nothing of it is believed: types and lengths are checked here.
import type { Captured } from '../mail/captured.ts';

type Sent = Omit<Captured, 'id' | 'receivedAt' | 'sizeBytes'> & {
  readonly octets: Buffer;
  readonly tags: readonly string[];
};

const isText = (value: unknown): value is string => typeof value === 'string' && value.length <= 1000;
const isTexts = (value: unknown): value is readonly string[] =>
  Array.isArray(value) && value.length <= 1000 && value.every(isText);

/** Parses such a message; throws where it is none. */
export function parseSend(given: unknown): Sent {
  const { from, recipients, client, tags, octets } = (given ?? {}) as Record<string, unknown>;
  if (
    !isText(from) ||
    /[\s<>]/.test(from) ||
    !isTexts(recipients) ||
    !isText(client) ||
    !isTexts(tags) ||
    !(octets instanceof Uint8Array)
  )
    throw new Error('this is no message that could be kept');
  return { from, recipients, client, tags, octets: Buffer.from(octets), helo: 'HTTP', isUtf8: true };
}
