// The composition root: the only file that wires the parts together, once as the steward (root) and once as the
// network process (which is all there is when we are not root). Read it to see what the server is made of.
// Promise: resolves with the exit status: 0, 69 (a port or the data folder is taken), 78 (settings, owners).
import { readdirSync, unlinkSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import type { Pem, Settings } from './config/settings.ts';
import type { Answers } from './control/requests.ts';
import { type Handlers, openControl } from './control/server.ts';
import { prepareData, prepareRoot, probe } from './system/folders.ts';
import { trustAuthorities } from './tls/authorities.ts';
import { Certificates, type Pair } from './tls/certificates.ts';
import { Connection } from './inbound/connection.ts';
import { EnvelopeBudget } from './inbound/envelopes.ts';
import { Listeners } from './inbound/listener.ts';
import { type Peer, clientKey, stranger } from './inbound/peer.ts';
import { answerRecipient, mustLogIn } from './inbound/policy.ts';
import { isShared, matcher, sharedAddresses } from './inbound/shared-addresses.ts';
import { Gatherer } from './system/gather.ts';
import { type Part, part, startAll } from './system/lifecycle.ts';
import { type FlushedLog, openLog, takeWarnings } from './system/log.ts';
import { version } from './system/version.ts';
import type { Authenticator, Directory, Domains, Resolve, Storage } from './mail/ports.ts';
import type { Log } from './system/log.ts';
import type { Route } from './mail/message.ts';
import { createAuthenticator } from './auth/chain.ts';
import type { TablePasswords } from './auth/sources.ts';
import { OutboundTransport } from './outbound/transport.ts';
import { DiskQueue } from './queue/queue.ts';
import { createReport } from './queue/report.ts';
import { TableDomains } from './postgres/domains.ts';
import { openDatabase } from './postgres/pool.ts';
import { accountDirectory } from './routing/accounts.ts';
import { addressDirectory, defaultDirectory, domainDirectory, postmasterDirectory } from './routing/address-map.ts';
import { TableDirectory } from './postgres/routes.ts';
import { indexMaker } from './postgres/schema.ts';
import { openTablePasswords } from './postgres/users.ts';
import { createResolver } from './routing/resolver.ts';
import { parseAddress } from './smtp/address.ts';
import { replies } from './smtp/reply.ts';
import { maxRecipients } from './smtp/session.ts';
import { boot } from './steward/boot.ts';
import { Steward } from './steward/client.ts';
import { DiskJournal } from './durable/journal.ts';
import { MaildirStorage } from './storage/maildir.ts';
import { localTransport } from './queue/local.ts';
import { sweep } from './storage/sweep.ts';
import { systemClock as clock, systemDns as dns, systemRandom as random } from './system/world.ts';

const dayMs = 24 * 3600_000;
const system = { clock, random };
/** What signals or the steward may order at any time, also before we are ready. */
const orders = { stop: Promise.withResolvers<void>(), reload: (): void => {} };
const obey = (order: 'stop' | 'reload'): void => (order === 'stop' ? orders.stop.resolve() : orders.reload());
export const controlPath = (settings: Settings): string => join(settings.dataFolder, 'run', 'control');

/** Every root of mail that the settings name. */
function mailRoots({ mailRoot, storages }: Settings): readonly string[] {
  const paths = [...storages.addresses, ...storages.domains].map(entry => entry.path);
  return [...new Set([mailRoot, ...paths, storages.default ?? mailRoot])];
}

/** What the settings have to say, by whichever process starts first. */
function tell(remarks: Settings['remarks'], log: Log): void {
  for (const { level, fields, text } of remarks) log[level](fields, text);
}

/** Says why the server cannot start, and gives the exit status. */
function fail(log: FlushedLog, status: number, error: unknown): number {
  log.error({}, error instanceof Error ? error.message : String(error));
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
  const status = await boot({ settings, mailRoots: mailRoots(settings), variables, argv, ...system, log });
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
  const { dataFolder, hostname, domains, listen, drainMs } = settings;
  const log = await openLog(settings.logLevel, settings.logFormat, true);
  takeWarnings(log);
  if (!steward) tell(settings.remarks, log);
  if (settings.extraAuthorities !== undefined) trustAuthorities(settings.extraAuthorities, log);
  try {
    prepareData(dataFolder);
  } catch (error) {
    return fail(log, 78, error);
  }
  const routing = await openRouting(settings, steward, log);
  const sending = openSending(settings, steward, routing.resolve, log);
  const { queue } = sending;
  const authenticator =
    settings.users.length > 0 ? await openLogins(settings, steward, routing.tablePasswords, log) : undefined;
  const listeners = await openInbound(settings, steward, { ...routing, ...sending, authenticator }, log);
  const handlers: Handlers = {
    health: () => ({
      listening: listeners.isListening,
      sessions: listeners.sessions,
      database: routing.database(),
      queued: queue.size,
      writable: probe(join(dataFolder, 'state')) === undefined,
    }),
    resolve: routing.explain,
    auth: (name, password) => authenticator?.check(name, password) ?? { ok: false, source: 'no SLIM_USERS' },
    list: selector => queue.list(selector),
    act: (action, selector) => queue.act(action, selector),
  };
  let journal: DiskJournal | undefined;
  /** In the order in which they start; they stop in reverse. */
  const parts: readonly Part[] = [
    // The lock comes first: what follows changes the data folder, as if nobody else did.
    part(
      'lock on SLIM_DATA',
      () => openControl(controlPath(settings), handlers),
      server => server.close(),
    ),
    part(
      'connections to other servers',
      () => sending.remote,
      remote => remote.close(),
    ),
    part('empty spool', () => emptySpool(join(dataFolder, 'spool'))),
    part(
      'journal',
      async () => (journal = await DiskJournal.open(join(dataFolder, 'journal'), { ...system, log })),
      opened => opened?.close(),
    ),
    part(
      'queue',
      () => {
        sending.maildir.use(journal);
        return queue.start(journal);
      },
      () => queue.settle(),
    ),
    part(
      'listeners',
      () => listeners.open(),
      // Sessions and attempts end side by side: both have the one SLIM_DRAIN.
      () => Promise.all([listeners.drain(drainMs), queue.stop(drainMs)]),
    ),
    part('sweep of old files in tmp/', () => startSweep(mailRoots(settings), log)),
  ];
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

/** What lies in the spool at the start is left from a crash, and was never acknowledged. */
function emptySpool(folder: string): void {
  for (const name of readdirSync(folder)) unlinkSync(join(folder, name));
}

/** At once and then every day. */
function startSweep(roots: readonly string[], log: Log): void {
  const sweepAll = async (): Promise<void> => {
    for (const root of roots) await sweep(root, { clock, log });
  };
  void sweepAll();
  setInterval(() => void sweepAll(), dayMs).unref();
}

/** Who gets the mail: the sources in their fixed order. */
async function openRouting(settings: Settings, steward: Steward | undefined, log: Log) {
  const { storages, mailRoot, dataFolder, subaddress, domains: own } = settings;
  const accounts = steward?.accounts;
  for (const root of mailRoots(settings))
    if (!(await accounts?.owner(root).catch(() => undefined))) prepareRoot(root, log);
  const onUp = storages.postgresql ? { onUp: indexMaker(log) } : {};
  const database = settings.database && (await openDatabase({ settings: settings.database, log, ...onUp }));
  const directories: Directory[] = [addressDirectory(storages, accounts)];
  let domains: Domains = { hosts: async domain => own.includes(domain) };
  if (database && storages.postgresql) {
    const table = new TableDomains({ database, settings: own, file: join(dataFolder, 'state', 'domains'), log });
    await table.start();
    domains = table;
    const hasDefault = storages.default !== undefined;
    directories.push(new TableDirectory({ query: database.query, accounts, mailRoot, hasDefault, clock, log }));
  }
  if (accounts && storages.pam) directories.push(accountDirectory(accounts));
  directories.push(domainDirectory(storages, accounts), defaultDirectory(storages, accounts));
  directories.push(postmasterDirectory(mailRoot));
  const resolve = createResolver({ directories, domains, subaddress, mainDomain: own[0] ?? '' });
  return {
    resolve,
    tablePasswords: database && openTablePasswords(database.query, log),
    database: (): Answers['health']['database'] => (database === undefined ? 'off' : database.isUp ? 'up' : 'down'),
    /** A decision step by step, and the reply that RCPT would get. */
    async explain(text: string): Promise<Answers['resolve']> {
      const steps: string[] = [];
      const explained: Resolve = mailbox =>
        resolve(mailbox, line => steps.push(line)).catch((error: unknown) => {
          steps.push(`cannot tell: ${error instanceof Error ? error.message : String(error)}`);
          throw error;
        });
      const address = parseAddress(text);
      const policy = { resolve: explained, senderCheck: 'off', gatherer: new Gatherer(log) } as const;
      const { reply } = address ? await answerRecipient(address, stranger, policy) : { reply: replies.badRecipient };
      return { code: reply.code, steps: [...steps, `=> ${reply.code} ${reply.status} ${reply.text}`] };
    },
  };
}

/** What keeps mail, here or until another server has it. */
function openSending(settings: Settings, steward: Steward | undefined, resolve: Resolve, log: Log) {
  const { hostname, relay, externalTls, dataFolder } = settings;
  const common = { hostname, ...system, log };
  const maildir = new MaildirStorage(common);
  // Never asked without a steward: then no directory has such routes.
  const account = steward?.storage(join(dataFolder, 'spool'), random) ?? maildir;
  const storages: Readonly<Record<Route['kind'], Storage>> = { maildir, account };
  const own = new Set(Object.values(networkInterfaces()).flatMap(list => (list ?? []).map(({ address }) => address)));
  const isSelf = (host: string): boolean => host === hostname || own.has(host);
  const remote = new OutboundTransport({ ...common, relay, externalTls, port: 25, dns, isSelf });
  const isRelayed = relay !== undefined;
  const here = localTransport({ storages, resolve, remote, isRelayed });
  const transports = { here, relay: remote, domain: remote };
  const report = createReport({ ...common, ...settings.queue, resolve, queue: () => queue });
  const options = { ...common, ...settings.queue, folder: join(dataFolder, 'queue'), isRelayed };
  const queue: DiskQueue = new DiskQueue({ ...options, transports, report });
  return { storages, maildir, remote, queue, report };
}

/** Who may log in. */
function openLogins(
  settings: Settings,
  steward: Steward | undefined,
  tablePasswords: TablePasswords | undefined,
  log: Log,
) {
  const { users, domains, supports } = settings;
  const offered = supports.find(({ name }) => name === 'AUTH')?.parameter?.split(' ');
  const [folder, mainDomain] = [join(settings.dataFolder, 'state'), domains[0] ?? ''];
  const throttle = { isShared, clientKey };
  return createAuthenticator({
    ...throttle,
    users,
    mainDomain,
    offered,
    folder,
    steward,
    tablePasswords,
    ...system,
    log,
  });
}

type Parts = { resolve: Resolve; authenticator: Authenticator | undefined } & ReturnType<typeof openSending>;
/** What takes mail from the network. */
async function openInbound(settings: Settings, steward: Steward | undefined, parts: Parts, log: Log) {
  const { resolve, storages, queue, report, authenticator } = parts;
  const { hostname, maxSizeBytes, tls, dataFolder, senderCheck, maxSessions, maxSessionsPerClient } = settings;
  const { cert, key, minVersion } = tls;
  const common = { hostname, ...system, log };
  const readPem = async ({ text, file = '' }: Pem): Promise<string> => text ?? readFile(file, 'utf8');
  const readPair = async (): Promise<Pair | undefined> => {
    if (!cert || !key) return undefined;
    const files = await steward?.readTlsFiles();
    return { cert: files?.cert ?? (await readPem(cert)), key: files?.key ?? (await readPem(key)) };
  };
  const certificates = await Certificates.open({ ...common, readPair, folder: join(dataFolder, 'tls'), minVersion });
  orders.reload = () => void certificates.check();

  const mechanisms = authenticator?.mechanisms.join(' ') ?? '';
  const limits = `RCPTMAX=${maxRecipients}`;
  const parameters: Readonly<Record<string, string>> = { SIZE: `${maxSizeBytes}`, LIMITS: limits, AUTH: mechanisms };
  const extensions = settings.supports
    .filter(({ name }) => name !== 'AUTH' || mechanisms !== '')
    .map(({ name }) => ({ name, parameter: parameters[name] ?? '' }));
  const gatherer = new Gatherer(log);
  const accept = { ...common, gatherer, spoolFolder: join(dataFolder, 'spool'), storages, queue, report };
  const policy = { resolve, senderCheck, gatherer };
  const secureContext = () => certificates.secureContext;
  const envelopes = new EnvelopeBudget();
  const service = { accept, policy, authenticator, secureContext, envelopes, gatherer, log };
  const trusts = matcher(settings.trustedNetworks);
  const addresses = sharedAddresses();
  const warning =
    'behind a container proxy anyone may have these addresses: no limit per client for them (docs/docker.md)';
  if (addresses.length > 0) log.info({ addresses }, warning);
  const inherited = (await steward?.started)?.sockets ?? [];
  const opened = ({ host, port }: Settings['listen'][number]) =>
    inherited.find(socket => socket.port === port && socket.host === host);
  return new Listeners({
    sockets: settings.listen.map(socket => ({ ...socket, ...opened(socket) })),
    maxSessions,
    maxSessionsPerClient,
    isShared,
    gatherer,
    open: (socket, listener, client, onClose) => {
      const { kind } = listener;
      const isSubmission = kind !== 'smtp';
      const hides = isShared(client);
      const peer: Peer = { ...stranger, client, isShared: hides, isTrusted: trusts(client) && !hides };
      const needsTls = tls.require === 'all' || (tls.require === 'submission' && isSubmission);
      const needs = { needsTls, needsLogin: mustLogIn(peer, isSubmission), isSecure: kind === 'submissions' };
      const session = { hostname, extensions, maxSizeBytes, ...needs };
      const id = clock.now().toString(36) + random.hex(3);
      return new Connection(socket, service, { id, peer, listener, session }, onClose);
    },
  });
}
