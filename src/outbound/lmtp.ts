// LMTP servers that keep mailboxes of ours (`lmtp://…` in SLIM_STORAGES). Mail goes to them from the queue, and at RCPT
// they are asked whether they have a mailbox, so that mail for one that they do not have is refused and never bounces.
// Promises: an answer is good for a minute; each question ends after ten seconds, and what cannot be told is
// CannotTell; one server that hangs holds up no question to another one; each recipient has a delivery of its own, said
// in our name; mail for the postmaster that such a server refuses for good is kept in a mailbox here.
// RFC 2033.
import { Cache } from '../dns/cache.ts';
import { within } from '../system/deadline.ts';
import { Turns } from '../system/turns.ts';
import type { Delivery, LmtpMailbox, Message, QueueRecipient } from '../mail/message.ts';
import { type AskMailbox, CannotTell, type Transport } from '../mail/ports.ts';
import { deferred } from './replies.ts';
import { type OutboundOptions, OutboundTransport } from './transport.ts';

const goodForSeconds = 60;
const maxAnswers = { maxBytes: 4 * 2 ** 20, maxSeconds: goodForSeconds };
const questionMs = 10_000;
/** So many questions are with one server at once; the others wait. */
const questionsAtOnce = 8;

/** Keeps a message in the last home of the postmaster. */
type KeepForPostmaster = (message: Message) => Promise<void>;
type Answer = Awaited<ReturnType<AskMailbox>>;

export class LmtpServers {
  readonly #transport: OutboundTransport;
  readonly #answers: Cache<Promise<Answer>>;
  /** The turns of the questions to each server. */
  readonly #turns = new Map<string, Turns>();

  constructor(options: Omit<OutboundOptions, 'isLmtp' | 'relay' | 'signer'>) {
    this.#transport = new OutboundTransport({ ...options, isLmtp: true });
    this.#answers = new Cache(options.clock, maxAnswers);
  }

  readonly ask: AskMailbox = mailbox => {
    const key = `${mailbox.server} ${mailbox.address}`;
    const kept = this.#answers.get(key);
    if (kept !== undefined) return kept;
    const answer = this.#ask(mailbox);
    this.#answers.put(key, answer, goodForSeconds, key.length);
    answer.catch(() => this.#answers.put(key, answer, 0, 0)); // a question that failed is asked anew
    return answer;
  };

  /** Makes an attempt with such a server, as every `Transport` does (src/mail/ports.ts). */
  async deliver(
    ...[keep, hop, entry, message, recipients, place]: [KeepForPostmaster, ...Parameters<Transport['deliver']>]
  ) {
    const known = recipients.map(each => ({ ...each, address: each.lmtp?.address ?? each.address }));
    const deliveries = await this.#transport.deliver(hop, entry, message, known, place);
    // The deliveries lose their `remote`, because mail that such a server has is delivered, and not relayed.
    const ours = deliveries.map(async ({ remote: _remote, ...delivery }, at): Promise<Delivery> => {
      const isKept = delivery.kind === 'failed' && isPostmaster(recipients[at]);
      return isKept ? keepHere(keep, message) : delivery;
    });
    return Promise.all(ours);
  }

  close(): void {
    this.#transport.close();
  }

  async #ask({ server, address }: LmtpMailbox): Promise<Answer> {
    const place = { isEnded: false, onEnd: undefined as (() => void) | undefined, enter: () => true, progressed() {} };
    const turns = this.#turns.get(server) ?? new Turns(questionsAtOnce);
    this.#turns.set(server, turns);
    const inquire = (): Promise<Delivery> => this.#transport.inquire({ kind: 'lmtp', server }, address, place);
    let said: Delivery;
    try {
      said = await within(questionMs, turns.take(inquire));
    } catch (error) {
      // A question that still waits for its turn then ends at once, too.
      place.isEnded = true;
      place.onEnd?.();
      throw new CannotTell(`${server} says nothing of ${address}`, { cause: error });
    }
    const { kind, status, text } = said;
    if (kind === 'delivered') return 'taken';
    if (kind === 'deferred') throw new CannotTell(`${server} cannot tell of ${address}: ${text}`);
    const isUnknown = status.startsWith('5.1.') || (status === '5.0.0' && /^55[013]/.test(text));
    return isUnknown ? 'unknown' : { refusal: status };
  }
}

const isPostmaster = (recipient: QueueRecipient | undefined): boolean =>
  recipient?.lmtp?.address.startsWith('postmaster@') === true;

async function keepHere(keep: KeepForPostmaster, message: Message): Promise<Delivery> {
  try {
    await keep(message);
    return { kind: 'delivered', status: '2.0.0', text: 'delivered to its mailbox' };
  } catch (error) {
    return deferred('4.3.0', `it cannot be stored now: ${String(error)}`);
  }
}
