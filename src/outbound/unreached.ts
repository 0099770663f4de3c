// Addresses that could not be connected to a moment ago. They are tried last for ten minutes: else an address that
// leads nowhere, such as an IPv6 address without a route, would cost each session half a minute, although the server's
// other address is fine.
// Promise: memory is bounded; nothing is left out, only the order changes.
import { keepNewest } from '../system/newest.ts';
import type { Clock } from '../system/world.ts';

const rememberMs = 10 * 60_000;
const maxAddresses = 1000;

export class Unreached {
  readonly #clock: Clock;
  /** Until when each address is tried last; the oldest entry comes first. */
  readonly #until = new Map<string, number>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  add(address: string): void {
    keepNewest(this.#until, address, this.#clock.now() + rememberMs, maxAddresses);
  }

  delete(address: string): void {
    this.#until.delete(address);
  }

  has(address: string): boolean {
    return (this.#until.get(address) ?? 0) > this.#clock.now();
  }
}
