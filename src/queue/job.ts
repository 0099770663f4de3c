// What the queue has in memory of the mail that waits: an entry is a message, a job is all of its recipients with one
// next hop, a destination is what is known of that next hop, and a turn is one run of a job. schedule.ts moves jobs
// between their states.
import type { Lane, NextHop } from '../mail/message.ts';
import type { DestinationState, Limits } from './destination.ts';
import type { Occupied } from './places.ts';

export type Entry = {
  readonly id: string;
  readonly receivedAt: number;
  readonly isNotice: boolean;
  readonly jobs: Job[];
  /**
   * At how many deaths of the process it was in flight. Where that is more than 0, its jobs are tried one at a time.
   */
  deaths: number;
};
export type Job = {
  readonly entry: Entry;
  readonly destination: Destination;
  readonly lane: Lane;
  isRunning: boolean;
  attempts: number;
  nextAt: number;
  /** When the sender is to be told that it is late; Infinity where never. */
  noticeAt: number;
  /** No notice is made before that time, because the last one could not be kept. */
  quietUntil: number;
};
export type Destination = {
  readonly hop: NextHop;
  readonly key: string;
  readonly limits: Limits;
  readonly ready: Readonly<Record<Lane, Set<Job>>>;
  lastLane: Lane;
  state: DestinationState;
  jobs: number;
  running: number;
};

/** A job that runs now. `isAttempt`: its destination is tried; else only its sender is told something. */
export type Turn = { readonly job: Job; readonly isAttempt: boolean; readonly place: Occupied };
