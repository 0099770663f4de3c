// The HTTP process: where its program lies, what it may read and what it is answered. Loaded only where SLIM_HTTP is
// set, or mail is captured.
import { judge } from '../control/health.ts';
import type { Answers as Told } from '../control/requests.ts';
import type { Kept } from '../mail/captured.ts';
import { Gatherer } from '../system/gather.ts';
import { version } from '../system/version.ts';
import { WebProcess } from '../web/process.ts';
import type { Answers } from '../web/protocol.ts';
import { type Context, system } from './context.ts';
import { programOf } from './programs.ts';

type Captured = {
  readonly folder: string;
  readonly list: () => readonly Kept[];
  readonly answers: Omit<Answers, 'health' | 'figures'>;
};

/** Makes the HTTP process, which is not started yet. `captured` is there where mail is captured. */
export function openWeb(
  { settings: { http, hostname, maxSizeBytes }, log, listen }: Context,
  { health, figures }: { health(): Told['health'] | Promise<Told['health']>; figures(): Promise<Told['figures']> },
  captured?: Captured,
): WebProcess {
  if (http === undefined) throw new Error('SLIM_HTTP is unset');
  const { script, mayRead } = programOf('web');
  return new WebProcess({
    script,
    mayRead: captured ? [...mayRead, `${captured.folder}/`] : mayRead,
    greet: unreadable => ({
      kind: 'start',
      ...http,
      hostname,
      version,
      ...(captured && { capture: { folder: captured.folder, maxSizeBytes, kept: captured.list(), unreadable } }),
    }),
    answers: { health: async () => ({ health: judge(await health()).health }), figures, ...captured?.answers },
    clock: system.clock,
    gatherer: new Gatherer(log),
    listen,
    log,
  });
}
