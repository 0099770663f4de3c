// The questions to the DNS that judging a message asks: each message within its budget, and all together without
// waiting for a DNS that is down.
//
// Whether the DNS is down shows in a question that costs nobody's name server anything: for a name below `invalid`,
// which no domain has (RFC 6761 §6.4), another one each time, so that no cache knows it. It is asked when another
// question has had no answer for a while. So a domain whose own servers are silent (which may be a forger's) says
// nothing about the others. While the DNS is down no message waits: its questions fail at once, and one look a second,
// which nobody waits for, finds out whether it is back.
import { within } from '../system/deadline.ts';
import { type RecordType, type Records, failure, isNo } from '../system/dns.ts';
import { type Clock, systemRandom } from '../system/world.ts';
import { dmarcMs, maxQuestions, partsMs, questionMs } from './limits.ts';

/** Asks the DNS, in the form in which mailauth calls it. */
export type Ask = (name: string, type: string) => Promise<readonly unknown[]>;

const suspiciousMs = 1500;
const lookMs = 2500;
const betweenLooksMs = 1000;
const usualKeptMs = 5000;
const maxKept = 5000;
/** A longer answer is not kept: others' domains must not fill the memory. */
const maxKeptCharacters = 4096;
const types: ReadonlySet<string> = new Set(['A', 'AAAA', 'MX', 'NS', 'PTR', 'TXT']);
/** Errors of names that no DNS can have, because somebody made them up. They are no outage. */
const impossible = new Set(['EBADNAME', 'EBADQUERY', 'EBADSTR']);
/** Errors which mean that no server has answered. */
const unanswered = new Set(['ETIMEOUT', 'ECONNREFUSED', 'ECANCELLED']);

export class Questions {
  readonly #records: Records;
  readonly #clock: Clock;
  #isDown = false;
  #isLooking = false;
  #lookedAt = 0;
  readonly #keptMs: number;
  /** Answers, the oldest first, with the time until which they count. */
  readonly #kept = new Map<string, { readonly until: number; readonly answer: Promise<readonly unknown[]> }>();
  readonly #pending = new Set<() => void>();

  /** `keptMs`: so long an answer counts for other messages, too. */
  constructor(records: Records, clock: Clock, keptMs = usualKeptMs) {
    this.#records = records;
    this.#clock = clock;
    this.#keptMs = keptMs;
  }

  /** The questions of one message, for each part of the judgement. Nothing is asked twice. */
  forMessage(): (part: keyof typeof maxQuestions) => Ask {
    const answers = new Map<string, Promise<readonly unknown[]>>();
    const counted = new Set<string>(); // what is asked again because it has failed counts once
    const startedAt = this.#clock.now();
    return part => {
      let left: number = maxQuestions[part];
      const endsAt = startedAt + (part === 'dmarc' ? dmarcMs : partsMs);
      return async (name, type) => {
        const key = `${type} ${name.toLowerCase().replace(/\.$/, '')}`;
        const known = answers.get(key);
        if (!counted.has(key) && (left -= 1) < 0) throw tooMany(part);
        counted.add(key);
        const restMs = Math.min(questionMs, endsAt - this.#clock.now());
        if (restMs <= 0 && known === undefined) throw late();
        const asked = known ?? this.#askOrKnow(key, name, type);
        answers.set(key, asked);
        // A part that gives up leaves the question to the others: SPF may ask for a name that DMARC needs.
        asked.catch(error => isNo(error) || answers.delete(key));
        return within(Math.max(1, restMs), asked);
      };
    };
  }

  /** A domain that sends much is not asked for the same again and again. What failed is not kept. */
  #askOrKnow(key: string, name: string, type: string): Promise<readonly unknown[]> {
    const now = this.#clock.now();
    const known = this.#kept.get(key);
    if (known && known.until > now) return known.answer;
    const answer = this.#ask(name, type);
    this.#kept.delete(key);
    this.#kept.set(key, { until: now + this.#keptMs, answer });
    const forget = (): void => void (this.#kept.get(key)?.answer === answer && this.#kept.delete(key));
    answer.then(
      records => JSON.stringify(records).length > maxKeptCharacters && forget(),
      error => isNo(error) || forget(),
    );
    for (const [oldest, { until }] of this.#kept) {
      if (until > now && this.#kept.size <= maxKept) break;
      this.#kept.delete(oldest);
    }
    return answer;
  }

  async #ask(name: string, type: string): Promise<readonly unknown[]> {
    if (!types.has(type)) throw failure('ENODATA');
    if (this.#isDown) {
      if (this.#clock.now() - this.#lookedAt >= betweenLooksMs) void this.#look();
      throw late();
    }
    const end = Promise.withResolvers<never>();
    const giveUp = (): void => end.reject(late());
    this.#pending.add(giveUp);
    const suspicion = setTimeout(() => void this.#look(), suspiciousMs);
    const timer = setTimeout(giveUp, questionMs);
    try {
      const answer = await Promise.race([this.#records.records(name, type as RecordType), end.promise]);
      if (answer.length === 0) throw failure('ENODATA');
      return answer;
    } catch (error) {
      const { code = '' } = error as NodeJS.ErrnoException;
      throw impossible.has(code) ? failure('ENOTFOUND') : error;
    } finally {
      clearTimeout(suspicion);
      clearTimeout(timer);
      this.#pending.delete(giveUp);
    }
  }

  /** Finds out whether the DNS answers at all. */
  async #look(): Promise<void> {
    this.#lookedAt = this.#clock.now();
    if (this.#isLooking) return;
    this.#isLooking = true;
    this.#isDown = !(await this.#isAnswered());
    this.#isLooking = false;
    if (this.#isDown) for (const giveUp of this.#pending) giveUp();
  }

  async #isAnswered(): Promise<boolean> {
    const look = this.#records.records(`${systemRandom.hex(8)}.invalid`, 'A');
    return within(lookMs, look).then(
      () => true,
      (error: NodeJS.ErrnoException) => !unanswered.has(error.code ?? ''),
    );
  }
}

const late = (): Error => failure('ETIMEOUT');

/**
 * The error for a part of the judgement that asks more questions than its budget allows. An SPF record that needs so
 * many is wrong (RFC 7208 §4.6.4), a key beyond the budget counts as missing, and DMARC cannot be told.
 */
function tooMany(part: keyof typeof maxQuestions): Error {
  const error = failure({ spf: 'ETOOMANY', keys: 'ENOTFOUND', dmarc: 'ETIMEOUT' }[part]);
  return part === 'spf'
    ? Object.assign(error, { spfResult: { error: 'permerror', text: 'too many DNS questions' } })
    : error;
}
