// The control socket, SLIM_DATA/run/control, on the server's side: `slimsmtp health`, `resolve`, `queue` and others ask
// there.
// Promises: only its owner can open it (0600). One request for each connection; whatever comes, the answer has an end,
// and the next caller is served. A long list goes out item by item, no faster than the caller reads.
// The socket is also the lock on SLIM_DATA: a socket that answers belongs to a server that lives, so that a second
// server on the same folder ends before it has touched anything there. A killed server leaves a socket that does not
// answer.
import { chmodSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { type Server, createServer } from 'node:net';
import { dirname } from 'node:path';
import { createInterface } from 'node:readline';
import { Readable, pipeline } from 'node:stream';
import { setTimeout as pause } from 'node:timers/promises';
import { reasonOf } from '../system/reason.ts';
import { type NoServer, dial } from './client.ts';
import { type Answers, type RequestOf, type Verb, parseRequest } from './requests.ts';
import { shorten } from './socket-path.ts';

/** Who answers the requests: with one item, or with many. */
export type Handlers = {
  readonly [V in Verb]: (request: RequestOf<V>) => Answers[V] | Promise<Answers[V]> | AsyncIterable<Answers[V]>;
};

/** Takes the lock and listens. Rejects where another server has this folder. */
export async function openControl(path: string, handlers: Handlers): Promise<Server> {
  for (let tries = 1; ; tries += 1) {
    const found = inodeOf(path);
    const server = (await listen(path, handlers)) ?? (await replaceDead(path, handlers, found, tries));
    if (server) return server;
    await pause(claimMs);
  }
}

/** undefined: something is there already. The system sees to it that of two who try at once only one gets the path. */
async function listen(path: string, handlers: Handlers): Promise<Server | undefined> {
  const server = createServer(socket => {
    socket.on('error', () => socket.destroy()).setTimeout(60_000, () => socket.destroy());
    // readline passes the socket's errors on as its own: a client that leaves early must not end the server.
    const lines = createInterface(socket).on('error', () => {});
    lines.once('line', line => pipeline(Readable.from(answer(line, handlers)), socket, () => {}));
  });
  const short = shorten(path);
  try {
    await new Promise<void>((resolve, reject) => server.once('error', reject).listen(short.path, resolve));
  } catch (error) {
    short.release();
    if ((error as NodeJS.ErrnoException).code === 'EADDRINUSE') return undefined;
    throw error;
  }
  server.once('close', short.release);
  chmodSync(path, 0o600);
  return server;
}

/** Whether a server listens on that socket. */
function isAlive(path: string): Promise<boolean> {
  return dial(path).then(
    socket => Boolean(socket.destroy()),
    // Any other error (a busy server's full backlog is EAGAIN) does not prove that nobody is there.
    ({ cause }: NoServer) => !['ENOENT', 'ECONNREFUSED'].includes((cause as NodeJS.ErrnoException).code ?? ''),
  );
}

/**
 * Puts a socket in the place of the one that a killed server has left. Several may try that at once, and a socket that
 * lives must never be taken away: so whoever does it holds a claim, a file named by the inode of the dead one, until
 * the new one listens. undefined: try again.
 */
async function replaceDead(path: string, handlers: Handlers, found: number | undefined, tries: number) {
  if (await isAlive(path))
    throw new Error(`another server runs on ${dirname(dirname(path))}: stop it, or set SLIM_DATA to another folder`);
  const claim = `${path}.${found}`;
  try {
    writeFileSync(claim, '', { flag: 'wx' });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    // Somebody else has the claim; or was killed while he had it.
    if (tries * claimMs > 2000) rmSync(claim, { force: true });
    return undefined;
  }
  try {
    // A socket that was bound a moment ago refuses until it listens: so it is asked once more.
    await pause(claimMs);
    if (inodeOf(path) !== found || (await isAlive(path))) return undefined;
    rmSync(path, { force: true });
    return await listen(path, handlers);
  } finally {
    rmSync(claim, { force: true });
  }
}

const claimMs = 50;
const inodeOf = (path: string): number | undefined => statSync(path, { throwIfNoEntry: false })?.ino;

async function* answer(line: string, handlers: Handlers): AsyncGenerator<string> {
  try {
    const request = parseRequest(line);
    const answered = await handlers[request.verb](request as never);
    const items = Symbol.asyncIterator in Object(answered) ? (answered as AsyncIterable<unknown>) : [answered];
    for await (const item of items) yield `${JSON.stringify({ item })}\n`;
    yield `${JSON.stringify({ isEnd: true })}\n`;
  } catch (error) {
    yield `${JSON.stringify({ error: reasonOf(error) })}\n`;
  }
}
