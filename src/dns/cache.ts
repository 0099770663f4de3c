// Answers of DNS for as long as their TTL says, the negative ones too.
// Promise: bounded in octets, and no answer older than a day. What was kept first goes first where there is no room.
import type { Clock } from '../system/world.ts';

type Limits = { readonly maxBytes: number; readonly maxSeconds: number };
const usualLimits: Limits = { maxBytes: 8 * 2 ** 20, maxSeconds: 86_400 };
/** What an entry costs beside its octets, roughly: objects, strings, the map. */
const overheadBytes = 500;

export class Cache<T> {
  readonly #clock: Clock;
  readonly #limits: Limits;
  readonly #entries = new Map<string, { readonly value: T; readonly until: number; readonly bytes: number }>();
  #bytes = 0;

  constructor(clock: Clock, limits = usualLimits) {
    this.#clock = clock;
    this.#limits = limits;
  }

  get(key: string): T | undefined {
    const entry = this.#entries.get(key);
    if (entry && entry.until > this.#clock.now()) return entry.value;
    this.#remove(key);
    return undefined;
  }

  put(key: string, value: T, ttlSeconds: number, sizeBytes: number): void {
    this.#remove(key);
    const seconds = Math.min(ttlSeconds, this.#limits.maxSeconds);
    const bytes = sizeBytes + overheadBytes;
    // A TTL is 31 bits and nothing else (RFC 2181 §8).
    if (!(seconds > 0) || ttlSeconds >= 2 ** 31 || bytes > this.#limits.maxBytes) return;
    this.#entries.set(key, { value, until: this.#clock.now() + seconds * 1000, bytes });
    this.#bytes += bytes;
    for (const oldest of this.#entries.keys()) {
      if (this.#bytes <= this.#limits.maxBytes) return;
      this.#remove(oldest);
    }
  }

  clear(): void {
    this.#entries.clear();
    this.#bytes = 0;
  }

  #remove(key: string): void {
    this.#bytes -= this.#entries.get(key)?.bytes ?? 0;
    this.#entries.delete(key);
  }
}
