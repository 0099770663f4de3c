// The control socket, SLIM_DATA/run/control, on the server's side: `slimsmtp health`, `resolve`, `queue` and others ask there.
// Promises: only its owner can open it (0600). One request for each connection; whatever comes, the answer has an end, and the
// next caller is served. A long list goes out item by item, no faster than the caller reads.
// The socket is also the lock on SLIM_DATA: a socket that answers belongs to a server that lives, so that a second server on
// the same folder ends before it has touched anything there. A killed server leaves a socket that does not answer.
import { chmodSync, rmSync } from 'node:fs';
import { type Server, createServer } from 'node:net';
import { dirname } from 'node:path';
import { createInterface } from 'node:readline';
import { Readable, pipeline } from 'node:stream';
import { type NoServer, dial } from './client.ts';
import { type Answers, type Request, parseRequest } from './requests.ts';
import { shorten } from './socket-path.ts';

type Maybe<T> = T | Promise<T>;
/** Who answers the requests. */
export type Handlers = {
  health(): Maybe<Answers['health']>;
  resolve(address: string): Maybe<Answers['resolve']>;
  auth(name: string, password: string): Maybe<Answers['auth']>;
  list(selector: (Request & { verb: 'list' })['selector']): AsyncIterable<Answers['list']>;
  act(
    action: (Request & { verb: 'act' })['action'],
    selector: (Request & { verb: 'act' })['selector'],
  ): Maybe<Answers['act']>;
};

/** Takes the lock and listens. Rejects where another server has this folder. */
export async function openControl(path: string, handlers: Handlers): Promise<Server> {
  const isTaken = await dial(path).then(
    socket => Boolean(socket.destroy()),
    // Any other error (a busy server's full backlog is EAGAIN) does not prove that nobody is there.
    ({ cause }: NoServer) => !['ENOENT', 'ECONNREFUSED'].includes((cause as NodeJS.ErrnoException).code ?? ''),
  );
  if (isTaken)
    throw new Error(`another server runs on ${dirname(dirname(path))}: stop it, or set SLIM_DATA to another folder`);
  rmSync(path, { force: true });
  const server = createServer(socket => {
    socket.on('error', () => socket.destroy()).setTimeout(60_000, () => socket.destroy());
    // readline passes the socket's errors on as its own: a client that leaves early must not end the server.
    const lines = createInterface(socket).on('error', () => {});
    lines.once('line', line => pipeline(Readable.from(answer(line, handlers)), socket, () => {}));
  });
  const short = shorten(path);
  server.once('close', short.release);
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(short.path, resolve));
  chmodSync(path, 0o600);
  return server;
}

async function* answer(line: string, handlers: Handlers): AsyncGenerator<string> {
  try {
    for await (const item of carryOut(parseRequest(line), handlers)) yield `${JSON.stringify({ item })}\n`;
    yield `${JSON.stringify({ isEnd: true })}\n`;
  } catch (error) {
    yield `${JSON.stringify({ error: error instanceof Error ? error.message : String(error) })}\n`;
  }
}

async function* carryOut(request: Request, handlers: Handlers): AsyncGenerator<Answers[keyof Answers]> {
  switch (request.verb) {
    case 'health':
      return yield await handlers.health();
    case 'resolve':
      return yield await handlers.resolve(request.address);
    case 'auth':
      return yield await handlers.auth(request.name, request.password);
    case 'list':
      return yield* handlers.list(request.selector);
    case 'act':
      return yield await handlers.act(request.action, request.selector);
    default:
      return request satisfies never;
  }
}
