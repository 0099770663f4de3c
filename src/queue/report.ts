// Sends notices. Each is a message of its own with the null reverse-path, and goes through the queue to the sender of
// the original: to another server, or into a mailbox here, which the queue tries at once.
// Promises:
// - Resolves when the notice is stable in the queue.
// - Never a notice about a notice, and none to a sender that does not exist here: that is logged.
// - Nothing is read or built for a notice that nobody will get.
// RFC 5321 §4.5.5 and §6.1, RFC 3461 §6.
import { toMailbox } from '../mail/address.ts';
import type { Listen } from '../mail/event.ts';
import { type Message, copiesFor, inMemory, readMessage } from '../mail/message.ts';
import type { Queue, Report, Resolution, Resolve } from '../mail/ports.ts';
import { parseAddress } from '../smtp/address.ts';
import type { Log } from '../system/log.ts';
import type { Clock, Random } from '../system/world.ts';
import { type NoticeOptions, buildNotice, dueOutcomes, maxReturnedBytes } from './notice.ts';
import { newId } from '../system/names.ts';

type ReportOptions = Readonly<{
  hostname: string;
  /** SLIM_QUEUE_LIFETIME: a delay notice says how long mail is tried. */
  lifetimeMs: number;
  resolve: Resolve;
  queue: () => Queue;
  listen?: Listen | undefined;
  clock: Clock;
  random: Random;
  log: Log;
}>;

export function createReport({ resolve, queue, log, listen, ...options }: ReportOptions): Report {
  const { clock, random } = options;
  return async (entry, message, all) => {
    const outcomes = dueOutcomes(entry, all);
    if (outcomes.length === 0) return;
    const first = outcomes.slice(0, 20).map(({ action, recipient }) => ({ action, to: recipient.address }));
    const fields = {
      message: entry.id,
      to: entry.from,
      outcomes: first.map(({ action, to }) => `${action} ${to}`),
    };
    const tell = (as?: string): void =>
      listen?.({ kind: 'notice', message: entry.id, to: entry.from, outcomes: first, ...(as !== undefined && { as }) });
    const address = parseAddress(entry.from);
    const mailbox = address && toMailbox(address);
    // Where it cannot be told now whether the sender is here, the queue looks again when it delivers the notice.
    const sender =
      mailbox &&
      (await resolve(mailbox, undefined, address.local).catch((): Resolution => ({ kind: 'local', routes: [] })));
    if (mailbox === undefined || sender === undefined || sender.kind === 'unknown') {
      tell();
      return log.warn(fields, 'a notice has nobody to go to: its sender does not exist here');
    }

    const original = beginningOf(message, entry.returnPathBytes);
    const { content, ...kind } = buildNotice({ entry, original, outcomes, ...options });
    const returnPath = Buffer.from('Return-Path: <>\n');
    const returnPathBytes = returnPath.length;
    const receivedAt = clock.now();
    const id = newId(receivedAt, random);
    // Forwards, and mailboxes at LMTP servers, are looked up again when it is delivered.
    const isForwarded = sender.kind === 'local' && (sender.forwards ?? sender.lmtp) !== undefined;
    const routes = sender.kind === 'local' && { routes: isForwarded ? [] : copiesFor(entry.from, sender) };
    const recipients = [{ address: entry.from, domain: mailbox.domain, ...routes }];
    const prepared = await queue().prepare(
      { id, from: '', ...kind, receivedAt, returnPathBytes, isOurs: true, recipients },
      inMemory(returnPath, content),
    );
    await prepared.commit();
    log.info({ ...fields, notice: id }, 'a notice was sent');
    tell(id);
  };
}

/**
 * As much of the message as a notice may return. A file that is gone gives nothing: a notice without it is better than
 * none.
 */
function beginningOf(message: Message, returnPathBytes: number): NoticeOptions['original'] {
  let octets: Buffer;
  try {
    octets = readMessage(message, returnPathBytes, maxReturnedBytes);
  } catch {
    octets = Buffer.alloc(0);
  }
  return { octets, isWhole: message.sizeBytes - returnPathBytes <= octets.length };
}
