// The HTTP process, a program of its own (main.ts): what it is told by the network process, what it asks there, and
// which routes it has. It has no settings but those of `start`, no secrets, and may write no file. It ends when the
// network process does.
import { join } from 'node:path';
import type { Change } from '../mail/captured.ts';
import { reasonOf } from '../system/reason.ts';
import { healthRoutes } from './health.ts';
import * as limits from './limits.ts';
import { operateRoutes } from './operate.ts';
import { readPages } from './page.ts';
import type { Ask, FromWeb, Questions, Reply, Start, ToWeb } from './protocol.ts';
import { Problem, openServer } from './server.ts';

const say = (message: FromWeb): void => void process.send?.(message, () => {});
const waiting = new Map<number, (reply: Reply) => void>();
let questions = 0;

const ask: Ask = async (name, ...about) => {
  const id = (questions += 1);
  const { promise, resolve } = Promise.withResolvers<Reply>();
  const late = setTimeout(resolve, limits.askMs, {
    kind: 'reply',
    id,
    error: 'The mail server does not answer now; try again.',
  });
  waiting.set(id, resolve);
  say({ kind: 'ask', id, name, about });
  const { result, error } = await promise;
  clearTimeout(late);
  waiting.delete(id);
  if (error !== undefined) throw new Problem(503, error);
  return result as ReturnType<Questions[typeof name]>;
};

const pageFolder = join(import.meta.dirname, 'page');
/** Takes a change of captured mail. Until the index is there, changes wait. */
let hear: (change: Change) => void = change => early.push(change);
const early: Change[] = [];

/** Resolves never: the process ends by itself. */
export function runWeb(): Promise<never> {
  // Terminals and init send signals to all processes at once; only the network process's word counts.
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => {});
  process.on('disconnect', () => process.exit(0));
  process.on('message', (message: ToWeb) => {
    switch (message.kind) {
      case 'start':
        return void begin(message);
      case 'stop':
        return process.exit(0);
      case 'reply':
        return waiting.get(message.id)?.(message);
      case 'arrived':
      case 'removed':
      case 'marked':
        return hear(message);
      default:
        return message satisfies never;
    }
  });
  return new Promise(() => {});
}

async function begin(start: Start): Promise<void> {
  const { capture, version } = start;
  const pages = readPages(pageFolder, capture !== undefined);
  const others = [...healthRoutes(ask), ...operateRoutes(ask), ...pages.status];
  const onReading = (id?: string): void => say({ kind: 'reading', ...(id !== undefined && { id }) });
  const onTrouble = (request: string, error: unknown): void =>
    say({ kind: 'trouble', request, error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
  try {
    const captured =
      capture && (await import('./mail/routes.ts')).openCaptured({ capture, version, ask, onReading, others });
    const routes = captured ? [...others, ...captured.routes, ...pages.mail] : others;
    await openServer({ ...start, routes, onTrouble, ...(captured && { onUpgrade: captured.onUpgrade }) });
    captured?.begin();
    hear = change => captured?.hear(change);
    early.splice(0).forEach(hear);
    say({ kind: 'listening' });
  } catch (error) {
    const why = reasonOf(error);
    process.send?.({ kind: 'failed', why } satisfies FromWeb, () => process.exit(1));
  }
}
