// A message of 8-bit content for a server without 8BITMIME: parts that have such octets become quoted-printable, nothing else changes.
// Promises: what is decoded at the other end is what was sent (8-bit content is lines, and quoted-printable keeps lines); never
// signed or encrypted mail, whose octets would no longer be those that were signed. RFC 6152 §3, RFC 2045 §6, RFC 1428.
import { isAscii } from 'node:buffer';
import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { type Transform, pipeline } from 'node:stream';
import type { MimeNode, Part } from 'mailsplit';
import type { Stored } from './content.ts';

const untouchable = /^(?:multipart\/(?:signed|encrypted)|application\/(?:x-)?pkcs7-mime)$/;

/** Writes the converted message to `path`; a string says why that may not or cannot be done. The caller removes the file. */
export async function toSevenBit(message: Stored, path: string): Promise<Stored | string> {
  try {
    const dirty = await survey(message);
    return typeof dirty === 'string' ? dirty : await convert(message, path, dirty);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EMAXLEN') return 'its MIME structure is too large';
    throw error;
  }
}

async function* split({ path, skipBytes }: Stored): AsyncGenerator<Part> {
  const { Splitter } = await import('mailsplit');
  const splitter = new Splitter({ defaultInlineEmbedded: true });
  pipeline(createReadStream(path, { start: skipBytes }), splitter, () => undefined); // the loop below hears of errors
  yield* splitter as AsyncIterable<Part>;
}

/** The places, counted from 1, of the parts that have octets above 127; or why it cannot be converted. */
async function survey(message: Stored): Promise<ReadonlySet<number> | string> {
  const dirty = new Set<number>();
  let place = 0;
  for await (const part of split(message)) {
    if (part.type === 'node') {
      place += 1;
      if (!isAscii(part.getHeaders())) return 'its header has octets above 127';
      const isTouchable = !untouchable.test(part.contentType || '') && !part.headers.hasHeader('dkim-signature');
      if (!isTouchable) return 'it is signed or encrypted';
    } else if (part.value !== undefined && !isAscii(part.value)) {
      const { encoding, contentType } = part.node;
      const isPlain = ['', '7bit', '8bit', 'binary'].includes(encoding || '');
      if (part.type !== 'body' || !isPlain || /^(?:message|multipart)\//.test(contentType || ''))
        return 'it has octets above 127 where none may be encoded';
      dirty.add(place);
    }
  }
  return dirty;
}

async function convert(message: Stored, path: string, dirty: ReadonlySet<number>): Promise<Stored> {
  const file = await open(path, 'wx', 0o600);
  let [place, sizeBytes] = [0, 0];
  let encoder: Transform | undefined;
  const write = async (octets: Buffer | undefined): Promise<void> => {
    sizeBytes += octets?.length ?? 0;
    if (octets) await file.write(octets);
  };
  const finish = async (): Promise<void> => {
    for await (const octets of encoder?.end() ?? []) await write(octets as Buffer);
    encoder = undefined;
  };
  try {
    for await (const part of split(message)) {
      if (part.type !== 'body') await finish();
      if (part.type === 'node') {
        place += 1;
        await write(relabel(part, dirty.has(place), place === 1));
        if (dirty.has(place)) encoder = part.getEncoder('quoted-printable');
      } else if (encoder === undefined) await write(part.value);
      else {
        encoder.write(part.value);
        for (let octets; (octets = encoder.read() as Buffer | null) !== null;) await write(octets);
      }
    }
    await finish();
  } finally {
    await file.close();
  }
  return { path, skipBytes: 0, sizeBytes };
}

/** The header of a part, which names its new encoding. */
function relabel(part: MimeNode, isDirty: boolean, isRoot: boolean): Buffer {
  const { headers, encoding } = part;
  const name = 'Content-Transfer-Encoding';
  const complete = (field: string, value: string): void => {
    if (!headers.hasHeader(field)) headers.add(field, value, Infinity);
  };
  if (isDirty && isRoot) {
    complete('MIME-Version', '1.0');
    complete('Content-Type', 'text/plain; charset=unknown-8bit'); // RFC 1428 §3
  }
  if (isDirty && !headers.hasHeader(name)) complete(name, 'quoted-printable');
  else if (isDirty || encoding === '8bit' || encoding === 'binary')
    headers.update(name, isDirty ? 'quoted-printable' : '7bit');
  return headers.changed ? headers.build('\n') : part.getHeaders();
}
