// What happened in each minute of the last hour: the differences of some counters.
import type { Minute } from '../mail/figures.ts';
import type { Clock } from '../system/world.ts';
import type { Counters } from './counters.ts';

const minuteMs = 60_000;
const maxMinutes = 60;
type Counts = Omit<Minute, 'at'>;

export class Trend {
  readonly #counters: Counters;
  readonly #clock: Clock;
  readonly #past: Minute[] = [];
  #begin: Counts;
  #beganAt: number;
  readonly #timer: NodeJS.Timeout;

  constructor(counters: Counters, clock: Clock) {
    this.#counters = counters;
    this.#clock = clock;
    this.#begin = countsOf(counters);
    this.#beganAt = clock.now();
    this.#timer = setInterval(() => this.tick(), minuteMs).unref();
  }

  /** To be called every minute. */
  tick(): void {
    this.#past.push(this.#current());
    if (this.#past.length >= maxMinutes) this.#past.shift();
    this.#begin = countsOf(this.#counters);
    this.#beganAt = this.#clock.now();
  }

  close(): void {
    clearInterval(this.#timer);
  }

  get minutes(): readonly Minute[] {
    return [...this.#past, this.#current()];
  }

  #current(): Minute {
    const { taken, refused, sent, deferred, failed } = countsOf(this.#counters);
    const begin = this.#begin;
    return {
      at: this.#beganAt,
      taken: taken - begin.taken,
      refused: refused - begin.refused,
      sent: sent - begin.sent,
      deferred: deferred - begin.deferred,
      failed: failed - begin.failed,
    };
  }
}

function countsOf({ messages, refused, deliveries }: Counters): Counts {
  const delivered = (result: string): number =>
    deliveries.samples.reduce((sum, { labels, value }) => sum + (labels['result'] === result ? value : 0), 0);
  return {
    taken: messages.get('delivered') + messages.get('queued'),
    refused: messages.get('refused') + refused.samples.reduce((sum, { value }) => sum + value, 0),
    sent: delivered('delivered'),
    deferred: delivered('deferred'),
    failed: delivered('failed'),
  };
}
