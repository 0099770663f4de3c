// `slimsmtp resolve ADDRESS`: a routing decision step by step, and the reply that RCPT would get. Sends nothing.
// Of an address that is not ours it says two things: what a stranger gets, and what a login gets.
import type { Settings } from '../config/settings.ts';
import type { Answers } from '../control/requests.ts';
import { type Peer, stranger } from '../inbound/peer.ts';
import { answerRecipient } from '../inbound/policy.ts';
import type { Resolve, ReturnPaths } from '../mail/ports.ts';
import { parseAddress } from '../smtp/address.ts';
import { type Reply, replies } from '../smtp/reply.ts';
import { formatReply } from '../mail/reply.ts';
import { Gatherer } from '../system/gather.ts';
import type { Log } from '../system/log.ts';
import { reasonOf } from '../system/reason.ts';

type Explained = {
  readonly resolve: Resolve;
  readonly settings: Pick<Settings, 'relay' | 'users' | 'trustedNetworks'>;
  readonly log: Log;
};

export async function explain(text: string, { resolve, settings, log }: Explained): Promise<Answers['resolve']> {
  const steps: string[] = [];
  let isElsewhere = false;
  const explained: Resolve = async (mailbox, _, local) => {
    try {
      const found = await resolve(mailbox, line => steps.push(line), local);
      isElsewhere = found.kind === 'elsewhere';
      return found;
    } catch (error) {
      steps.push(`cannot tell: ${reasonOf(error)}`);
      throw error;
    }
  };
  const gatherer = new Gatherer(log);
  const returnPaths: Pick<ReturnPaths, 'forForward'> = { forForward: async from => from };
  const address = parseAddress(text);
  const answer = async (peer: Peer, how: Resolve): Promise<Reply> => {
    if (!address) return replies.badRecipient;
    // As for a bounce: whoever else writes to an address for bounces is refused.
    return (await answerRecipient(address, peer, '', { resolve: how, returnPaths, senderCheck: 'off', gatherer }))
      .reply;
  };
  const reply = await answer(stranger, explained);
  if (!isElsewhere) return { code: reply.code, steps: [...steps, `=> ${formatReply(reply)}`] };
  const toOthers = await answer({ ...stranger, isTrusted: true }, resolve);
  const by = settings.relay
    ? `by way of ${settings.relay.host}, port ${settings.relay.port}`
    : 'to the MX hosts of the domain';
  const none = 'nobody can send there: there is no login (SLIM_USERS) and no trusted network (SLIM_TRUSTED_NETWORKS)';
  const isAnybody = settings.users.length > 0 || settings.trustedNetworks.length > 0;
  const others = isAnybody ? `from a login or a trusted network: ${formatReply(toOthers)}; it leaves ${by}` : none;
  return { code: reply.code, steps: [...steps, others, `=> from anyone else: ${formatReply(reply)}`] };
}
