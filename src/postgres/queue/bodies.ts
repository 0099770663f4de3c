// Large messages on their way into the database and out of it: in chunks, so that memory does not grow with their size.
// Out of it they go by a file in the spool: a next hop that reads slowly must not hold a snapshot of the database open,
// which would keep the dead rows of everybody.
import { open, unlink } from 'node:fs/promises';
import type { Message } from '../../mail/message.ts';
import { free } from '../../mail/octets.ts';
import type { Query } from '../pool.ts';
import * as sql from './statements.ts';

const chunkBytes = 256 * 1024;
/** So many large messages are in the spool at once; further ones wait. */
const maxSpooled = 10;

/** How many of the queue's connections large messages may use at once. */
const maxBodyQueries = 4;

/** Gives a query function that has at most `max` queries under way; the others wait for their turn. */
export function limited(query: Query, max = maxBodyQueries): Query {
  const waiting: (() => void)[] = [];
  let running = 0;
  return async (...what) => {
    if (running >= max) await new Promise<void>(resolve => waiting.push(resolve));
    else running += 1;
    try {
      return await query(...what);
    } finally {
      const next = waiting.shift();
      if (next) next();
      else running -= 1;
    }
  };
}

/** Puts a file into the database in chunks. Rejects where it cannot be read or sent; the chunks that were sent stay. */
export async function uploadFile(query: Query, id: string, path: string): Promise<void> {
  const file = await open(path);
  try {
    const chunk = Buffer.allocUnsafe(chunkBytes);
    for (let seq = 0; ; seq += 1) {
      const { bytesRead } = await file.read(chunk, 0, chunkBytes, seq * chunkBytes);
      if (bytesRead === 0) return;
      await query(sql.upload, [id, seq, chunk.subarray(0, bytesRead)]);
    }
  } finally {
    await file.close();
  }
}

/** Fetches large messages into files of one folder, some at a time. */
export class Spool {
  readonly #query: Query;
  readonly #folder: string;
  readonly #waiting: (() => void)[] = [];
  #users = 0;
  #fetched = 0;

  constructor(query: Query, folder: string) {
    this.#query = query;
    this.#folder = folder;
  }

  async fetch(id: string, seat: number | undefined, sizeBytes: number): Promise<{ message: Message; release(): void }> {
    if (this.#users >= maxSpooled) await new Promise<void>(resolve => this.#waiting.push(resolve));
    else this.#users += 1;
    // Jobs of one message may be fetched side by side. `r`, so that no name is that of a message which is coming in.
    const path = `${this.#folder}/${id}r${seat ?? 'n'}${(this.#fetched += 1)}`;
    const release = (): void => {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#users -= 1;
      void unlink(path).catch(() => undefined);
    };
    try {
      const file = await open(path, 'wx', 0o600);
      try {
        let left = sizeBytes;
        for (let seq = 0; left > 0; seq += 1) {
          const [row] = (await this.#query(sql.download, [id, seq])) as unknown as readonly { data: Buffer }[];
          if (row === undefined || row.data.length === 0) throw new Error(`chunk ${seq} of ${id} is missing`);
          await file.write(row.data);
          left -= row.data.length;
          free(row.data);
        }
      } finally {
        await file.close();
      }
      return { message: { kind: 'file', path, sizeBytes }, release };
    } catch (error) {
      release();
      throw error;
    }
  }
}
