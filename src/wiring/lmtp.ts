// LMTP servers that keep mailboxes of ours. Loaded with the first mail for one, or the first question.
import { join } from 'node:path';
import type { AskMailbox, Storage, Transport } from '../mail/ports.ts';
import type { LmtpServers } from '../outbound/lmtp.ts';
import { type Context, system } from './context.ts';

export function openLmtp({ settings, dns, log }: Context) {
  const { hostname, mailRoot, maxRecipientsOut: maxRecipients } = settings;
  const never = { externalTls: 'opportunistic', port: 25, isSelf: () => false } as const; // no domain leads there
  let opened: Promise<LmtpServers> | undefined;
  const servers = (): Promise<LmtpServers> =>
    (opened ??= import('../outbound/lmtp.ts').then(
      ({ LmtpServers: Servers }) => new Servers({ hostname, maxRecipients, dns, ...never, ...system, log }),
    ));
  const ask: AskMailbox = async mailbox => (await servers()).ask(mailbox);
  return {
    ask,
    /** `maildir` keeps what such a server refuses of the postmaster's mail. */
    transport(maildir: Storage): Transport {
      const home = { kind: 'maildir', path: join(mailRoot, 'postmaster'), root: mailRoot } as const;
      const keep = async (...[message]: Parameters<Parameters<LmtpServers['deliver']>[0]>): Promise<void> =>
        (await maildir.prepare([home], message)).commit();
      return { deliver: async (...attempt) => (await servers()).deliver(keep, ...attempt) };
    },
    close: async (): Promise<void> => (await opened)?.close(),
  };
}
