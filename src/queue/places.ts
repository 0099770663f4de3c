// Who may occupy a place, and for how long. Every attempt occupies one from its beginning to its end.
// The bounds, each of them here alone:
// - 500 attempts at once. An attempt that is slow, because it has gone on for 5 s, most likely hangs, and costs no more
//   than a socket. Slow ones do not count among the 500, up to 2,000 attempts in all.
// - 50 of them for notices to other servers. Strangers decide where these go: a stranger who sends mail from addresses
//   whose servers hang fills these places, and no others.
// - SLIM_MAX_SESSIONS_OUT (20) with one IP address, whatever domains lead to it. An attempt that finds its address full
//   ends at once. Its destination waits until another attempt leaves that address.
// - When all of 2,000, or of 50, places are taken and others wait, the attempt that has gone longest without progress
//   is ended, if that is 5 s or longer.
// How many attempts one destination gets is not decided here, but in destination.ts.
import type { Lane } from '../mail/message.ts';
import type { Place } from '../mail/ports.ts';
import type { Clock } from '../system/world.ts';

const maxAttempts = 500;
const maxAttemptsInAll = 2000;
const slowMs = 5000;
const maxNotices = 50;
/** An attempt that was told to end may take so long to do it, before another is told. */
const endingMs = 1000;

/** The key of what waits for the lane of notices, among the addresses that others wait for. */
export const notices = 'notices';

/** A place that is occupied. */
export type Occupied = Place & {
  /** The last address at which `enter` said no. */
  readonly crowdedAt: string | undefined;
  /** When the attempt began, in ms since 1970. */
  readonly startedAt: number;
  /** Ends the attempt: its transport hears of it by `onEnd`. */
  end(): void;
  /** To be called once, when the attempt has ended. */
  leave(): void;
};

/** What the places do when an attempt enters an address, or leaves. */
type Owner = { enter(occupant: Occupant, address: string): boolean; leave(occupant: Occupant): void };

class Occupant implements Occupied {
  readonly lane: Lane;
  readonly #clock: Clock;
  readonly #owner: Owner;
  address: string | undefined;
  crowdedAt: string | undefined;
  onEnd: (() => void) | undefined;
  confirm: (() => Promise<boolean>) | undefined;
  startedAt: number;
  progressedAt: number;
  isSlow = false;
  /** When it was told to end, so that others may have its place. */
  endedAt: number | undefined;

  constructor(lane: Lane, clock: Clock, owner: Owner) {
    this.lane = lane;
    this.#clock = clock;
    this.#owner = owner;
    this.startedAt = clock.now();
    this.progressedAt = this.startedAt;
  }

  get isEnded(): boolean {
    return this.endedAt !== undefined;
  }

  enter(address: string): boolean {
    const isIn = this.#owner.enter(this, address);
    if (!isIn) this.crowdedAt = address;
    return isIn;
  }

  progressed(): void {
    this.progressedAt = this.#clock.now();
  }

  end(): void {
    if (this.isEnded) return;
    this.endedAt = this.#clock.now();
    this.onEnd?.();
  }

  leave(): void {
    this.#owner.leave(this);
  }
}

/** `Waiting` is what waits for an address, or for the lane of notices. */
export class Places<Waiting> {
  readonly #clock: Clock;
  readonly #maxPerAddress: number;
  readonly #onFree: (waiting: Waiting) => void;
  readonly #owner: Owner = {
    enter: (occupant, address) => this.#enter(occupant, address),
    leave: occupant => this.#leave(occupant),
  };
  readonly #occupants = new Set<Occupant>();
  readonly #atAddress = new Map<string, number>();
  readonly #waiting = new Map<string, Set<Waiting>>();
  readonly #waitsFor = new Map<Waiting, string>();
  #slow = 0;
  #notices = 0;

  /** `onFree` is called with what waits for an address, or for the lane of notices, when an attempt has left there. */
  constructor(clock: Clock, maxPerAddress: number, onFree: (waiting: Waiting) => void) {
    this.#clock = clock;
    this.#maxPerAddress = maxPerAddress;
    this.#onFree = onFree;
  }

  get size(): number {
    return this.#occupants.size;
  }

  /** How many attempts may begin now. */
  get room(): number {
    return Math.min(maxAttempts + this.#slow, maxAttemptsInAll) - this.size;
  }

  get isFull(): boolean {
    return this.room <= 0;
  }

  get isNoticeLaneFull(): boolean {
    return this.#notices >= maxNotices;
  }

  take(lane: Lane): Occupied {
    const occupant = new Occupant(lane, this.#clock, this.#owner);
    this.#occupants.add(occupant);
    if (lane === 'notice') this.#notices += 1;
    return occupant;
  }

  /** Calls `onFree` when an attempt leaves that address, or at once where the address is not full any more. */
  waitForAddress(address: string, waiting: Waiting): void {
    if (this.#roomAt(address) > 0) this.#onFree(waiting);
    else this.#wait(address, waiting);
  }

  waitForNoticeLane(waiting: Waiting): void {
    this.#wait(notices, waiting);
  }

  /** What a destination waits for: an address, or 'notices'. */
  waitsFor(waiting: Waiting): string | undefined {
    return this.#waitsFor.get(waiting);
  }

  /** Ends the wait of a destination. */
  forget(waiting: Waiting): void {
    const key = this.#waitsFor.get(waiting);
    if (key === undefined) return;
    this.#waitsFor.delete(waiting);
    const all = this.#waiting.get(key);
    all?.delete(waiting);
    if (all?.size === 0) this.#waiting.delete(key);
  }

  /**
   * Ends the attempt that has gone longest without progress, in that lane or in all. Call it while others wait for a
   * place.
   */
  makeRoom(lane?: Lane): void {
    // Only slow attempts may be ended, and below 2,000 they take no room from others.
    if (lane === undefined && this.size < maxAttemptsInAll) return;
    const now = this.#clock.now();
    let idlest: Occupant | undefined;
    for (const occupant of this.#occupants) {
      // One at a time: when the one that was told has ended there is room.
      if (now - (occupant.endedAt ?? 0) < endingMs) return;
      if (occupant.endedAt !== undefined || (lane !== undefined && occupant.lane !== lane)) continue;
      const { progressedAt } = occupant;
      if (now - progressedAt >= slowMs && progressedAt < (idlest?.progressedAt ?? now)) idlest = occupant;
    }
    idlest?.end();
  }

  /** To be called once a second: notes which attempts are slow by now, and gives room to those that wait. */
  tick(): void {
    const now = this.#clock.now();
    for (const occupant of this.#occupants) {
      // The clock was put back.
      occupant.startedAt = Math.min(occupant.startedAt, now);
      occupant.progressedAt = Math.min(occupant.progressedAt, now);
      if (occupant.isSlow || now - occupant.startedAt < slowMs) continue;
      occupant.isSlow = true;
      this.#slow += 1;
    }
    if (this.isNoticeLaneFull && this.#waiting.has(notices)) this.makeRoom('notice');
    // A destination that was woken may have used another address, so this one has room again.
    for (const [key, all] of this.#waiting)
      for (let room = this.#roomAt(key); room > 0 && all.size > 0; room -= 1) this.#free(key);
  }

  #enter(occupant: Occupant, address: string): boolean {
    if (occupant.address === address) return true;
    this.#leaveAddress(occupant);
    const there = this.#atAddress.get(address) ?? 0;
    if (there >= this.#maxPerAddress) return false;
    this.#atAddress.set(address, there + 1);
    occupant.address = address;
    return true;
  }

  #leaveAddress(occupant: Occupant): void {
    const { address } = occupant;
    if (address === undefined) return;
    occupant.address = undefined;
    const others = (this.#atAddress.get(address) ?? 1) - 1;
    if (others > 0) this.#atAddress.set(address, others);
    else this.#atAddress.delete(address);
    this.#free(address);
  }

  #leave(occupant: Occupant): void {
    this.#occupants.delete(occupant);
    if (occupant.isSlow) this.#slow -= 1;
    this.#leaveAddress(occupant);
    if (occupant.lane !== 'notice') return;
    this.#notices -= 1;
    this.#free(notices);
  }

  #roomAt(key: string): number {
    return key === notices ? maxNotices - this.#notices : this.#maxPerAddress - (this.#atAddress.get(key) ?? 0);
  }

  #wait(key: string, waiting: Waiting): void {
    if (this.#waitsFor.get(waiting) === key) return; // it keeps its position in the line
    this.forget(waiting);
    this.#waitsFor.set(waiting, key);
    const all = this.#waiting.get(key);
    if (all) all.add(waiting);
    else this.#waiting.set(key, new Set([waiting]));
  }

  /** Wakes the one that has waited longest. */
  #free(key: string): void {
    const [first] = this.#waiting.get(key) ?? [];
    if (first === undefined) return;
    this.forget(first);
    this.#onFree(first);
  }
}

/** A place that nobody takes back, for tests and tools. */
export function freePlace(): Place {
  return { isEnded: false, onEnd: undefined, enter: () => true, progressed: () => undefined };
}
