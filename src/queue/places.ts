// Who may occupy a place, and for how long: an attempt gets a place and gives it back at its end.
import type { Place } from '../mail/ports.ts';

/** A place that nobody takes back. */
export function freePlace(): Place {
  return { signal: new AbortController().signal, enter: () => true, progressed: () => undefined };
}
