// Slows down who guesses passwords, by client and by account, and leaves a correct login from elsewhere alone.
//
// How it works: a client may have ten failures in ten minutes. Every guess reserves a failure before it is judged, and
// what is reserved counts like a failure, because it may become one: so fifty guesses at once are judged a few at a
// time. A guess for which no failure is left to reserve waits until an earlier one has been judged; then it is judged,
// or refused. Who was wrong has the failure counted, and only then is the reservation given back; who was right, or
// could not be judged, just gives it back. So a client that gives the right password fifty times at once waits a
// moment, and is never refused. An account may have twenty failures in an hour. Beyond, it is shut for the clients that
// have failed themselves or have reserved a failure, and open for all others: a lock on the account would let anyone
// lock its owner out.
//
// Promises: asked before anything is checked, and the same for names that nobody has; memory is bounded, since counts
// expire and accounts share a fixed number of them. Loaded with the logins: a server without logins does not pay for
// it.
//
// Replicas count failures together, in the database; while it is down, each counts alone. What is reserved each knows
// of itself only: so for each replica one more guess may be judged at once.
import { hash } from 'node:crypto';
import type { RateLimiterMemory } from 'rate-limiter-flexible';
import type { CountLimits, CountStore, Counter } from '../mail/ports.ts';

const failuresOfClient = { points: 10, duration: 600 };
const failuresOfAccount = { points: 20, duration: 3600 };
/** So long a guess waits for a failure that it can reserve: longer than PAM takes for one answer. */
const longestWaitMs = 60_000;

export type ThrottleOptions = {
  /** The key by which a limit counts a client: an IPv4 address, the /64 of an IPv6 one. */
  readonly clientKey: (client: string) => string;
  /** An address behind which anyone may be (a container's gateway): never shut out as such. */
  readonly isShared: (client: string) => boolean;
  /** Where replicas count together; without it failures are counted in memory. */
  readonly counts?: CountStore | undefined;
};

/** A failure that is reserved for one guess. Exactly one of the two is called; what is called later does nothing. */
export type Reservation = {
  /** The guess was right, or could not be judged. */
  giveBack(): void;
  /** The guess was wrong. */
  countFailure(): Promise<void>;
};

export async function openThrottle({ clientKey, isShared, counts }: ThrottleOptions) {
  // The package as a whole loads the clients of twenty databases: 11 MB of memory instead of 4.
  // @ts-expect-error Its types are those of the whole.
  const { default: Memory } = (await import('rate-limiter-flexible/lib/RateLimiterMemory.js')) as {
    default: typeof RateLimiterMemory;
  };
  const open = async (name: string, limits: CountLimits): Promise<Counter> => {
    const memory = new Memory(limits);
    return counts ? counts.open(name, limits, memory) : memory;
  };
  const clients = await open('client', failuresOfClient);
  const accounts = await open('account', failuresOfAccount);
  const byClients = new Reserved();
  const byAccounts = new Reserved();
  // Strangers invent names without end; two that share a count only matter to clients that have failed themselves.
  const accountKey = (id: string): string => hash('sha256', id, 'base64').slice(0, 3);

  async function countFailure(client: string, id: string): Promise<void> {
    await Promise.all([clients.penalty(clientKey(client)), accounts.penalty(accountKey(id))]);
  }

  async function failures(client: string, id: string) {
    const [own, all] = await Promise.all([clients.get(clientKey(client)), accounts.get(accountKey(id))]);
    return { own: own?.consumedPoints ?? 0, all: all?.consumedPoints ?? 0 };
  }

  /** Whether that many failures, of the client and of the account, are too many. */
  const areTooMany = (client: string, own: number, all: number): boolean =>
    (own > failuresOfClient.points && !isShared(client)) || (own > 0 && all > failuresOfAccount.points);

  async function decide(client: string, id: string): Promise<Decision> {
    const key = clientKey(client);
    const account = accountKey(id);
    // Before the failures are read: a guess that is judged in between counts twice here, instead of not at all.
    const ownReserved = byClients.count(key);
    const allReserved = byAccounts.count(account);
    const changes = [byClients.change(key), byAccounts.change(account)].filter(change => change !== undefined);
    const { own, all } = await failures(client, id);
    if (areTooMany(client, own, all)) return { kind: 'shut' };
    if (areTooMany(client, own + ownReserved, all + allReserved)) return { kind: 'wait', changes };
    byClients.add(key);
    byAccounts.add(account);
    let isReserved = true;
    const giveBack = (): void => {
      if (!isReserved) return;
      isReserved = false;
      byClients.remove(key);
      byAccounts.remove(account);
    };
    return {
      kind: 'reserved',
      reservation: { giveBack, countFailure: () => countFailure(client, id).finally(giveBack) },
    };
  }

  /** Decisions are made one after the other: two at once could both reserve the last failure. */
  let lastDecision: Promise<unknown> = Promise.resolve();

  return {
    countFailure,

    /** Whether there were too many failures already, so that no guess will be judged. */
    async isShut(client: string, id: string): Promise<boolean> {
      const { own, all } = await failures(client, id);
      return areTooMany(client, own, all);
    },

    /**
     * Reserves a failure for one guess, at once or when others have been judged; undefined: there were too many
     * failures.
     */
    async reserve(client: string, id: string): Promise<Reservation | undefined> {
      const late = Promise.withResolvers<'late'>();
      const timer = setTimeout(late.resolve, longestWaitMs, 'late');
      try {
        for (;;) {
          const decision = lastDecision.then(() => decide(client, id));
          lastDecision = decision.catch(() => {});
          const decided = await decision;
          if (decided.kind === 'shut') return undefined;
          if (decided.kind === 'reserved') return decided.reservation;
          if ((await Promise.race([late.promise, ...decided.changes])) === 'late') return undefined;
        }
      } finally {
        clearTimeout(timer);
      }
    },
  };
}

type Decision =
  | { readonly kind: 'shut' }
  /** One of these resolves when a reservation has been given back. */
  | { readonly kind: 'wait'; readonly changes: readonly Promise<void>[] }
  | { readonly kind: 'reserved'; readonly reservation: Reservation };

/** How many failures are reserved, for each client or each account. */
class Reserved {
  readonly #keys = new Map<string, { count: number; change: PromiseWithResolvers<void> }>();

  count(key: string): number {
    return this.#keys.get(key)?.count ?? 0;
  }

  /** Resolves when the next one is given back; undefined: there is none. */
  change(key: string): Promise<void> | undefined {
    return this.#keys.get(key)?.change.promise;
  }

  add(key: string): void {
    const entry = this.#keys.get(key) ?? { count: 0, change: Promise.withResolvers<void>() };
    entry.count += 1;
    this.#keys.set(key, entry);
  }

  remove(key: string): void {
    const entry = this.#keys.get(key);
    if (!entry) return;
    entry.change.resolve();
    entry.change = Promise.withResolvers<void>();
    entry.count -= 1;
    if (entry.count === 0) this.#keys.delete(key);
  }
}
