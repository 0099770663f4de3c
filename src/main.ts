// The processes of the server: the steward (as root) and the network process, which is all there is when we are not
// root; and the parts of the network process in the order in which they start. What the parts are made of:
// `src/wiring/`.
// Promise: resolves with the exit status: 0, 69 (a port or the data folder is taken), 78 (settings, owners).
import { join } from 'node:path';
import type { Settings } from './config/settings.ts';
import { type Handlers, openControl } from './control/server.ts';
import { DiskJournal } from './durable/journal.ts';
import { emptySpool } from './inbound/spool.ts';
import { boot } from './steward/boot.ts';
import { Steward } from './steward/client.ts';
import { sweep } from './storage/sweep.ts';
import { openDns } from './dns/stub.ts';
import { prepareData, probe } from './system/folders.ts';
import { type Parts, startAll } from './system/lifecycle.ts';
import { type FlushedLog, type Log, openLog, takeWarnings } from './system/log.ts';
import { reasonOf } from './system/reason.ts';
import { version } from './system/version.ts';
import { trustAuthorities } from './tls/authorities.ts';
import { openRenewals } from './wiring/acme.ts';
import { type Context, system } from './wiring/context.ts';
import { explain } from './wiring/explain.ts';
import { openWatching } from './wiring/events.ts';
import { createFigures } from './wiring/figures.ts';
import { openLmtp } from './wiring/lmtp.ts';
import { openMailRoots } from './wiring/mail-roots.ts';
import { answerDns } from './wiring/publishing.ts';
import { openInbound, openLogins } from './wiring/receiving.ts';
import { openRouting } from './wiring/routing.ts';
import { openSending } from './wiring/sending.ts';
import { answerDkim, openSigning } from './wiring/signing.ts';

const dayMs = 24 * 3600_000;
/** What signals or the steward may order at any time, also before we are ready. */
const orders = { stop: Promise.withResolvers<void>(), reloads: [] as (() => void)[] };
function obey(order: 'stop' | 'reload'): void {
  if (order === 'stop') orders.stop.resolve();
  else for (const reload of orders.reloads) reload();
}

export const controlPath = (settings: Settings): string => join(settings.dataFolder, 'run', 'control');

/** Logs what the settings remark. The first process does it: the steward, or else the network process. */
function tell(remarks: Settings['remarks'], log: Log): void {
  for (const { level, fields, text } of remarks) log[level](fields, text);
}

/** Says why the server cannot start, and gives the exit status. */
function fail(log: FlushedLog, status: number, error: unknown): number {
  log.error({}, reasonOf(error));
  log.flush();
  return status;
}

/** Runs the server: as root the steward with a network process below it, else the network process alone. */
export async function serve(settings: Settings, variables: NodeJS.ProcessEnv, onReady: () => void): Promise<number> {
  if (process.getuid?.() !== 0) {
    for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => obey('stop'));
    process.on('SIGHUP', () => obey('reload'));
    return runNetwork(settings, undefined, onReady);
  }
  process.umask(0o077);
  const log = await openLog(settings.logLevel, settings.logFormat, false);
  takeWarnings(log);
  tell(settings.remarks, log);
  const demo = process.argv.slice(2).filter(word => word === '--demo');
  const argv = [process.argv[1] ?? '', 'network', ...demo] as const;
  const status = await boot({ settings, variables, argv, ...system, log });
  log.flush();
  return status;
}

/** The hidden verb `network`: what the steward starts. */
export async function serveForSteward(onReady: (settings: Settings) => void): Promise<number> {
  const steward = new Steward(obey);
  const settings = (await steward.started).settings as Settings;
  return runNetwork(settings, steward, () => onReady(settings));
}

/** Everything that strangers talk to. */
async function runNetwork(settings: Settings, steward: Steward | undefined, onReady: () => void): Promise<number> {
  process.umask(0o077);
  const { hostname, domains, listen } = settings;
  const log = await openLog(settings.logLevel, settings.logFormat, true);
  takeWarnings(log);
  if (!steward) tell(settings.remarks, log);
  if (settings.extraAuthorities !== undefined) trustAuthorities(settings.extraAuthorities, log);
  let isFirstStart: boolean;
  try {
    isFirstStart = prepareData(settings.dataFolder);
  } catch (error) {
    return fail(log, 78, error);
  }
  const watching = await openWatching(settings, log);
  const context: Context = {
    settings,
    steward,
    log,
    watching,
    listen: watching.listen,
    dns: openDns({ servers: settings.resolver }),
    onReload: act => orders.reloads.push(act),
  };
  const { parts, listeners } = await openParts(context, isFirstStart);
  const onStopFailed = (name: string, error: unknown): void => log.error({ part: name, err: error }, 'could not stop');
  let stop;
  try {
    stop = await startAll(parts, onStopFailed);
  } catch (error) {
    return fail(log, 69, error);
  }
  const logins = settings.users.map(({ name }) => name);
  log.info({ version, hostname, domains, listen, logins }, 'ready');
  onReady();

  await orders.stop.promise;
  log.info({ sessions: listeners.sessions }, 'stopping');
  await stop();
  log.info({}, 'stopped');
  log.flush();
  return 0;
}

/** The server, or the mail catcher that SLIM_CAPTURE makes of it. Not started yet. */
async function openParts(context: Context, isFirstStart: boolean) {
  const { settings } = context;
  if (settings.capture !== undefined)
    return (await import('./wiring/capture.ts')).openCapture(context, isFirstStart, controlPath(settings));
  const opened = { ...(await open(context, isFirstStart)), live: {} };
  return { parts: listParts(context, opened), listeners: opened.listeners };
}

/** What the settings ask for, made and not yet started. */
async function open(context: Context, isFirstStart: boolean) {
  const roots = await openMailRoots(context, isFirstStart);
  const lmtp = openLmtp(context);
  const routing = await openRouting(context, lmtp.ask);
  const signing = await openSigning(context, routing.domains);
  const sending = await openSending(context, { ...routing, signer: signing?.signer, lmtp });
  const authenticator = await openLogins(context, routing);
  const inbound = await openInbound(context, { ...routing, ...sending, authenticator });
  return { roots, lmtp, routing, signing, sending, authenticator, ...inbound };
}
/** `live`: what is there only while its part has started. */
type Opened = Awaited<ReturnType<typeof open>> & Readonly<{ live: { journal?: DiskJournal | undefined } }>;

/** The parts in the order in which they start; they stop in reverse. */
function listParts(context: Context, opened: Opened): Parts {
  const { settings, log, watching } = context;
  const { dataFolder, drainMs } = settings;
  const { lmtp, signing, sending, listeners, certificates, live } = opened;
  const { queue } = sending;
  const loaded = Promise.withResolvers<void>();
  const handlers = answers(context, opened, loaded.promise);
  return {
    // The lock comes first: what follows changes the data folder, as if nobody else did.
    'lock on SLIM_DATA': async () => {
      const server = await openControl(controlPath(settings), handlers);
      return () => server.close();
    },
    history: () => () => watching.close(),
    'keys that sign': () => {
      signing?.start();
      return () => signing?.stop();
    },
    'connections to other servers': () => () => {
      sending.remote.close();
      return lmtp.close();
    },
    'empty spool': () => emptySpool(join(dataFolder, 'spool')),
    journal: async () => {
      const journal = await DiskJournal.open(join(dataFolder, 'journal'), { ...system, log });
      // The disk of a replica may never come back. What it had is restored, and nothing more is written.
      if (settings.sharesQueue) return journal?.close();
      live.journal = journal;
      sending.maildir.use(journal);
      sending.use(journal);
      return () => journal?.close();
    },
    queue: async () => {
      await sending.start();
      loaded.resolve();
      return async () => {
        // Also where the listeners could not start: what is in flight then is not to blame for our end.
        await queue.stop(0);
        await sending.settle();
      };
    },
    'HTTP process': async () => {
      if (settings.http === undefined) return undefined;
      const web = (await import('./wiring/web.ts')).openWeb(context, handlers);
      await web.start();
      return () => web.stop();
    },
    listeners: async () => {
      await listeners.open();
      // Sessions and attempts end side by side: both have the one SLIM_DRAIN.
      return () => Promise.all([listeners.drain(drainMs), queue.stop(drainMs)]);
    },
    'certificate from an authority': async () => {
      const renewals = await openRenewals(context, () => void certificates.check());
      await renewals?.start();
      return () => renewals?.stop();
    },
    'sweep of old files in tmp/': () => startSweep(settings, log),
  };
}

/**
 * What the command line is answered. `loaded`: the queue knows its messages; before, an answer about them would be that
 * there are none.
 */
function answers(context: Context, opened: Opened, loaded: Promise<void>) {
  const { settings, log } = context;
  const { roots, routing, sending, authenticator, listeners, live } = opened;
  const { queue } = sending;
  const health = async () => ({
    listening: listeners.isListening,
    sessions: listeners.sessions,
    database: routing.database(),
    // The database of a shared queue may not answer: then it is degraded, and works.
    queued: await Promise.resolve(queue.size).catch(() => undefined),
    writable: probe(join(settings.dataFolder, 'state')) === undefined,
    unwritable: roots.check(),
  });
  return {
    health,
    figures: createFigures(context, { ...opened, journal: () => live.journal, health }),
    resolve: ({ address }) => explain(address, { resolve: routing.resolve, settings, log }),
    auth: ({ name, password }) => authenticator?.check(name, password) ?? { ok: false, source: 'no SLIM_USERS' },
    dns: order => answerDns(order, context, { ...opened, domains: routing.domains }),
    dkim: order => answerDkim(order, { signing: opened.signing, domains: routing.domains }),
    async *list({ selector }) {
      await loaded;
      yield* queue.list(selector);
    },
    async act({ action, selector }) {
      await loaded;
      return queue.act(action, selector);
    },
  } satisfies Handlers;
}

/** At once and then every day. */
function startSweep({ mailRoots }: Settings, log: Log): void {
  const sweepAll = async (): Promise<void> => {
    for (const { path } of mailRoots) await sweep(path, { ...system, log });
  };
  void sweepAll();
  setInterval(() => void sweepAll(), dayMs).unref();
}
