// What keeps mail: Maildirs, homes, and the queue until another server has it.
import { join } from 'node:path';
import type { Route } from '../mail/message.ts';
import type { Journal, Resolve, ReturnPaths, Signer, Storage } from '../mail/ports.ts';
import type { StoredEntry } from '../mail/queue-store.ts';
import { StsPolicies } from '../outbound/sts-policies.ts';
import { OutboundTransport } from '../outbound/transport.ts';
import { FileStore } from '../queue/files.ts';
import { FreshStore } from '../queue/fresh.ts';
import { createForward } from '../queue/forward.ts';
import { localTransport } from '../queue/local.ts';
import { tellOfKiller } from '../queue/postmaster.ts';
import { MailQueue, type QueueOptions } from '../queue/queue.ts';
import { createReport } from '../queue/report.ts';
import type { SharedQueue } from '../queue/shared.ts';
import { Suspects } from '../queue/suspects.ts';
import { MaildirStorage } from '../storage/maildir.ts';
import { mayBeAuthentic } from '../dns/servers.ts';
import { readSettingFile } from '../system/setting-file.ts';
import { Gatherer } from '../system/gather.ts';
import { type Context, selfOf, system } from './context.ts';
import type { openLmtp } from './lmtp.ts';

type Parts = Readonly<{
  resolve: Resolve;
  returnPaths: ReturnPaths;
  signer: Signer | undefined;
  lmtp: ReturnType<typeof openLmtp>;
}>;

export async function openSending(context: Context, { resolve, returnPaths, signer, lmtp }: Parts) {
  const { settings, steward, log, listen, dns, onReload } = context;
  const { hostname, relay, dataFolder, maxRecipientsOut: maxRecipients } = settings;
  const { policy: externalTls, exceptions: tlsExceptions } = settings.externalTls;
  const common = { hostname, ...system, log };
  const maildir = new MaildirStorage({ ...common, log: new Gatherer(log).asLog('storage') });
  // Without a steward this storage is never asked, because no directory has such routes then.
  const account = steward?.storage(join(dataFolder, 'spool'), system.random) ?? maildir;
  const storages: Readonly<Record<Route['kind'], Storage>> = { maildir, account };
  const isSelf = selfOf(hostname);
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
  const forward = createForward({ ...system, returnPaths, listen, queue: () => kept.queue });
  const here = localTransport({ storages, resolve, remote, isRelayed, forward });
  const report = createReport({ ...common, ...settings.queue, resolve, listen, queue: () => kept.queue });
  const options = {
    ...common,
    ...settings.queue,
    isRelayed,
    listen,
    maxSessions: settings.maxSessionsOut,
    transports: { here, lmtp: lmtp.transport(maildir), relay: remote, domain: remote },
    report,
    onKiller: (record: StoredEntry) => tellOfKiller(record, { ...common, queue: () => kept.queue }),
  };
  const kept: Kept = settings.sharesQueue
    ? await (await import('./sharing.ts')).openSharedQueue(settings, remote, options)
    : openDiskQueue(dataFolder, options);
  return { storages, maildir, remote, report, ...kept };
}

/** The queue, wherever it keeps its mail. */
export type Kept = Readonly<{
  queue: MailQueue | SharedQueue;
  use: (journal: Journal | undefined) => void;
  start: () => Promise<void>;
  /**
   * To be called when no more mail comes: gives files to all that has none yet, or leaves the mail to other replicas.
   */
  settle: () => Promise<void>;
}>;

function openDiskQueue(dataFolder: string, options: Omit<QueueOptions, 'store' | 'suspects'>): Kept {
  const { log } = options;
  const store = new FreshStore(new FileStore(join(dataFolder, 'queue'), log), log);
  const suspects = new Suspects(join(dataFolder, 'state', 'in-flight'), log);
  const queue = new MailQueue({ ...options, store, suspects });
  return { queue, use: journal => store.use(journal), start: () => queue.start(), settle: () => store.settle() };
}
