// What the queue has learnt of one destination, and what follows: until when nothing is tried there (back-off), and how
// many attempts may run side by side (concurrency). Pure: a state, and what an attempt found, give the next state.
//
// Back-off: a round in which nobody could be reached blocks the destination for the wait of SLIM_RETRY that belongs to
// the number of such rounds in a row. Then one attempt alone, the probe, finds out whether it is back. Attempts that
// ran in parallel count as one round. An answer, even a refusal, ends the back-off.
// Concurrency: a destination is given SLIM_MAX_SESSIONS_OUT sessions. One that says that it allows fewer (421 or 432)
// gets one less than were open when it said so, which is one less for each session that it refuses; so the number is
// right after one round. Each twentieth success adds a session. Nothing of that counts as an attempt for the message,
// which is tried again at once. Where the refused session was the only one, it is tried again after 1, 2, 4, 8 and 16
// seconds; then it counts as not reached.
import type { Delivery, NextHop } from '../mail/message.ts';

/** So many successes add one session. */
const successesForOneMore = 20;
const maxBusyPauses = 5;
const firstBusyPauseMs = 1000;

export type DestinationState = Readonly<{
  /** Rounds in a row in which nobody could be reached. */
  failures: number;
  /** Nothing is tried before that time, in ms since 1970. */
  blockedUntil: number;
  /** Attempts that may run side by side; a fraction is on its way to one more. */
  sessions: number;
  /** How often in a row the only session was refused as one too many. */
  busyPauses: number;
  /** Why it is blocked: what the last attempt brought. */
  reason?: Delivery | undefined;
}>;

export type Limits = Readonly<{ retryMs: readonly number[]; maxSessions: number }>;

/** What an attempt says of the destination. `crowded` says nothing: the attempt was not begun. */
export type Found = 'reached' | 'unreachable' | 'busy' | 'crowded';

/** What the queue knows of an attempt that has ended. */
export type Attempt = Readonly<{
  found: Found;
  now: number;
  /** `failures` of the destination when the attempt began: attempts of one round have the same. */
  round: number;
  /** How many other attempts with the destination run when this one ends. */
  others: number;
  /** How many attempts the message has had, this one counted. */
  attempts: number;
  /** Whether the server took the message for some of its recipients. */
  isProgress: boolean;
  reason?: Delivery | undefined;
}>;

/** Attempts at once: SLIM_MAX_SESSIONS_OUT is for other servers, and 20 are for mail that stays here. */
export const attemptsAt = ({ kind }: NextHop, maxSessions: number): number => (kind === 'here' ? 20 : maxSessions);

/** Says in a sentence why nothing is tried there now; undefined where it may be tried. */
export function explainState(failures: number, isBlocked: boolean, reason: Delivery | undefined): string | undefined {
  const said = reason === undefined ? '' : `: ${reason.status} ${reason.text}`;
  if (failures > 0) return `it waits for the probe of its destination${said}`;
  return isBlocked ? `it waits until its destination allows a session${said}` : undefined;
}

export function unknownDestination({ maxSessions }: Limits): DestinationState {
  return { failures: 0, blockedUntil: 0, sessions: maxSessions, busyPauses: 0 };
}

/** The wait after that many attempts or failures: one of SLIM_RETRY, the last one repeated. */
export function waitAfter(attempts: number, retryMs: readonly number[]): number {
  return retryMs[Math.max(0, Math.min(attempts, retryMs.length) - 1)] ?? 0;
}

export function foundBy(deliveries: readonly Delivery[]): Found {
  if (deliveries.some(({ isBusy }) => isBusy)) return 'busy';
  if (deliveries.some(({ isCrowded }) => isCrowded)) return 'crowded';
  const isReached = deliveries.length === 0 || !deliveries.every(({ isUnreachable }) => isUnreachable);
  return isReached ? 'reached' : 'unreachable';
}

/** The state after an attempt, and whether the attempt counts for the message, which then waits as SLIM_RETRY says. */
export function afterAttempt(
  state: DestinationState,
  attempt: Attempt,
  limits: Limits,
): { state: DestinationState; isCounted: boolean } {
  const { found, now, round, others, isProgress, reason } = attempt;
  switch (found) {
    case 'reached': {
      const sessions = Math.min(limits.maxSessions, state.sessions + 1 / successesForOneMore);
      return { state: { failures: 0, blockedUntil: 0, sessions, busyPauses: 0 }, isCounted: true };
    }
    case 'unreachable': {
      // Attempts that ran in parallel failed together: only the first of them counts as a round.
      if (state.failures !== round) return { state, isCounted: true };
      return { state: backOff(state, attempt, limits), isCounted: true };
    }
    case 'busy': {
      if (others > 0) {
        const sessions = Math.max(1, Math.min(Math.floor(state.sessions) - 1, others));
        return { state: { ...state, sessions, reason }, isCounted: false };
      }
      const busyPauses = isProgress ? 1 : state.busyPauses + 1;
      if (busyPauses > maxBusyPauses)
        return { state: { ...backOff(state, attempt, limits), sessions: 1, busyPauses }, isCounted: true };
      const blockedUntil = now + firstBusyPauseMs * 2 ** (busyPauses - 1);
      return { state: { ...state, blockedUntil, sessions: 1, busyPauses, reason }, isCounted: false };
    }
    case 'crowded':
      return { state: { ...state, reason }, isCounted: false };
    default:
      return found satisfies never;
  }
}

function backOff(state: DestinationState, { now, attempts, reason }: Attempt, { retryMs }: Limits): DestinationState {
  const failures = state.failures + 1;
  const waitMs = Math.min(waitAfter(failures, retryMs), waitAfter(attempts, retryMs));
  return { ...state, failures, blockedUntil: now + waitMs, reason };
}

/** Whether one more attempt may begin. */
export function mayBegin(
  { failures, blockedUntil, sessions }: DestinationState,
  running: number,
  now: number,
): boolean {
  return blockedUntil <= now && running < (failures > 0 ? 1 : Math.floor(sessions));
}

/**
 * Nobody waits longer for a destination than the next failure of its own would make it wait. Also mends a clock that
 * was put back.
 */
export function notBeyond(state: DestinationState, now: number, failures: number, limits: Limits): DestinationState {
  const latest = now + waitAfter(failures, limits.retryMs);
  return state.blockedUntil <= latest ? state : { ...state, blockedUntil: latest };
}
