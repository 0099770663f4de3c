// The control socket: how `slimsmtp health`, `resolve`, `queue` and others speak to the running server. One request a
// connection, JSON objects a line each, over SLIM_DATA/run/control, which only its owner can open: many items, then the end.
// It is also what keeps a second server off the same folder: a socket that answers is a server that lives.
import { chmodSync, rmSync, statSync } from 'node:fs';
import { type Server, type Socket, connect, createServer } from 'node:net';
import { dirname } from 'node:path';
import { createInterface } from 'node:readline';
import { Readable, pipeline } from 'node:stream';

/** What a handler gives is the answer; of an async iterable each item is one. */
export type Handlers = Readonly<Record<string, (argument: string) => unknown>>;

/** Nobody listens on the socket. */
export class NoServer extends Error {
  override readonly name = 'NoServer';
}

/** Listens; rejects when another server has this folder. A stale socket is removed. */
export async function openControl(path: string, handlers: Handlers): Promise<Server> {
  const isTaken = await dial(path).then(
    socket => Boolean(socket.destroy()),
    ({ cause }: NoServer) => !['ENOENT', 'ECONNREFUSED'].includes((cause as NodeJS.ErrnoException).code ?? ''),
  );
  // Whatever else goes wrong (a busy server's full backlog, EAGAIN) is no proof that nobody is there.
  if (isTaken)
    throw new Error(`another server runs on ${dirname(dirname(path))}: stop it, or set SLIM_DATA to another folder`);
  rmSync(path, { force: true });
  const server = createServer(socket => {
    socket.on('error', () => socket.destroy()).setTimeout(60_000, () => socket.destroy());
    // readline passes the socket's errors on as its own: a client that leaves early must not end the server.
    const lines = createInterface(socket).on('error', () => {});
    lines.once('line', line => pipeline(Readable.from(answer(line, handlers)), socket, () => {}));
  });
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(path, resolve));
  chmodSync(path, 0o600);
  return server;
}

/** Asks the running server; rejects with NoServer when there is none. As root it first becomes the socket's owner. */
export async function ask(path: string, verb: string, argument: string): Promise<unknown> {
  for await (const item of askAll(path, verb, argument)) return item;
  return undefined;
}

/** As `ask`, for an answer of many items. */
export async function* askAll(path: string, verb: string, argument: string): AsyncGenerator<unknown> {
  becomeOwner(dirname(path));
  const socket = await dial(path);
  socket.on('error', () => socket.destroy()).setTimeout(30_000, () => socket.destroy());
  socket.write(`${JSON.stringify({ verb, argument })}\n`);
  try {
    for await (const line of createInterface(socket)) {
      const { item, error, isEnd } = JSON.parse(line) as { item?: unknown; error?: string; isEnd?: boolean };
      if (error !== undefined) throw new Error(error);
      if (isEnd) return;
      yield item;
    }
  } finally {
    socket.destroy();
  }
  throw new NoServer('the server did not answer within 30 s, or ended before it did');
}

async function* answer(line: string, handlers: Handlers): AsyncGenerator<string> {
  try {
    const { verb, argument } = JSON.parse(line) as { verb: string; argument: string };
    const handler = Object.hasOwn(handlers, verb) ? handlers[verb] : undefined;
    if (!handler) throw new Error(`unknown verb ${verb}`);
    const result = await handler(argument);
    const items = Symbol.asyncIterator in Object(result) ? (result as AsyncIterable<unknown>) : [result];
    for await (const item of items) yield `${JSON.stringify({ item })}\n`;
    yield `${JSON.stringify({ isEnd: true })}\n`;
  } catch (error) {
    yield `${JSON.stringify({ error: error instanceof Error ? error.message : String(error) })}\n`;
  }
}

function dial(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path, () => resolve(socket));
    socket.once('error', cause => reject(new NoServer(`no server answers on ${path} (${cause.message})`, { cause })));
  });
}

/** Root without CAP_DAC_OVERRIDE cannot open another user's socket; and a reader of answers needs no rights. */
function becomeOwner(folder: string): void {
  const { uid, gid } = statSync(folder, { throwIfNoEntry: false }) ?? { uid: 0, gid: 0 };
  if (uid === 0 || process.getuid?.() !== 0) return;
  process.setgroups?.([]);
  process.setgid?.(gid);
  process.setuid?.(uid);
}
