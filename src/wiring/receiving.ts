// What takes mail from the network: who may log in, the certificate, the listening sockets and their sessions.
import { scryptSync } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { createAuthenticator } from '../auth/chain.ts';
import type { TablePasswords } from '../auth/sources.ts';
import type { Pem, Settings } from '../config/settings.ts';
import type { AcceptOptions } from '../inbound/accept.ts';
import { loopCheck } from '../inbound/checks.ts';
import { forwardCheck } from '../inbound/forward-check.ts';
import { Connection, type Service } from '../inbound/connection.ts';
import { EnvelopeBudget } from '../inbound/envelopes.ts';
import { type ListenSocket, Listeners } from '../inbound/listener.ts';
import { type Peer, clientKey, stranger } from '../inbound/peer.ts';
import { answersBy, meet, termsFor } from '../inbound/policy.ts';
import { isShared, matcher, sharedAddresses } from '../inbound/shared-addresses.ts';
import type { Authenticator, CountStore, Resolve, ReturnPaths } from '../mail/ports.ts';
import { type SessionOptions, maxRecipients } from '../smtp/session.ts';
import { Gatherer } from '../system/gather.ts';
import type { Log } from '../system/log.ts';
import { Certificates, type Pair } from '../tls/certificates.ts';
import { certifiedPair } from './acme.ts';
import { type Context, system } from './context.ts';
import { openFilters, openSpamChecks } from './filtering.ts';
import { openJudging } from './judging.ts';
import { newId } from '../system/names.ts';

type LoginParts = { readonly tablePasswords: TablePasswords | undefined; readonly counts: CountStore | undefined };
const differing =
  'SLIM_SRS_SECRET is not set: replicas make up different challenges, by which strangers can tell which logins exist';

/** Opens the check of logins; undefined where nobody may log in, and AUTH is not offered. */
export async function openLogins({ settings, steward, log }: Context, { tablePasswords, counts }: LoginParts) {
  const { users, domains, supports, dataFolder, sharesQueue, srsSecret } = settings;
  if (users.length === 0) return undefined;
  const offered = supports.find(({ name }) => name === 'AUTH')?.parameter?.split(' ');
  const sources = { users, steward, tablePasswords, mainDomain: domains[0] ?? '', folder: join(dataFolder, 'state') };
  // While logins cannot be checked, anybody can make it write a line for each attempt.
  const gathered = new Gatherer(log).asLog('logins');
  if (sharesQueue && srsSecret === undefined) log.warn({}, differing);
  // It is slow to derive, because strangers are shown what is drawn from it.
  const commonSecret = sharesQueue && srsSecret ? scryptSync(srsSecret, 'challenges', 20).toString('hex') : undefined;
  const throttle = { isShared, clientKey, counts };
  return createAuthenticator({ ...sources, offered, commonSecret, ...throttle, ...system, log: gathered });
}

type Parts = Pick<AcceptOptions, 'storages' | 'queue' | 'report'> & {
  readonly resolve: Resolve;
  readonly returnPaths: ReturnPaths;
  readonly authenticator: Authenticator | undefined;
  /** Where replicas count together; unset: in memory. */
  readonly counts?: CountStore | undefined;
};
/** What is different where mail is captured, for each session. */
export type Capturing = {
  terms(listener: ListenSocket): Partial<SessionOptions>;
  service(usual: Service, socket: Socket): Service;
};

/** Opens what takes mail from the network. */
export async function openInbound(context: Context, parts: Parts, capturing?: Capturing) {
  const { settings, steward, log, listen, onReload } = context;
  const { resolve, returnPaths, storages, queue, report, authenticator, counts } = parts;
  const { hostname, maxSizeBytes, tls, dataFolder, senderCheck, maxSessions, maxSessionsPerClient } = settings;
  const { cert, key, minVersion } = tls;
  const common = { hostname, ...system, log };
  const readPem = async ({ text, file = '' }: Pem): Promise<string> => text ?? readFile(file, 'utf8');
  const readPair = async (): Promise<Pair | undefined> => {
    if (!cert || !key) return undefined;
    const files = await steward?.readTlsFiles();
    return { cert: files?.cert ?? (await readPem(cert)), key: files?.key ?? (await readPem(key)) };
  };
  const readCertified = await certifiedPair(settings);
  const source = readCertified ? { readPair: readCertified, isOurs: true } : { readPair };
  const certificates = await Certificates.open({ ...common, ...source, folder: join(dataFolder, 'tls'), minVersion });
  onReload(() => void certificates.check());

  const mechanisms = authenticator?.mechanisms.join(' ') ?? '';
  const limits = `RCPTMAX=${maxRecipients}`;
  const parameters: Readonly<Record<string, string>> = { SIZE: `${maxSizeBytes}`, LIMITS: limits, AUTH: mechanisms };
  const extensions = settings.supports
    .filter(({ name }) => name !== 'AUTH' || mechanisms !== '')
    .map(({ name }) => ({ name, parameter: parameters[name] ?? '' }));
  const gatherer = new Gatherer(log);
  const filters = await openFilters(context, gatherer, counts);
  const policy = { resolve, returnPaths, senderCheck, gatherer, filters };
  /** The checks of whole messages, in the order in which they are asked. */
  const checks = [loopCheck, forwardCheck, ...(await openJudging(settings, gatherer, { log, listen }))];
  checks.push(...(await openSpamChecks(context, gatherer)));
  // Where we sign, we answer for the author, too.
  if (settings.dkim && senderCheck !== 'off') checks.push((await import('../inbound/from-check.ts')).fromCheck(policy));
  const spoolFolder = join(dataFolder, 'spool');
  const accept = { ...common, gatherer, spoolFolder, storages, queue, report, checks, listen };
  const secureContext = (kind: ListenSocket['kind']) => certificates.contextFor(kind);
  const envelopes = new EnvelopeBudget();
  const answers = answersBy(policy);
  const service = { accept, answers, authenticator, secureContext, envelopes, gatherer, log };
  const trusts = matcher(settings.trustedNetworks);
  tellShared(trusts, log);
  const inherited = (await steward?.started)?.sockets ?? [];
  const opened = ({ host, port }: Settings['listen'][number]) =>
    inherited.find(socket => socket.port === port && socket.host === host);
  const listeners = new Listeners({
    sockets: settings.listen.map(socket => ({ ...socket, ...opened(socket) })),
    maxSessions,
    maxSessionsPerClient,
    isShared,
    gatherer,
    listen,
    introduce: await openIntroductions(settings, gatherer, log),
    open: (socket, listener, { client, isProxys }, onClose) => {
      const hides = isShared(client);
      const peer: Peer = { ...stranger, client, isShared: hides, isTrusted: trusts(client) && !hides && !isProxys };
      if (listener.kind === 'smtp' && !isProxys) meet(peer, policy);
      const terms = { ...termsFor(peer, listener.kind, tls.require), ...capturing?.terms(listener) };
      const session = { hostname, extensions, maxSizeBytes, ...terms };
      const id = newId(system.clock.now(), system.random, 3);
      const caller = { id, peer, listener, session };
      return new Connection(socket, capturing?.service(service, socket) ?? service, caller, onClose);
    },
  });
  return { listeners, certificates };
}

/** Opens what reads the headers of proxies; undefined where there are no proxies. */
async function openIntroductions({ proxyNetworks: networks }: Settings, gatherer: Gatherer, log: Log) {
  if (networks.length === 0) return undefined;
  const refused = sharedAddresses().filter(matcher(networks));
  const closed = 'SLIM_PROXY_NETWORKS: connections from these addresses are closed (docs/docker.md)';
  if (refused.length > 0) log.warn({ addresses: refused }, closed);
  const { openProxies } = await import('../inbound/proxy.ts');
  return openProxies({ networks, isShared, gatherer });
}

/**
 * In a container a stranger may come through a proxy, with the address of the gateway: what that means is told once.
 */
function tellShared(trusts: (client: string) => boolean, log: Log): void {
  const addresses = sharedAddresses();
  const limits =
    'in a container: clients of a proxy share these addresses, so no limit per client holds for them (docs/docker.md)';
  if (addresses.length > 0) log.info({ addresses }, limits);
  const trustedInVain = addresses.filter(trusts);
  const trust =
    'SLIM_TRUSTED_NETWORKS has no effect for these addresses: in a container anyone may come from them (docs/docker.md)';
  if (trustedInVain.length > 0) log.warn({ addresses: trustedInVain }, trust);
}
