// Sends notices: each is a message of its own with the null sender, and goes to who sent the original through the queue.
// Promises: resolves when the notice is stable; a notice to a sender of ours goes straight to the Maildir; never a notice of
// a notice. A sender that does not exist here is logged and gets none. RFC 5321 §4.5.5 and §6.1, RFC 3461 §6.
import type { Log } from '../system/log.ts';
import { inMemory } from '../mail/message.ts';
import type { Queue, Report, Resolve } from '../mail/ports.ts';
import { toMailbox } from '../mail/address.ts';
import { parseAddress } from '../smtp/address.ts';
import type { Clock, Random } from '../system/world.ts';
import { buildNotice } from './notice.ts';

type ReportOptions = Readonly<{
  hostname: string;
  /** SLIM_QUEUE_LIFETIME: a delay notice says how long mail is tried. */
  lifetimeMs: number;
  resolve: Resolve;
  queue: () => Queue;
  clock: Clock;
  random: Random;
  log: Log;
}>;

export function createReport({ resolve, queue, log, ...options }: ReportOptions): Report {
  const { clock, random } = options;
  return async (entry, message, outcomes) => {
    const notice = await buildNotice({ entry, message, outcomes, ...options });
    if (notice === undefined) return;
    const told = outcomes.map(({ action, recipient }) => `${action} ${recipient.address}`);
    const fields = { message: entry.id, to: entry.from, outcomes: told };
    const address = parseAddress(entry.from);
    const mailbox = address && toMailbox(address);
    // 'Cannot tell' is looked up again when the notice is delivered.
    const sender = mailbox && (await resolve(mailbox).catch(() => ({ kind: 'local' as const, routes: [] })));
    if (mailbox === undefined || sender === undefined || sender.kind === 'unknown')
      return log.warn(fields, 'a notice has nobody to go to: its sender does not exist here');
    const { content, ...kind } = notice;
    const returnPath = Buffer.from('Return-Path: <>\n');
    const [skipBytes, receivedAt] = [returnPath.length, clock.now()];
    const id = receivedAt.toString(36) + random.hex(5);
    const routes = sender.kind === 'local' && { routes: sender.routes };
    const recipients = [{ address: entry.from, domain: mailbox.domain, ...routes }];
    const prepared = await queue().prepare(
      { id, from: '', ...kind, receivedAt, skipBytes, recipients },
      inMemory(returnPath, content),
    );
    await prepared.commit();
    log.info({ ...fields, notice: id }, 'a notice was sent');
  };
}
