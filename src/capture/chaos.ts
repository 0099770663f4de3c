// Failures by chance, as Mailpit's API has them: at MAIL, at RCPT and at AUTH, each with a code and a probability in
// percent.
import type { Random } from '../system/world.ts';

const names = ['Authentication', 'Recipient', 'Sender'] as const;
type ChaosName = (typeof names)[number];
type Trigger = { readonly ErrorCode: number; readonly Probability: number };
type Triggers = Readonly<Record<ChaosName, Trigger>>;

const off: Trigger = { ErrorCode: 451, Probability: 0 };
const isBetween = (value: unknown, low: number, high: number): value is number =>
  Number.isInteger(value) && (value as number) >= low && (value as number) <= high;

/** Parses triggers as they came from a client; those that it leaves out are off. Throws an error with a sentence. */
export function parseTriggers(given: unknown): Triggers {
  const wanted = (typeof given === 'object' && given !== null ? given : {}) as Record<
    string,
    Partial<Trigger> | undefined
  >;
  const entries = names.map(name => {
    const { ErrorCode = 451, Probability = 0 } = wanted[name] ?? off;
    if (!isBetween(ErrorCode, 400, 599)) throw new Error(`${name}: ErrorCode must be a number from 400 to 599.`);
    if (!isBetween(Probability, 0, 100)) throw new Error(`${name}: Probability must be a number from 0 to 100.`);
    return [name, { ErrorCode, Probability }] as const;
  });
  return Object.fromEntries(entries) as Triggers;
}

export class Chaos {
  readonly #random: Random;
  triggers: Triggers = parseTriggers({});

  constructor(random: Random) {
    this.#random = random;
  }

  /** The code with which to refuse this time; undefined where nothing is to fail. */
  strikes(name: ChaosName): number | undefined {
    const { ErrorCode, Probability } = this.triggers[name];
    return Probability > 0 && this.#random.below(100) < Probability ? ErrorCode : undefined;
  }
}
