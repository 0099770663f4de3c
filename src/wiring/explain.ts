// `slimsmtp resolve ADDRESS`: a routing decision step by step, and the reply that RCPT would get. Sends nothing.
import type { Answers } from '../control/requests.ts';
import { stranger } from '../inbound/peer.ts';
import { answerRecipient } from '../inbound/policy.ts';
import type { Resolve } from '../mail/ports.ts';
import { parseAddress } from '../smtp/address.ts';
import { replies } from '../smtp/reply.ts';
import { Gatherer } from '../system/gather.ts';
import type { Log } from '../system/log.ts';

export async function explain(text: string, resolve: Resolve, log: Log): Promise<Answers['resolve']> {
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
}
