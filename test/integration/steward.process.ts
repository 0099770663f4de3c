// Stands in for main.ts in the tests of the steward, in all of its processes. `steward OPTIONS` runs the steward;
// `network` is what that starts: it prints where it listens, and does what a line of JSON on a connection asks.
import { readdirSync, readFileSync, writeSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { createInterface } from 'node:readline';
import { type Message, type Route, inMemory } from '../../src/mail/message.ts';
import type { Prepared } from '../../src/mail/ports.ts';
import { Steward } from '../../src/steward/client.ts';
import { runPam } from '../../src/steward/pam.ts';
import { cleanEnvironment, runSteward, type StewardOptions } from '../../src/steward/steward.ts';
import { systemClock, systemRandom } from '../../src/system/world.ts';

/** A message as JSON can hold it: the octets in base64. */
type WrittenMessage = Extract<Message, { kind: 'file' }> | { readonly kind: 'memory'; readonly base64: string };
export type Question =
  | { readonly ask: 'find' | 'owner'; readonly of: string }
  | { readonly ask: 'prepare' | 'deliver'; readonly routes: readonly Route[]; readonly message: WrittenMessage }
  | { readonly ask: 'commit' | 'abort'; readonly ticket: string }
  | { readonly ask: 'authenticate'; readonly name: string; readonly password: string }
  | { readonly ask: 'raw'; readonly message: unknown }
  | { readonly ask: 'raws'; readonly messages: readonly unknown[] }
  | { readonly ask: 'tls' | 'self' | 'block' | 'handle' }
  | { readonly ask: 'print'; readonly lines: number }
  | { readonly ask: 'exit'; readonly status: number };

const print = (fields: Record<string, unknown>): void => void process.stdout.write(`${JSON.stringify(fields)}\n`);
const log = (level: string) => (fields: Record<string, unknown>, message: string) =>
  print({ level, message, ...fields, ...(fields['err'] instanceof Error && { err: fields['err'].message }) });

if (process.argv[2] === 'steward') {
  const status = await runSteward({
    ...(JSON.parse(process.argv[3] ?? '') as Omit<StewardOptions, 'argv'>),
    argv: [import.meta.filename, 'network'],
    environment: { ...cleanEnvironment(process.env), NODE_COMPILE_CACHE: process.env['NODE_COMPILE_CACHE'] ?? '' },
    clock: systemClock,
    random: systemRandom,
    log: { debug: log('debug'), info: log('info'), warn: log('warn'), error: log('error') },
  }).catch((error: unknown) => {
    print({ failed: String(error) });
    return 70;
  });
  process.exit(status);
} else if (process.argv[2] === 'pam') {
  await runPam('/nonexistent/slimsmtp');
} else {
  let isDeaf = false;
  const steward = new Steward(order => {
    print({ order });
    if (order === 'stop' && !isDeaf) process.exit(0);
  });
  const started = await steward.started;
  const settings = started.settings as { readonly spoolFolder: string; readonly deaf?: boolean };
  isDeaf = settings.deaf ?? false;
  const tickets = new Map<string, Prepared>();
  const storage = steward.storage(settings.spoolFolder, systemRandom);

  /**
   * The last of the replies to these messages, once all have come. Each is known by its message's id (0, where that is
   * no number): replies to other questions, and orders, come at any time.
   */
  const sendRaw = (messages: readonly unknown[]): Promise<unknown> =>
    new Promise(resolve => {
      const left = messages.map(idOf);
      const listen = (reply: unknown): void => {
        const at = 'kind' in (reply as object) ? -1 : left.indexOf(idOf(reply));
        if (at < 0) return;
        left.splice(at, 1);
        if (left.length > 0) return;
        process.removeListener('message', listen);
        resolve(reply);
      };
      process.prependListener('message', listen);
      for (const message of messages) process.send?.(message as object);
    });

  const answer = async (question: Question): Promise<unknown> => {
    switch (question.ask) {
      case 'find':
        return (await steward.accounts.find(question.of)) ?? null;
      case 'owner':
        return (await steward.accounts.owner(question.of)) ?? null;
      case 'prepare':
      case 'deliver': {
        const prepared = await storage.prepare(question.routes, toMessage(question.message));
        if (question.ask === 'deliver') {
          await prepared.commit();
          return readdirSync(settings.spoolFolder);
        }
        const ticket = systemRandom.hex(8);
        tickets.set(ticket, prepared);
        return { ticket };
      }
      case 'commit':
      case 'abort':
        await tickets.get(question.ticket)?.[question.ask]();
        return null;
      case 'authenticate':
        return steward.authenticate(question.name, question.password);
      case 'raw':
        return sendRaw([question.message]);
      case 'raws': // in this very order, which questions on connections of their own would not keep
        return sendRaw(question.messages);
      case 'tls':
        return steward.readTlsFiles();
      case 'self':
        return { status: readFileSync('/proc/self/status', 'utf8'), environment: process.env, pid: process.pid };
      case 'block':
        for (const end = Date.now() + 4000; Date.now() < end;);
        return null;
      case 'handle': {
        const server = createServer().listen(0, '127.0.0.1');
        await new Promise(resolve => server.once('listening', resolve));
        const { port } = server.address() as AddressInfo;
        await new Promise(resolve => process.send?.({ id: 950, kind: 'tls' }, server, {}, resolve));
        // Sent behind the handle, so that it has come when this is answered.
        await steward.accounts.find('root');
        server.close();
        return { port };
      }
      case 'print': // as the log does at the end: at once, and waiting for nobody
        for (let line = 0; line < question.lines; line += 1)
          writeWhole(`${JSON.stringify({ line, filler: 'x'.repeat((line % 7) * 1000) })}\n`);
        return process.exit(69);
      case 'exit':
        return process.exit(question.status);
      default:
        return question satisfies never;
    }
  };

  for (const { fd } of started.sockets) {
    const server = createServer(socket => {
      createInterface({ input: socket }).on('line', async line => {
        const reply = await answer(JSON.parse(line) as Question).catch((error: Error & { status?: string }) => ({
          error: error.message,
          name: error.name,
          status: error.status,
        }));
        socket.write(`${JSON.stringify(reply)}\n`);
      });
      socket.on('error', () => {});
    });
    server.listen({ fd }, () => print({ port: (server.address() as AddressInfo).port }));
  }
}

/** The id of a message, or 0, as the steward answers where it has none. */
function idOf(message: unknown): number {
  const { id } = (message ?? {}) as { readonly id?: unknown };
  return Number.isInteger(id) ? Number(id) : 0;
}

/** As the log's last lines are written: also where the pipe is full for a moment. */
function writeWhole(text: string): void {
  for (let rest = Buffer.from(text); rest.length > 0;)
    try {
      rest = rest.subarray(writeSync(1, rest));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
    }
}

function toMessage(message: WrittenMessage): Message {
  if (message.kind === 'file') return message;
  return inMemory(Buffer.from(message.base64, 'base64'));
}
