// What keeps mail: Maildirs, homes, and the queue until another server has it.
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import type { Route } from '../mail/message.ts';
import type { Resolve, ReturnPaths, Signer, Storage } from '../mail/ports.ts';
import { StsPolicies } from '../outbound/sts-policies.ts';
import { OutboundTransport } from '../outbound/transport.ts';
import { FileStore } from '../queue/files.ts';
import { FreshStore } from '../queue/fresh.ts';
import { createForward } from '../queue/forward.ts';
import { localTransport } from '../queue/local.ts';
import { tellOfKiller } from '../queue/postmaster.ts';
import { MailQueue } from '../queue/queue.ts';
import { createReport } from '../queue/report.ts';
import { Suspects } from '../queue/suspects.ts';
import { MaildirStorage } from '../storage/maildir.ts';
import { mayBeAuthentic } from '../dns/servers.ts';
import { readSettingFile } from '../system/setting-file.ts';
import { Gatherer } from '../system/gather.ts';
import { type Context, system } from './context.ts';

type Parts = Readonly<{ resolve: Resolve; returnPaths: ReturnPaths; signer: Signer | undefined }>;

export function openSending(context: Context, { resolve, returnPaths, signer }: Parts) {
  const { settings, steward, log, dns, onReload } = context;
  const { hostname, relay, dataFolder, maxRecipientsOut: maxRecipients } = settings;
  const { policy: externalTls, exceptions: tlsExceptions } = settings.externalTls;
  const common = { hostname, ...system, log };
  const maildir = new MaildirStorage({ ...common, log: new Gatherer(log).asLog('storage') });
  // Never asked without a steward: then no directory has such routes.
  const account = steward?.storage(join(dataFolder, 'spool'), system.random) ?? maildir;
  const storages: Readonly<Record<Route['kind'], Storage>> = { maildir, account };
  const own = new Set(Object.values(networkInterfaces()).flatMap(list => (list ?? []).map(({ address }) => address)));
  const isSelf = (host: string): boolean => host === hostname || own.has(host);
  const { user, passwordFile } = relay ?? {};
  const readLogin = async () => (user && passwordFile ? { user, password: readSettingFile(passwordFile) } : undefined);
  if (relay === undefined && !mayBeAuthentic(settings.resolver))
    log.info({}, 'DANE is off: no DNS server is named whose DNSSEC is believed; see SLIM_RESOLVER');
  const stsFile = join(dataFolder, 'state', 'mta-sts.json');
  const sts = new StsPolicies({ ...common, dns, isSelf, file: stsFile });
  const findSts = (domain: string) => sts.find(domain);
  const hops = { relay, externalTls, tlsExceptions, findSts, port: 25, dns, isSelf };
  const remote = new OutboundTransport({ ...common, ...hops, maxRecipients, readLogin, signer });
  onReload(() => void remote.readLogin());
  const isRelayed = relay !== undefined;
  const forward = createForward({ ...system, returnPaths, queue: () => queue });
  const here = localTransport({ storages, resolve, remote, isRelayed, forward });
  const transports = { here, relay: remote, domain: remote };
  const report = createReport({ ...common, ...settings.queue, resolve, queue: () => queue });
  const store = new FreshStore(new FileStore(join(dataFolder, 'queue'), log), log);
  const queue: MailQueue = new MailQueue({
    ...common,
    ...settings.queue,
    isRelayed,
    maxSessions: settings.maxSessionsOut,
    store,
    suspects: new Suspects(join(dataFolder, 'state', 'in-flight'), log),
    transports,
    report,
    onKiller: record => tellOfKiller(record, { ...common, queue: () => queue }),
  });
  return { storages, maildir, remote, store, queue, report };
}
