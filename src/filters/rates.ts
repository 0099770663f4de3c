// How much one may send (SLIM_RATE_CLIENT, SLIM_RATE_LOGIN): messages of a client from outside, recipients of a login.
// Promises: memory is bounded, since counts expire and all clients share a fixed number of them; where the counts
// cannot be told, mail goes on; the log says it once a minute for each. Replicas count together, in the database; while
// it is down, each counts alone.
import { hash } from 'node:crypto';
import type { RateLimiterMemory, RateLimiterRes } from 'rate-limiter-flexible';
import type { CountStore, Filters } from '../mail/ports.ts';
import { replies } from '../smtp/reply.ts';
import type { Gatherer } from '../system/gather.ts';

/** So many in a period, which begins with the first of them. */
export type Rate = Readonly<{ count: number; periodMs: number }>;
/** Counts one more for a key, and says whether it is within the rate. */
type Count = (key: string) => Promise<boolean>;

export type RatesOptions = Readonly<{
  client: Rate | undefined;
  login: Rate | undefined;
  /** Where replicas count together; unset: in memory. */
  counts?: CountStore | undefined;
  /** Whom a limit counts: an IPv4 address, the /64 of an IPv6 one. */
  clientKey: (client: string) => string;
  gatherer: Gatherer;
}>;

export async function openRates(options: RatesOptions): Promise<Pick<Filters, 'countMessage' | 'countRecipient'>> {
  const { client, login, counts, clientKey, gatherer } = options;
  const [clients, logins] = await Promise.all([
    client && openCount('rate_client', client, counts),
    login && openCount('rate_login', login, counts),
  ]);
  const refuse = (who: string, sentence: string) => {
    gatherer.line('warn', who, { who }, sentence, 1);
    return replies.tooMuchMail;
  };
  return {
    ...(clients && {
      countMessage: async address => {
        const key = clientKey(address);
        return (await clients(shared(key)))
          ? undefined
          : refuse(key, 'a client sends more than SLIM_RATE_CLIENT allows');
      },
    }),
    ...(logins && {
      countRecipient: async name =>
        (await logins(name)) ? undefined : refuse(name, 'a login sends more than SLIM_RATE_LOGIN allows'),
    }),
  };
}

/** One of 262,144 counts: addresses are without end, and two that share a count are rare. */
const shared = (key: string): string => hash('sha256', key, 'base64').slice(0, 3);

async function openCount(name: string, { count: points, periodMs }: Rate, counts?: CountStore): Promise<Count> {
  // @ts-expect-error Its types are those of the whole package, which loads the clients of twenty databases.
  const { default: Memory } = (await import('rate-limiter-flexible/lib/RateLimiterMemory.js')) as {
    default: typeof RateLimiterMemory;
  };
  const limits = { points, duration: periodMs / 1000 };
  const memory = new Memory(limits);
  return countBy(counts ? await counts.open(name, limits, memory) : memory);
}

/**
 * A counter out of a limiter of rate-limiter-flexible, whichever store it has. An error of the store lets mail go on.
 */
export const countBy =
  (limiter: { consume(key: string): Promise<unknown> }): Count =>
  key =>
    limiter.consume(key).then(
      () => true,
      (reason: RateLimiterRes | Error) => reason instanceof Error,
    );
