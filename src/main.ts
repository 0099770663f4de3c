// The composition root: the only file that wires the parts together, once as the steward (root) and once as the
// network process (which is all there is when we are not root). Read it to see what the server is made of.
// Promise: resolves with the exit status: 0, 69 (a port or the data folder is taken), 78 (settings, owners).
import { readdirSync, unlinkSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import type { Pem, Settings } from './config/settings.ts';
import { openControl } from './control.ts';
import { prepareData, prepareDataAsRoot, prepareRoot, prepareRootAsRoot, probe } from './folders.ts';
import { Certificates } from './inbound/certificate.ts';
import { Connection } from './inbound/connection.ts';
import { type ListenSocket, Listeners, clientKey } from './inbound/listener.ts';
import { answerRecipient } from './inbound/policy.ts';
import { matcher, sharedAddresses } from './inbound/shared-addresses.ts';
import { openLog } from './log.ts';
import type { Authenticator, Directory, Domains, Log, Resolve, Route, Storage } from './mail.ts';
import { createAuthenticator } from './auth/chain.ts';
import { OutboundTransport } from './outbound/transport.ts';
import { DiskQueue } from './queue/scheduler.ts';
import { createReport } from './queue/report.ts';
import { TableDomains } from './postgres/domains.ts';
import { openDatabase } from './postgres/pool.ts';
import { accountDirectory } from './routing/accounts.ts';
import { addressDirectory, defaultDirectory, domainDirectory, postmasterDirectory } from './routing/address-map.ts';
import { type Query, TableDirectory } from './routing/postgres.ts';
import { createResolver } from './routing/resolver.ts';
import { parseAddress } from './smtp/address.ts';
import { type Reply, replies } from './smtp/reply.ts';
import { maxRecipients } from './smtp/session.ts';
import { ensureAccounts } from './steward/account-files.ts';
import { Steward } from './steward/client.ts';
import { findUser } from './steward/nss.ts';
import { cleanEnvironment, runSteward } from './steward/steward.ts';
import { MaildirStorage } from './storage/maildir.ts';
import { localTransport } from './storage/local.ts';
import { sweep } from './storage/sweep.ts';
import { systemClock as clock, systemDns as dns, systemRandom as random } from './system.ts';

const dayMs = 24 * 3600_000;
export const controlPath = (settings: Settings): string => join(settings.dataFolder, 'run', 'control');

/** Every root of mail that the settings name. */
function mailRoots({ mailRoot, storages }: Settings): readonly string[] {
  const paths = [...storages.addresses, ...storages.domains].map(entry => entry.path);
  return [...new Set([mailRoot, ...paths, ...(storages.default === undefined ? [] : [storages.default])])];
}

/** Runs the server: as root the steward with a network process below it, else the network process alone. */
export async function serve(settings: Settings, variables: NodeJS.ProcessEnv, onReady: () => void): Promise<number> {
  if (process.getuid?.() !== 0) return runNetwork(settings, undefined, onReady);
  process.umask(0o077);
  const log = await openLog(settings.logLevel, settings.logFormat, false);
  const runAs = settings.runAs === undefined ? undefined : await findUser(settings.runAs);
  if (settings.runAs !== undefined && runAs === undefined) {
    log.error({ user: settings.runAs }, 'SLIM_RUN_AS: there is no such user on this system');
    return 78;
  }
  if (runAs === undefined)
    log.warn({}, 'running as root: set SLIM_RUN_AS to a user of its own for the network process');
  const owner = runAs ?? { uid: 0, gid: 0 };
  try {
    prepareDataAsRoot(settings.dataFolder, owner);
  } catch (error) {
    log.error({}, error instanceof Error ? error.message : String(error));
    return 78;
  }
  for (const root of mailRoots(settings)) prepareRootAsRoot(root, owner, log);
  const accountFiles = { folder: join(settings.dataFolder, 'accounts'), homes: '/home', clock, random };
  try {
    const made = await ensureAccounts(accountFiles, settings.accounts);
    if (made.length > 0) log.info({ accounts: made }, 'made the accounts of SLIM_ACCOUNTS');
  } catch (error) {
    log.error(
      { error: String(error) },
      'an account of SLIM_ACCOUNTS could not be made: its mail waits with the senders',
    );
  }
  return runSteward({
    runAs,
    sockets: settings.listen.filter(({ port }) => port < 1024).map(({ host, port }) => ({ host, port })),
    spoolFolder: join(settings.dataFolder, 'spool'),
    tlsFiles: { cert: fileOf(settings.tls.cert), key: fileOf(settings.tls.key) },
    argv: [process.argv[1] ?? '', 'network', ...process.argv.slice(2).filter(word => word === '--demo')],
    environment: cleanEnvironment(variables),
    settings: { ...settings, accounts: [] },
    stopWithinMs: settings.drainMs + 5000,
    clock,
    random,
    log,
  }).catch((error: unknown) => {
    log.error({ error: String(error) }, 'the network process could not be started');
    return 69;
  });
}

const fileOf = (pem: Pem | undefined): string | undefined => (pem && 'file' in pem ? pem.file : undefined);

/** The hidden verb `network`: what the steward starts. */
export async function serveForSteward(onReady: (settings: Settings) => void): Promise<number> {
  const orders: Orders = { stop: Promise.withResolvers<void>(), reload: () => {} };
  const steward = new Steward(order => (order === 'stop' ? orders.stop.resolve() : orders.reload()));
  const { settings, sockets } = await steward.started;
  const own = settings as Settings;
  return runNetwork(own, { steward, sockets, orders }, () => onReady(own));
}

type Parent = {
  readonly steward: Steward;
  readonly sockets: readonly { readonly host?: string | undefined; readonly port: number; readonly fd: number }[];
  readonly orders: Orders;
};
/** What the steward may ask for, at any time, also before we are ready. */
type Orders = { readonly stop: PromiseWithResolvers<void>; reload: () => void };

/** Everything that strangers talk to. */
async function runNetwork(settings: Settings, parent: Parent | undefined, onReady: () => void): Promise<number> {
  process.umask(0o077);
  const log = await openLog(settings.logLevel, settings.logFormat, true);
  const fail = (status: number, error: unknown): number => {
    log.error({}, error instanceof Error ? error.message : String(error));
    log.flush();
    return status;
  };
  const { dataFolder } = settings;
  const steward = parent?.steward;
  try {
    prepareData(dataFolder);
  } catch (error) {
    return fail(78, error);
  }
  const stopped = parent?.orders.stop ?? Promise.withResolvers<void>();
  if (!parent) process.on('SIGTERM', () => stopped.resolve()).on('SIGINT', () => stopped.resolve());

  const routing = await openRouting(settings, steward, log);
  const sending = openSending(settings, steward, routing.resolve, log);
  const { queue } = sending;
  const authenticator = await openLogins(settings, steward, routing.query, log);
  const listeners = await openInbound(settings, parent, { ...routing, ...sending }, authenticator, log);
  const state = (): object => ({
    listening: listeners.isListening,
    sessions: listeners.sessions,
    database: routing.database(),
    queued: queue.size,
    writable: succeeds(() => probe(join(dataFolder, 'state'))),
  });
  let control;
  try {
    const act = (action: 'retry' | 'hold' | 'release' | 'remove') => (selector: string) =>
      queue.act(action, JSON.parse(selector));
    control = await openControl(controlPath(settings), {
      health: state,
      resolve: routing.explain,
      auth: (login: string) => authenticator.check(...(JSON.parse(login) as [string, string])),
      queue: (selector: string) => queue.list(JSON.parse(selector)),
      ...{ retry: act('retry'), hold: act('hold'), release: act('release'), remove: act('remove') },
    });
    // Nobody else writes here: what lies in the spool is left from a crash, and was never acknowledged.
    for (const name of readdirSync(join(dataFolder, 'spool'))) unlinkSync(join(dataFolder, 'spool', name));
    await queue.start();
    await listeners.open();
  } catch (error) {
    control?.close();
    return fail(69, error);
  }
  const sweepAll = async (): Promise<void> => {
    for (const root of mailRoots(settings)) await sweep(root, { clock, log });
  };
  void sweepAll();
  setInterval(() => void sweepAll(), dayMs).unref();
  log.info({ hostname: settings.hostname, domains: settings.domains, listen: settings.listen }, 'ready');
  onReady();

  await stopped.promise;
  log.info({ sessions: listeners.sessions }, 'stopping');
  await Promise.all([listeners.drain(settings.drainMs), queue.stop(settings.drainMs)]);
  sending.remote.close();
  control.close();
  log.info({}, 'stopped');
  log.flush();
  return 0;
}

function succeeds(step: () => void): boolean {
  try {
    step();
    return true;
  } catch {
    return false;
  }
}

/** Who gets the mail: the sources in their fixed order. */
async function openRouting(settings: Settings, steward: Steward | undefined, log: Log) {
  const { storages, mailRoot } = settings;
  for (const root of mailRoots(settings)) {
    const isHome = await steward?.accounts.owner(root).catch(() => undefined);
    if (!isHome) prepareRoot(root, log);
  }
  const accounts = steward?.accounts;
  const database = settings.database && (await openDatabase(settings.database, storages.postgresql, log));
  let domains: Domains = { hosts: async domain => settings.domains.includes(domain) };
  if (database && storages.postgresql) {
    const file = join(settings.dataFolder, 'state', 'domains');
    const table = new TableDomains({ database, settings: settings.domains, file, log });
    await table.start();
    domains = table;
  }
  const directories: Directory[] = [addressDirectory(storages, accounts)];
  const query: Query | undefined = database && ((statement, values) => database.query(statement, values));
  if (query && storages.postgresql) {
    const hasDefault = storages.default !== undefined;
    directories.push(new TableDirectory({ query, accounts, mailRoot, hasDefault, clock, log }));
  }
  if (accounts && storages.pam) directories.push(accountDirectory(accounts));
  directories.push(
    domainDirectory(storages, accounts),
    defaultDirectory(storages, accounts),
    postmasterDirectory(mailRoot),
  );
  const resolve = createResolver({
    directories,
    domains,
    subaddress: settings.subaddress,
    mainDomain: settings.domains[0] ?? '',
  });
  return {
    resolve,
    query,
    database: () => (database === undefined ? 'off' : database.isUp ? 'up' : 'down'),
    /** A decision step by step, and the reply that RCPT would get. */
    async explain(text: string): Promise<{ code: number; steps: string[] }> {
      const steps: string[] = [];
      const address = parseAddress(text);
      const shown = ({ code, status, text: words }: Reply): string => `=> ${code} ${status} ${words}`;
      if (address === undefined) return { code: replies.badRecipient.code, steps: [shown(replies.badRecipient)] };
      const explained: Resolve = mailbox =>
        resolve(mailbox, line => steps.push(line)).catch((error: unknown) => {
          steps.push(`cannot tell: ${error instanceof Error ? error.message : String(error)}`);
          throw error;
        });
      const { reply } = await answerRecipient(address, false, { resolve: explained, senderCheck: 'off', log });
      return { code: reply.code, steps: [...steps, shown(reply)] };
    },
  };
}

/** What keeps mail, here or until another server has it. */
function openSending(settings: Settings, steward: Steward | undefined, resolve: Resolve, log: Log) {
  const { hostname, relay, externalTls } = settings;
  const maildir = new MaildirStorage({ clock, random, log });
  // Never asked without a steward: then no directory has such routes.
  const account = steward?.storage(join(settings.dataFolder, 'spool'), random) ?? maildir;
  const storages: Readonly<Record<Route['kind'], Storage>> = { maildir, account };
  const own = new Set(Object.values(networkInterfaces()).flatMap(list => (list ?? []).map(({ address }) => address)));
  const isSelf = (host: string): boolean => host === hostname || own.has(host);
  const remote = new OutboundTransport({ hostname, relay, externalTls, port: 25, dns, isSelf, clock, random, log });
  const local = localTransport({ storages, resolve, remote, isRelayed: relay !== undefined });
  const report = createReport({ hostname, resolve, queue: () => queue, clock, random, log });
  const queue: DiskQueue = new DiskQueue({
    folder: join(settings.dataFolder, 'queue'),
    relay: relay !== undefined,
    transports: { remote, local },
    report,
    ...settings.queue,
    clock,
    random,
    log,
  });
  return { storages, remote, queue, report };
}

/** Who may log in. */
function openLogins(settings: Settings, steward: Steward | undefined, query: Query | undefined, log: Log) {
  const isShared = (client: string): boolean => matcher(sharedAddresses())(client);
  const folder = join(settings.dataFolder, 'state');
  const { users, domains, supports } = settings;
  const offered = supports.find(({ name }) => name === 'AUTH')?.parameter?.split(' ');
  const throttle = { isShared, clientKey };
  const mainDomain = domains[0] ?? '';
  return createAuthenticator({ ...throttle, users, mainDomain, offered, folder, steward, query, clock, random, log });
}

/** What takes mail from the network. */
async function openInbound(
  settings: Settings,
  parent: Parent | undefined,
  { resolve, storages, queue, report }: { resolve: Resolve } & ReturnType<typeof openSending>,
  authenticator: Authenticator,
  log: Log,
): Promise<Listeners> {
  const { hostname, maxSizeBytes, tls } = settings;
  const spoolFolder = join(settings.dataFolder, 'spool');
  const readPem = async (pem: Pem): Promise<string> => ('text' in pem ? pem.text : readFile(pem.file, 'utf8'));
  const { cert, key } = tls;
  const certificates = await Certificates.open({
    readPair:
      cert && key
        ? async () => {
            const files = parent ? await parent.steward.readTlsFiles() : {};
            return { cert: files.cert ?? (await readPem(cert)), key: files.key ?? (await readPem(key)) };
          }
        : undefined,
    hostname,
    folder: join(settings.dataFolder, 'tls'),
    minVersion: tls.minVersion,
    clock,
    random,
    log,
  });
  const reload = (): void => void certificates.check();
  if (parent) parent.orders.reload = reload;
  else process.on('SIGHUP', reload);

  const mechanisms = authenticator.mechanisms.join(' ');
  const parameters = { SIZE: String(maxSizeBytes), LIMITS: `RCPTMAX=${maxRecipients}`, AUTH: mechanisms };
  const extensions = settings.supports
    .filter(({ name }) => name !== 'AUTH' || mechanisms !== '')
    .map(({ name }) =>
      name in parameters ? { name, parameter: parameters[name as keyof typeof parameters] } : { name },
    );
  const policy = { resolve, senderCheck: settings.senderCheck, log };
  const accept = { hostname, spoolFolder, storages, queue, report, clock, random, log };
  const trusts = matcher(settings.trustedNetworks);
  const shared = sharedAddresses();
  if (shared.length > 0)
    log.info(
      { addresses: shared },
      'behind a container proxy anyone may have these addresses: no limit per client for them (README: clients behind Docker)',
    );
  let isShared = matcher(shared);
  setInterval(() => (isShared = matcher(sharedAddresses())), 60_000).unref();
  const inherited = (socket: ListenSocket): ListenSocket => {
    const found = parent?.sockets.find(({ host, port }) => port === socket.port && host === socket.host);
    return found ? { ...socket, fd: found.fd } : socket;
  };
  return new Listeners({
    sockets: settings.listen.map(inherited),
    maxSessions: settings.maxSessions,
    maxSessionsPerClient: settings.maxSessionsPerClient,
    isShared: client => isShared(client),
    onRefused: (client, reason, others) => log.warn({ client, reason, others }, 'clients were turned away'),
    open: (socket, { kind, port }, client, onClose) => {
      // Asked anew: a network may have been attached a moment ago.
      const isTrusted = trusts(client) && !matcher(sharedAddresses())(client);
      return new Connection(
        socket,
        {
          session: {
            hostname,
            extensions,
            maxSizeBytes,
            needsTls: tls.require === 'all' || (tls.require === 'submission' && kind !== 'smtp'),
            needsLogin: kind !== 'smtp' && !isTrusted,
            isSecure: kind === 'submissions',
          },
          accept,
          policy,
          authenticator,
          isTrusted,
          isSubmission: kind !== 'smtp',
          secureContext: () => certificates.secureContext,
          id: clock.now().toString(36) + random.hex(3),
          listener: `${kind}:${port}`,
          client,
          log,
        },
        onClose,
      );
    },
  });
}
