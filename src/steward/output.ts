// Copies what the network process prints to our own output. That process has a session and pipes of its own: with our
// terminal it could put commands into the terminal's input (TIOCSTI), and root's shell would run them.
// Promises: whole lines, in their order, so that lines of ours may come between them but never into them; nothing is
// lost when the process ends. A reader that stalls stops the copying, not us: then the process keeps its lines, up to a
// bound (system/log.ts). What cannot be written, because nobody reads any more, is dropped.
import { write } from 'node:fs';
import type { Readable } from 'node:stream';
import { setTimeout as wait } from 'node:timers/promises';
import { promisify } from 'node:util';

const newline = 0x0a;
/** A line that is longer is copied in pieces. */
const longestLineBytes = 1_048_576;
/** What the kernel writes into a pipe as a whole (PIPE_BUF). */
const atomicBytes = 4096;
const writeOctets: (fd: number, octets: Buffer) => Promise<{ bytesWritten: number }> = promisify(write);

/** Resolves when the source has ended and all of it is written. Never rejects. */
export async function copyLines(source: Readable, fd: number): Promise<void> {
  let rest: Buffer = Buffer.alloc(0);
  try {
    for await (const chunk of source as AsyncIterable<Buffer>) {
      const octets = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
      const end = octets.lastIndexOf(newline) + 1 || (octets.length > longestLineBytes ? octets.length : 0);
      await writeLines(fd, octets.subarray(0, end));
      rest = octets.subarray(end);
    }
  } catch {} // the pipe broke: the process is gone
  await writeLines(fd, rest);
}

async function writeLines(fd: number, octets: Buffer): Promise<void> {
  for (let start = 0; start < octets.length;) {
    const last = octets.lastIndexOf(newline, start + atomicBytes - 1) + 1;
    // A line that is longer than that goes alone.
    const end = last > start ? last : octets.indexOf(newline, start) + 1 || octets.length;
    await writeWhole(fd, octets.subarray(start, end));
    start = end;
  }
}

async function writeWhole(fd: number, octets: Buffer): Promise<void> {
  for (let written = 0; written < octets.length;) {
    try {
      written += (await writeOctets(fd, octets.subarray(written))).bytesWritten;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') return;
      await wait(10); // somebody has made our output non-blocking, and it is full
    }
  }
}
