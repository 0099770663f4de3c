// How a program of many parts begins and ends: parts start one after the other, and stop in reverse.
// Promises: a part starts only when all before it have started. When one cannot start, those before it are stopped. A
// part that fails to stop does not keep the others from stopping.

type Stop = () => unknown;
/**
 * The parts by their names, in the order in which they start. Each start answers with how to stop it, where that is
 * needed.
 */
export type Parts = Readonly<Record<string, () => Stop | void | Promise<Stop | void>>>;

/** Starts all parts in their order; gives how to stop them. Rejects with the error of the part that could not start. */
export async function startAll(
  parts: Parts,
  onStopFailed: (name: string, error: unknown) => void,
): Promise<() => Promise<void>> {
  const stops: (readonly [name: string, stop: Stop | void])[] = [];
  const stopAll = async (): Promise<void> => {
    for (const [name, stop] of stops.splice(0).toReversed())
      try {
        await stop?.();
      } catch (error) {
        onStopFailed(name, error);
      }
  };
  try {
    for (const [name, start] of Object.entries(parts)) stops.push([name, await start()]);
  } catch (error) {
    await stopAll();
    throw error;
  }
  return stopAll;
}
