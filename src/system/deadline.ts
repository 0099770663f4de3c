// Waits that have an end.

/** What the promise gives, or a rejection with that error where it takes longer. Whatever makes it goes on all the same. */
export async function within<T>(ms: number, promise: Promise<T>, late: () => Error): Promise<T> {
  const deadline = Promise.withResolvers<never>();
  const timer = setTimeout(() => deadline.reject(late()), ms);
  return Promise.race([promise, deadline.promise]).finally(() => clearTimeout(timer));
}
