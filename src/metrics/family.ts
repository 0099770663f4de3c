// Numbers that grow, told apart by labels: counters and histograms. A set of labels whose values are known from the
// start is there from the start, as 0, so that a rate over it never begins with its first event.
import type { Metric, Sample } from '../mail/figures.ts';

/** The labels of a family, each with the values that are known in advance. */
type Labels = Readonly<Record<string, readonly string[]>>;

/** Every choice of one value for each label. */
function choices(labels: Labels): readonly (readonly string[])[] {
  let all: readonly (readonly string[])[] = [[]];
  for (const values of Object.values(labels)) all = all.flatMap(begun => values.map(value => [...begun, value]));
  return all;
}

/** The numbers of one set of labels. */
type Row<T> = { readonly labels: Sample['labels']; readonly numbers: T };

class Rows<T> {
  readonly #names: readonly string[];
  readonly #make: () => T;
  readonly #rows = new Map<string, Row<T>>();

  constructor(labels: Labels, make: () => T) {
    this.#names = Object.keys(labels);
    this.#make = make;
    for (const choice of choices(labels)) this.of(choice);
  }

  /** The numbers for these values, in the order of the labels. */
  of(values: readonly string[]): T {
    const key = values.join('\n');
    const found = this.#rows.get(key);
    if (found) return found.numbers;
    const labels = Object.fromEntries(this.#names.map((name, at) => [name, values[at] ?? '']));
    const made = { labels, numbers: this.#make() };
    this.#rows.set(key, made);
    return made.numbers;
  }

  *[Symbol.iterator](): Iterator<Row<T>> {
    yield* this.#rows.values();
  }
}

export class Counter {
  readonly #what: Pick<Metric, 'name' | 'help'>;
  readonly #rows: Rows<{ value: number }>;

  constructor(name: string, help: string, labels: Labels = {}) {
    this.#what = { name, help };
    this.#rows = new Rows(labels, () => ({ value: 0 }));
  }

  add(values: readonly string[] = [], by = 1): void {
    this.#rows.of(values).value += by;
  }

  get(...values: string[]): number {
    return this.#rows.of(values).value;
  }

  /** The labels and values of all rows. */
  get samples(): readonly Sample[] {
    return [...this.#rows].map(({ labels, numbers }) => ({ labels, value: numbers.value }));
  }

  get metric(): Metric {
    return { ...this.#what, type: 'counter', samples: this.samples };
  }
}

/** How many were at most so large, for each of some bounds; in seconds. */
export class Histogram {
  readonly #what: Pick<Metric, 'name' | 'help'>;
  readonly #bounds: readonly number[];
  readonly #rows: Rows<{ readonly counts: number[]; sum: number }>;

  /** `bounds`: in rising order; the last one, infinity, is added. */
  constructor(name: string, help: string, bounds: readonly number[], labels: Labels = {}) {
    this.#what = { name, help };
    this.#bounds = [...bounds, Infinity];
    this.#rows = new Rows(labels, () => ({ counts: this.#bounds.map(() => 0), sum: 0 }));
  }

  observe(seconds: number, ...values: string[]): void {
    const numbers = this.#rows.of(values);
    const at = this.#bounds.findIndex(bound => seconds <= bound);
    numbers.counts[at] = (numbers.counts[at] ?? 0) + 1;
    numbers.sum += seconds;
  }

  get metric(): Metric {
    const samples = [...this.#rows].flatMap(({ labels, numbers: { counts, sum } }): Sample[] => {
      let below = 0;
      const buckets = this.#bounds.map((bound, at) => {
        below += counts[at] ?? 0;
        const le = bound === Infinity ? '+Inf' : String(bound);
        return { labels: { ...labels, le }, value: below, part: 'bucket' as const };
      });
      return [...buckets, { labels, value: sum, part: 'sum' }, { labels, value: below, part: 'count' }];
    });
    return { ...this.#what, type: 'histogram', samples };
  }
}
