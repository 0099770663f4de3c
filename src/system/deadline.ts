// Waits that have an end.

const timeout = (): Error => Object.assign(new Error('ETIMEOUT'), { code: 'ETIMEOUT' });

/**
 * What the promise gives, or a rejection where it takes longer: with the code ETIMEOUT, or with an error that says
 * more. Whatever makes the promise goes on all the same.
 */
export async function within<T>(ms: number, promise: Promise<T>, late: () => Error = timeout): Promise<T> {
  const deadline = Promise.withResolvers<never>();
  const timer = setTimeout(() => deadline.reject(late()), ms);
  return Promise.race([promise, deadline.promise]).finally(() => clearTimeout(timer));
}
