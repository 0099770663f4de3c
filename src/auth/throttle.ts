// Slows down who guesses passwords, by client and by account, and leaves a correct login from elsewhere alone.
// Promises: asked before anything is checked, and the same for names that nobody has; memory is bounded, since counts
// expire and accounts share a fixed number of them. Loaded with the logins: who offers none does not pay for it.
import { hash } from 'node:crypto';
import type { RateLimiterMemory } from 'rate-limiter-flexible';

const failuresOfClient = { points: 10, duration: 600 };
const failuresOfAccount = { points: 20, duration: 3600 };

export type ThrottleOptions = {
  /** Whom a limit counts: an IPv4 address, the /64 of an IPv6 one. */
  readonly clientKey: (client: string) => string;
  /** An address behind which anyone may be (a container's gateway): never shut out as such. */
  readonly isShared: (client: string) => boolean;
};

export async function openThrottle({ clientKey, isShared }: ThrottleOptions) {
  // The package as a whole loads the clients of twenty databases: 11 MB of memory instead of 4.
  // @ts-expect-error Its types are those of the whole.
  const { default: Memory } = (await import('rate-limiter-flexible/lib/RateLimiterMemory.js')) as {
    default: typeof RateLimiterMemory;
  };
  const [clients, accounts] = [new Memory(failuresOfClient), new Memory(failuresOfAccount)];
  // Strangers invent names without end; two that share a count only matter to clients that have failed themselves.
  const accountKey = (id: string): string => hash('sha256', id, 'base64').slice(0, 3);

  return {
    async isShut(client: string, id: string): Promise<boolean> {
      const own = (await clients.get(clientKey(client)))?.consumedPoints ?? 0;
      if (own > failuresOfClient.points && !isShared(client)) return true;
      return own > 0 && ((await accounts.get(accountKey(id)))?.consumedPoints ?? 0) > failuresOfAccount.points;
    },
    async countFailure(client: string, id: string): Promise<void> {
      await clients.penalty(clientKey(client));
      await accounts.penalty(accountKey(id));
    },
  };
}

export type Throttle = Awaited<ReturnType<typeof openThrottle>>;
