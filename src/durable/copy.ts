// A copy of a file with other lines in front of it, or behind its first line.
import { createReadStream, createWriteStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { type Message, readMessage, returnPathLineOctets } from '../mail/message.ts';

/**
 * Writes a new file, 0600, with that head and behind it the source from `start` on. Does not sync it. Never replaces a
 * file.
 */
export async function copyBehind(head: string | Buffer, source: string, path: string, start = 0): Promise<void> {
  await writeFile(path, head, { flag: 'wx', mode: 0o600 });
  await pipeline(createReadStream(source, { start }), createWriteStream(path, { flags: 'a' }));
}

/** The same of a message, with those lines in front of it, but behind its Return-Path. */
export function copyWithHead(head: string, message: Message & { kind: 'file' }, path: string): Promise<void> {
  const at = returnPathLineOctets(message);
  return copyBehind(Buffer.concat([readMessage(message, 0, at), Buffer.from(head)]), message.path, path, at);
}
