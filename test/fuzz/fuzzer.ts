// A coverage-guided fuzzer: mutates what it has, keeps what runs code or takes a way through a dialogue that nothing
// before it did.
// Promises: seeded (the same seed makes the same inputs in the same order); a find comes with its input, made small; no
// input costs more time than so much per octet, and no pattern more than its length says. A target throws to say that
// an invariant is broken. Coverage is V8's own block coverage, sampled per batch: so start() must come before the
// sources are imported. It costs a third of the speed and no dependency. Limits: only code below src/ counts, in this
// process; a hang of one run is seen only at its end.
import { Session } from 'node:inspector';

export type Target = {
  readonly name: string;
  readonly seeds: readonly Buffer[];
  /** What mutations put in: words of the language, an octet a character. */
  readonly words: readonly string[];
  /**
   * Of most inputs; one in fifty may be eight times as long. Short ones are quick, and show nearly all that there is to
   * see.
   */
  readonly maxOctets: number;
  /** It works with files or sockets: asked for its coverage more often. */
  readonly isSlow?: boolean;
  /**
   * One input, whole and in pieces that `random` cuts. `note`: a feature of what happened, for guidance. Throws on a
   * find.
   */
  run(input: Buffer, random: Random, note: (feature: string) => void): void | Promise<void>;
};
type Report = Readonly<Record<'executions' | 'seconds' | 'perSecond' | 'blocks' | 'features', number>> & {
  readonly name: string;
  /** New inputs that ran code which nothing before them did. */
  readonly lasting: readonly Buffer[];
};

const maxCorpus = 4000;

/** mulberry32. */
export class Random {
  #state: number;
  /** Everything that is cut with it comes octet by octet. */
  readonly isDripping: boolean;
  constructor(seed: number, isDripping = false) {
    this.#state = seed | 0;
    this.isDripping = isDripping;
  }
  below(limit: number): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % limit;
  }
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)] as T;
  }
}

/** The octets in pieces: a few, or one each. */
export function cut(octets: Buffer, random: Random): Buffer[] {
  if (random.isDripping || (octets.length < 400 && random.below(octets.length < 60 ? 4 : 16) === 0))
    return Array.from(octets, octet => Buffer.from([octet]));
  const ends = Array.from({ length: random.below(6) }, () => random.below(octets.length + 1));
  const places = [0, ...ends.toSorted((a, b) => a - b), octets.length];
  const pieces = places.slice(1).map((end, at) => Buffer.from(octets.subarray(places[at], end)));
  return pieces.filter(({ length }) => length > 0);
}

const oddOctets = [0, 9, 10, 13, 32, 46, 127, 128, 255];
const oddNumbers = ['0', '1', '-1', '255', '4096', '65536', '999999999999999', '1000000000000000', '00000000001', ''];

function mutate(base: Buffer, random: Random, { words, maxOctets }: Target, other: Buffer): Buffer {
  const limit = random.below(50) === 0 ? 8 * maxOctets : maxOctets;
  let octets = base.subarray(0, limit);
  for (let times = 1 + random.below(5); times > 0; times -= 1)
    octets = change(octets, random, words, other, limit).subarray(0, limit);
  return octets;
}

function change(octets: Buffer, random: Random, words: readonly string[], other: Buffer, limit: number): Buffer {
  const byLines = random.below(3) === 0;
  const [from, to] = range(octets, random, byLines);
  const around = (middle: Buffer): Buffer => Buffer.concat([octets.subarray(0, from), middle, octets.subarray(to)]);
  const some = octets.subarray(from, to);
  switch (random.below(9)) {
    case 0: {
      const flipped = Buffer.from(octets);
      if (from < octets.length) flipped[from] = (octets[from] ?? 0) ^ (1 << random.below(8));
      return flipped;
    }
    case 1:
      return around(Buffer.from([random.below(2) ? random.pick(oddOctets) : random.below(256)]));
    case 2:
      return around(Buffer.alloc(0));
    case 3:
      return around(Buffer.concat([some, some]));
    case 4:
      return around(Buffer.concat([some, Buffer.from(random.pick(words), 'latin1')]));
    case 5:
      return around(Buffer.from(random.pick(words), 'latin1'));
    case 6:
      return around(other.subarray(...range(other, random, byLines)));
    case 7: {
      const text = octets.toString('latin1');
      const digits = /\d+/g;
      digits.lastIndex = from;
      const found = digits.exec(text);
      if (!found) return octets;
      const number = random.below(2) ? random.pick(oddNumbers) : String(random.below(2000));
      return Buffer.from(text.slice(0, found.index) + number + text.slice(digits.lastIndex), 'latin1');
    }
    default:
      return some.length === 0 ? octets : around(Buffer.alloc(Math.min(some.length << random.below(11), limit), some));
  }
}

/** Short ones mostly; `byLines`: from the start of a line to the start of another. */
function range(octets: Buffer, random: Random, byLines: boolean): [from: number, to: number] {
  const from = random.below(octets.length + 1);
  const to = Math.min(octets.length, from + random.below(1 << random.below(8)));
  const lineStart = (at: number): number => octets.indexOf(10, at) + 1 || octets.length;
  return byLines ? [lineStart(from), lineStart(to)] : [from, to];
}

let inspector: Session | undefined;
/** Call it before what is to be covered is imported. */
export function start(): void {
  inspector = new Session();
  inspector.connect();
  ask('Profiler.enable');
  ask('Profiler.startPreciseCoverage', { callCount: true, detailed: true });
}

type Covered = { result: { url: string; functions: { ranges: Record<string, number>[] }[]; scriptId: string }[] };
function ask(method: string, parameters = {}): Covered {
  let answer: unknown;
  inspector?.post(method, parameters, (error: Error | null, result?: object) => {
    if (error) throw new Error(JSON.stringify(error));
    answer = result;
  });
  return answer as Covered; // answers come before post returns
}

/** The blocks of src/ that ran since the last call. */
function ran(): Set<string> {
  const blocks = new Set<string>();
  if (inspector === undefined) return blocks;
  for (const { url, functions, scriptId } of ask('Profiler.takePreciseCoverage').result)
    if (url.includes('/src/') && !url.includes('node_modules'))
      for (const { ranges } of functions)
        for (const { startOffset, endOffset, count = 0 } of ranges)
          if (count > 0) blocks.add(`${scriptId}:${startOffset}:${endOffset}`);
  return blocks;
}

type Input = { readonly octets: Buffer; readonly seed: number; readonly isDripping?: boolean };

/** The seed decides which inputs come, in which order; the seconds only, how many of them. */
export async function fuzz(target: Target, { seed = 1, seconds = 2 }): Promise<Report> {
  const run = new Run(target, seed);
  const startedAt = performance.now();
  const took = (): number => (performance.now() - startedAt) / 1000;
  await run.seeds();
  let growing = 0; // a tenth of the time
  const least = target.isSlow ? 16 : 128;
  for (let size = least; took() < seconds;) {
    // Where little is new, coverage is asked for less often.
    const hasNew = await run.batch(run.mutants(size));
    size = hasNew ? Math.max(least, size / 2) : Math.min(target.isSlow ? 64 : 4096, size * 2);
    const before = took();
    if (growing * 10 < before) await run.grow();
    growing += took() - before;
  }
  const { lasting, executions, blocks, features } = run;
  const seconds10 = Math.round(took() * 10);
  const perSecond = Math.round(executions / took());
  const counts = { blocks: blocks.size, features: features.size };
  return { name: target.name, executions, seconds: seconds10 / 10, perSecond, ...counts, lasting };
}

class Run {
  readonly corpus: Buffer[] = [];
  readonly lasting: Buffer[] = [];
  readonly blocks = new Set<string>();
  readonly features = new Set<string>();
  executions = 0;
  readonly #target: Target;
  readonly #random: Random;
  readonly #growth: Random; // of its own: how often it is asked depends on the time
  #isNew = false;

  constructor(target: Target, seed: number) {
    this.#target = target;
    this.#random = new Random(seed);
    this.#growth = new Random(seed + 1);
  }

  /** What is known to be worth keeping, first. */
  async seeds(): Promise<void> {
    ran();
    const { seeds } = this.#target;
    const inputs = (seeds.length > 0 ? seeds : [Buffer.alloc(0)]).map(octets => this.#input(octets));
    for (const input of inputs) await this.#judge(input);
    this.corpus.push(...inputs.map(({ octets }) => octets));
    for (const block of ran()) this.blocks.add(block);
  }

  mutants(size: number): Input[] {
    const [random, corpus] = [this.#random, this.corpus];
    const recent = corpus.slice(-16);
    return Array.from({ length: size }, () => {
      const [one, two] = [random.pick(random.below(3) === 0 ? recent : corpus), random.pick(corpus)];
      const base = one.length < two.length || random.below(4) === 0 ? one : two;
      return this.#input(mutate(base, random, this.#target, random.pick(corpus)));
    });
  }

  /** Whether they ran code that nothing before them did. */
  async batch(inputs: readonly Input[]): Promise<boolean> {
    for (const input of inputs) {
      this.#isNew = false;
      const judging = this.#judge(input);
      if (judging) await judging; // awaiting nothing would cost more than a small run does
      if (this.#isNew) this.#keep(input);
    }
    const fresh = new Set([...ran()].filter(block => !this.blocks.has(block)));
    for (const block of fresh) this.blocks.add(block);
    if (fresh.size > 0) await this.#locate(inputs, new Set(fresh));
    return fresh.size > 0;
  }

  /**
   * Eight times as much of the same takes about eight times as long: a piece of an input, repeated, after what stands
   * before it. Every second time it comes octet by octet: what gathers pieces must not copy all of them for each new
   * one.
   */
  async grow(): Promise<void> {
    const [random, base] = [this.#growth, this.#growth.pick(this.corpus)];
    const [from, to] = range(base, random, random.below(2) === 0);
    const piece = base.subarray(from, Math.max(to, from + 1));
    if (piece.length === 0) return;
    const seed = random.below(2 ** 31);
    const isDripping = random.below(2) === 0;
    const long = (octets: number): Input => {
      const whole = Buffer.concat([base.subarray(0, from), Buffer.alloc(octets, piece), base.subarray(to)]);
      return { octets: whole, seed, isDripping };
    };
    // Copying is so fast that it shows only with more.
    const unit = isDripping ? 16 * 1024 : 8 * 1024;
    const [small, large, larger] = [long(unit), long(8 * unit), long(16 * unit)];
    for (let times = 1; times <= 3; times += 2) {
      const ms = await this.#least(large, times);
      // Linear would be 8 and 2; collecting garbage makes it more.
      if (ms < 250 || ms / (await this.#least(small, times)) < 32 || (await this.#least(larger, times)) / ms < 3)
        return;
    }
    const shown = { octets: small.octets.subarray(0, 1000), seed };
    throw described(
      this.#target,
      shown,
      new Error(`its time grows faster than it${isDripping ? ', octet by octet' : ''}`),
    );
  }

  #input(octets: Buffer): Input {
    return { octets, seed: this.#random.below(2 ** 31) };
  }

  #keep({ octets }: Input): void {
    if (this.corpus.length < maxCorpus) this.corpus.push(octets);
  }

  readonly #note = (feature: string): void => {
    if (this.features.has(feature) || this.features.size > 20_000) return;
    this.features.add(feature);
    this.#isNew = true;
  };

  #run({ octets, seed, isDripping }: Input): void | Promise<void> {
    return this.#target.run(octets, new Random(seed, isDripping), this.#note);
  }

  #judge(input: Input): void | Promise<void> {
    const startedAt = performance.now();
    const end = (): void | Promise<void> => {
      this.executions += 1;
      if (performance.now() - startedAt > allowedMs(this.#target, input)) return this.#insist(input);
    };
    try {
      const work = this.#run(input);
      return work ? work.then(end, error => this.#explain(input, error)) : end();
    } catch (error) {
      return this.#explain(input, error);
    }
  }

  /** Finds the inputs that ran the blocks which nothing else did. */
  async #locate(inputs: readonly Input[], wanted: Set<string>): Promise<void> {
    for (const half of [inputs.slice(0, inputs.length / 2), inputs.slice(inputs.length / 2)]) {
      const [first] = half;
      if (first === undefined || wanted.size === 0) continue;
      for (const input of half) await this.#run(input);
      const found = [...ran()].filter(block => wanted.has(block));
      if (found.length > 0 && half.length > 1) await this.#locate(half, wanted);
      else if (found.length > 0) {
        for (const block of found) wanted.delete(block);
        this.#keep(first);
        this.lasting.push(first.octets);
      }
    }
  }

  /** The least time of several runs: the machine may be busy. */
  async #least(input: Input, times: number): Promise<number> {
    let least = Infinity;
    for (; times > 0; times -= 1) {
      const startedAt = performance.now();
      await this.#run(input);
      least = Math.min(least, performance.now() - startedAt);
    }
    return least;
  }

  /** Only what is slow each time is slow. */
  async #insist(input: Input): Promise<void> {
    const ms = await this.#least(input, 5);
    if (ms > allowedMs(this.#target, input))
      throw described(this.#target, input, new Error(`it takes ${Math.round(ms)} ms`));
  }

  /** Throws the find, with an input that is as small as a few hundred tries make it. */
  async #explain(input: Input, error: unknown): Promise<never> {
    const first = String(error).slice(0, 60);
    const fails = async (octets: Buffer): Promise<unknown> => {
      try {
        await this.#run({ ...input, octets });
        return undefined;
      } catch (other) {
        return String(other).slice(0, 60) === first ? other : undefined;
      }
    };
    let { octets } = input;
    for (let size = octets.length >> 1; size > 0; size >>= 1)
      for (let at = 0; at + size <= octets.length && octets.length > 1;) {
        const shorter = Buffer.concat([octets.subarray(0, at), octets.subarray(at + size)]);
        if (await fails(shorter)) octets = shorter;
        else at += size;
      }
    throw described(this.#target, { ...input, octets }, (await fails(octets)) ?? error);
  }
}

/** Generous: ten times what a target needs on a slow machine; those with files wait for other things too. */
const allowedMs = ({ isSlow }: Target, { octets }: Input): number => (isSlow ? 1000 : 50) + octets.length / 20;

function described({ name }: Target, { octets, seed }: Input, cause: unknown): Error {
  const text = JSON.stringify(octets.toString('latin1'));
  return new Error(`${name}: ${String(cause)}\ninput ${text}, cut by ${seed}`, { cause });
}
