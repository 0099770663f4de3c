// The control socket on the command line's side: asks the running server.
// Promises: every wait has an end (30 s without a word); 'no server' is an error of its own kind, because it has an
// exit status of its own. Root becomes the owner of the socket first.
import { once } from 'node:events';
import { statSync } from 'node:fs';
import { type Socket, connect } from 'node:net';
import { dirname } from 'node:path';
import { createInterface } from 'node:readline';
import type { Answers, Request } from './requests.ts';
import { shorten } from './socket-path.ts';

/** Nobody listens on the socket, or the server ended before it had answered. */
export class NoServer extends Error {
  override readonly name = 'NoServer';
}

/** Asks the server, and resolves with its one answer. */
export async function ask<R extends Request>(path: string, request: R): Promise<Answers[R['verb']]> {
  for await (const item of askAll(path, request)) return item;
  throw new NoServer('the server gave no answer');
}

/** Asks the server, and gives the items of its answer one by one. */
export async function* askAll<R extends Request>(path: string, request: R): AsyncGenerator<Answers[R['verb']]> {
  becomeOwner(dirname(path));
  const socket = await dial(path);
  socket.on('error', () => socket.destroy()).setTimeout(30_000, () => socket.destroy());
  socket.write(`${JSON.stringify(request)}\n`);
  type Line = { readonly item: Answers[R['verb']]; readonly error?: string; readonly isEnd?: boolean };
  try {
    for await (const line of createInterface(socket)) {
      const { item, error, isEnd } = JSON.parse(line) as Line;
      if (error !== undefined) throw new Error(error);
      if (isEnd) return;
      yield item;
    }
  } finally {
    socket.destroy();
  }
  throw new NoServer('the server did not answer within 30 s, or ended before it did');
}

/** A connection to the socket, or NoServer, whose `cause` is the error of the system. */
export async function dial(path: string): Promise<Socket> {
  try {
    const short = shorten(path); // throws where there is no such folder
    const socket = connect(short.path).once('close', short.release);
    await once(socket, 'connect');
    return socket;
  } catch (cause) {
    throw new NoServer(`no server answers on ${path} (${(cause as Error).message})`, { cause });
  }
}

/** Root without CAP_DAC_OVERRIDE cannot open another user's socket; and a reader of answers needs no rights. */
export function becomeOwner(folder: string): void {
  const { uid, gid } = statSync(folder, { throwIfNoEntry: false }) ?? { uid: 0, gid: 0 };
  if (uid === 0 || process.getuid?.() !== 0) return;
  process.setgroups?.([]);
  process.setgid?.(gid);
  process.setuid?.(uid);
}
