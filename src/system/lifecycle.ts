// How a program of many parts begins and ends: parts start one after the other, and stop in reverse.
// Promises: a part starts only when all before it have started. When one cannot start, those before it are stopped. A
// part that fails to stop does not keep the others from stopping.

/** Something that is started and stopped. `start` answers with how to stop it. */
export type Part = { readonly name: string; start(): Promise<() => Promise<void>> };

/** A part by its name, its start, and its stop, which gets what the start has given. */
export function part<T>(
  name: string,
  start: () => T | Promise<T>,
  stop: (started: T) => unknown = () => undefined,
): Part {
  return {
    name,
    async start() {
      const started = await start();
      return async () => void (await stop(started));
    },
  };
}

/** Starts all parts in their order; gives how to stop them. Rejects with the error of the part that could not start. */
export async function startAll(
  parts: readonly Part[],
  onStopFailed: (name: string, error: unknown) => void,
): Promise<() => Promise<void>> {
  const started: { readonly name: string; readonly stop: () => Promise<void> }[] = [];
  const stopAll = async (): Promise<void> => {
    for (const { name, stop } of started.splice(0).toReversed())
      await stop().catch((error: unknown) => onStopFailed(name, error));
  };
  try {
    for (const { name, start } of parts) started.push({ name, stop: await start() });
  } catch (error) {
    await stopAll();
    throw error;
  }
  return stopAll;
}
