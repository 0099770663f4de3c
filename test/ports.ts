// Ports of loopback for the servers that tests start.
import { randomInt } from 'node:crypto';
import { createServer } from 'node:net';

const given = new Set<number>();

/** A port that nobody has now, and that no outgoing connection gets: those begin at 32768. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(10_000, 32_000);
    if (given.has(port)) continue;
    given.add(port);
    const server = createServer().listen(port, '127.0.0.1');
    const isFree = await new Promise(resolve => {
      server.once('listening', () => resolve(true)).once('error', () => resolve(false));
    });
    await new Promise(resolve => server.close(resolve));
    if (isFree) return port;
  }
}
