// Maps that have a bound: what was put in first goes first.

/**
 * Puts an entry behind all others, also where it stood before, and lets the oldest go where there are more than `max`.
 */
export function keepNewest<K, V>(map: Map<K, V>, key: K, value: V, max: number): void {
  map.delete(key);
  map.set(key, value);
  for (const oldest of map.keys()) {
    if (map.size <= max) return;
    map.delete(oldest);
  }
}
