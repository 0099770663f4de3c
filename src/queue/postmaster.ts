// A notice to the postmaster of this server: something that only its operator can mend. It goes through the queue, with
// the null reverse-path, so that nothing ever answers it. Its text is ours alone: nothing from the network, but ids and
// addresses in angle brackets.
import { inMemory } from '../mail/message.ts';
import type { Queue } from '../mail/ports.ts';
import type { StoredEntry } from '../mail/queue-store.ts';
import { mailDate, messageId, newId } from '../system/names.ts';
import type { Clock, Random } from '../system/world.ts';

type PostmasterOptions = Readonly<{ hostname: string; queue: () => Queue; clock: Clock; random: Random }>;

/** Tells the postmaster that a message is held because the server died three times while it was in flight alone. */
export async function tellOfKiller({ id, from, sizeBytes }: StoredEntry, options: PostmasterOptions): Promise<void> {
  await tellPostmaster('A message is held', options, [
    `The server has died three times while this message was in flight, and nothing else was:`,
    '',
    `    ${id}, ${sizeBytes} octets, from <${from.replaceAll(/[^ -~]/g, '?')}>`,
    '',
    'It is held now: it is neither tried nor given up. All other mail goes on. See the log for what killed the server.',
    'These commands show the message, let it be tried again, or remove it without telling its sender:',
    '',
    `    slimsmtp queue show ${id}`,
    `    slimsmtp queue release ${id}`,
    `    slimsmtp queue remove ${id}`,
  ]);
}

async function tellPostmaster(subject: string, options: PostmasterOptions, words: readonly string[]): Promise<void> {
  const { hostname, queue, clock, random } = options;
  const receivedAt = clock.now();
  const returnPath = 'Return-Path: <>\n';
  const lines = [
    `From: Mail Delivery System <MAILER-DAEMON@${hostname}>`,
    `To: postmaster`,
    `Date: ${mailDate(receivedAt)}`,
    `Message-ID: ${messageId(random.hex(16), hostname)}`,
    `Subject: ${subject}`,
    'Auto-Submitted: auto-generated',
    'MIME-Version: 1.0',
    'Content-Type: text/plain; charset=us-ascii',
    '',
    ...words,
    '',
  ];
  const prepared = await queue().prepare(
    {
      id: newId(receivedAt, random),
      from: '',
      isUtf8: false,
      is8Bit: false,
      receivedAt,
      returnPathBytes: returnPath.length,
      isOurs: true,
      // Where it goes is looked up when it is delivered: 'postmaster' alone always has a home.
      recipients: [{ address: 'postmaster', domain: '', routes: [] }],
    },
    inMemory(Buffer.from(returnPath), Buffer.from(lines.join('\n'))),
  );
  await prepared.commit();
}
