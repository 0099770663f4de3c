// Sends notices: each is a message of its own with the null sender, and goes to who sent the original through the queue.
// Promises: resolves when the notice is stable; a notice to a sender of ours goes straight to the Maildir; never a notice of
// a notice. A sender that does not exist here is logged and gets none. RFC 5321 §4.5.5 and §6.1, RFC 3461 §6.
import { type Log, type Message, type Queue, type Report, type Resolve, toMailbox } from '../mail.ts';
import { parseAddress } from '../smtp/address.ts';
import type { Clock, Random } from '../system.ts';
import { buildNotice } from './notice.ts';

type ReportOptions = Readonly<{
  hostname: string;
  resolve: Resolve;
  queue: () => Queue;
  clock: Clock;
  random: Random;
  log: Log;
}>;

export function createReport({ hostname, resolve, queue, clock, random, log }: ReportOptions): Report {
  return async (entry, message, outcomes) => {
    const notice = await buildNotice({ entry, message, outcomes, hostname, clock, random });
    if (notice === undefined) return;
    const address = parseAddress(entry.from);
    const mailbox = address && toMailbox(address);
    // 'Cannot tell' is looked up again when the notice is delivered.
    const sender = mailbox && (await resolve(mailbox).catch(() => ({ kind: 'local' as const, routes: [] })));
    const fields = {
      message: entry.id,
      to: entry.from,
      outcomes: outcomes.map(({ action, recipient }) => `${action} ${recipient.address}`),
    };
    if (mailbox === undefined || sender === undefined || sender.kind === 'unknown') {
      return log.warn(fields, 'a notice has nobody to go to: its sender does not exist here');
    }
    const returnPath = Buffer.from('Return-Path: <>\n');
    const parts = [returnPath, notice.content];
    const content: Message = { kind: 'memory', parts, sizeBytes: returnPath.length + notice.content.length };
    const receivedAt = clock.now();
    const id = receivedAt.toString(36) + random.hex(5);
    const recipient = {
      address: entry.from,
      domain: mailbox.domain,
      ...(sender.kind === 'local' && { routes: sender.routes }),
    };
    const { isUtf8, is8Bit } = notice;
    const envelope = {
      id,
      from: '',
      isUtf8,
      is8Bit,
      receivedAt,
      skipBytes: returnPath.length,
      recipients: [recipient],
    };
    const prepared = await queue().prepare(envelope, content);
    await prepared.commit();
    log.info({ ...fields, notice: id }, 'a notice was sent');
  };
}
