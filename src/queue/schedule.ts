// What is tried when: the jobs of all messages, by destination, and which of them may begin now.
// A job (job.ts) is in one of these states, and only this file moves it between them:
// - planned: something is to happen to it later. The calendar has it for its next attempt, or for a notice of delay.
// - ready: its time has come. It waits in its destination for its turn. The calendar has it too, for the next thing
//   that its sender is to hear: that it is late, or that it is given up.
// - overdue: its sender must hear something, but its destination cannot be tried. It runs without an attempt.
// - on trial: its time has come, and its message was in flight when the process died: trial.ts says when it may run.
// - running: it has a place, and none of the above has it.
// A destination with ready jobs is in one of these states:
// - open: it may begin an attempt when there is a place;
// - blocked: it backs off;
// - waiting: too many attempts are with the IP address of its server, or the lane of notices is full;
// - full: it has all the attempts that it may have.
// Open destinations are served one after the other, so that a long queue for one takes no more than its share. A
// destination is forgotten with its last job.
import { type Lane, type NextHop, laneOf, nextHopKey, nextHopOf } from '../mail/message.ts';
import type { StoredEntry, StoredRecipient } from '../mail/queue-store.ts';
import type { Clock, Random } from '../system/world.ts';
import { sending } from './admin.ts';
import { Calendar } from './calendar.ts';
import * as destinations from './destination.ts';
import type { Destination, Entry, Job, Turn } from './job.ts';
import { Places, notices } from './places.ts';
import { pending } from './records.ts';
import { Trial } from './trial.ts';

export type ScheduleOptions = Readonly<{
  /** All mail for other servers goes to the relay, so it has one destination. */
  isRelayed: boolean;
  lifetimeMs: number;
  retryMs: readonly number[];
  delayNoticeMs: number;
  maxSessions: number;
  clock: Clock;
  random: Random;
}>;

export class Schedule {
  readonly places: Places<Destination>;
  readonly #options: ScheduleOptions;
  readonly #destinations = new Map<string, Destination>();
  readonly #calendar = new Calendar<Job>();
  readonly #open = new Set<Destination>();
  readonly #blocked = new Set<Destination>();
  readonly #overdue = new Set<Job>();
  readonly #trial: Trial<Job>;
  #ticked = 0;

  constructor(options: ScheduleOptions) {
    this.#options = options;
    this.#trial = new Trial(options.random);
    this.places = new Places(options.clock, options.maxSessions, destination => this.offer(destination));
  }

  /**
   * Makes the jobs of an entry, or its job for one destination, agree with the record. A running job is planned at its
   * end.
   */
  plan(entry: Entry, record: StoredEntry, only?: Destination): void {
    const groups = Map.groupBy(pending(record), recipient => this.#destination(recipient));
    const jobs = new Map(entry.jobs.map(job => [job.destination, job]));
    for (const destination of only ? [only] : new Set([...groups.keys(), ...jobs.keys()])) {
      const job = jobs.get(destination) ?? this.#add(entry, destination);
      if (job.isRunning) continue;
      const tried = groups.get(destination)?.filter(({ isHeld }) => !isHeld);
      if (tried?.length) this.#planFor(job, tried);
      else this.#drop(job);
    }
  }

  #planFor(job: Job, tried: readonly StoredRecipient[]): void {
    const { lifetimeMs, delayNoticeMs } = this.#options;
    job.attempts = Math.min(...tried.map(({ attempts }) => attempts));
    job.nextAt = Math.min(this.#latest(job), ...tried.map(({ nextAt }) => nextAt));
    const isUntold = delayNoticeMs < lifetimeMs && tried.some(({ isDelayTold }) => !isDelayTold);
    job.noticeAt = isUntold ? Math.max(job.entry.receivedAt + delayNoticeMs, job.quietUntil) : Infinity;
    this.#schedule(job);
  }

  /** Gives a function that finds the entry's job for a recipient. There is none for one that is done, or held. */
  jobsOf(entry: Entry): (recipient: StoredRecipient) => Job | undefined {
    const jobs = new Map(entry.jobs.map(job => [job.destination.key, job]));
    return recipient => jobs.get(nextHopKey(this.#hop(recipient)));
  }

  /** Whether a recipient belongs to the destination of a job. */
  isOf({ destination }: Job, recipient: StoredRecipient): boolean {
    return nextHopKey(this.#hop(recipient)) === destination.key;
  }

  /**
   * To be called every second: jobs whose time has come become ready, and destinations whose back-off is over become
   * open.
   */
  tick(): void {
    const now = this.#options.clock.now();
    this.places.tick();
    this.#trial.tick();
    if (now < this.#ticked) this.#replan(now);
    this.#ticked = now;
    for (const job of this.#calendar.take(now)) this.#wake(job, now);
    for (const destination of this.#blocked) this.offer(destination);
  }

  /** The turn that may begin now, if any. The caller runs it, and calls `ended`. */
  next(): Turn | undefined {
    const { places } = this;
    const mayBegin = ({ destination, lane }: Job): boolean =>
      this.#mayBegin(destination) && !this.#isWaiting(destination, lane);
    const suspect = this.#trial.next(mayBegin, places.size === 0);
    if (suspect) {
      const turn = this.#begin(suspect, true);
      this.#trial.begin(suspect, suspect.entry.deaths, () => turn.place.end());
      return turn;
    }
    if (this.#trial.isExclusive(mayBegin)) return undefined;
    if (places.isFull) {
      if (this.#overdue.size + this.#open.size > 0) places.makeRoom();
      return undefined;
    }
    const [overdue] = this.#overdue;
    if (overdue) return this.#begin(overdue, false);
    for (const destination of this.#open) {
      this.#open.delete(destination);
      const job = this.#pick(destination);
      if (job) return this.#begin(job, true);
      places.waitForNoticeLane(destination);
    }
    return undefined;
  }

  /** A turn is over, and its job was planned again, or dropped. `found`: what the attempt says of the destination. */
  ended({ job, isAttempt, place }: Turn, found: destinations.Found | undefined): void {
    const { destination } = job;
    if (isAttempt) destination.running -= 1;
    place.leave();
    this.#trial.ended(job);
    if (found === 'crowded' && place.crowdedAt !== undefined && destination.jobs > 0)
      this.places.waitForAddress(place.crowdedAt, destination);
    this.offer(destination);
  }

  /** Whether another job of the entry waits to be tried alone. */
  isOnTrial(entry: Entry): boolean {
    return entry.jobs.some(job => this.#trial.has(job));
  }

  /** Tries the job again after a first wait, because something went wrong that is no fault of the destination. */
  postpone(job: Job): void {
    job.isRunning = false;
    job.nextAt = this.#options.clock.now() + destinations.waitAfter(1, this.#options.retryMs);
    this.#schedule(job);
  }

  /** An operator says that this destination is back: all of its mail may go. */
  unblock({ destination }: Job): void {
    const { sessions } = destination.state;
    destination.state = { failures: 0, blockedUntil: 0, sessions, busyPauses: 0 };
  }

  /** Makes a destination open or blocked, as its state says, unless it waits for something else. */
  offer(destination: Destination): void {
    const { ready, state } = destination;
    const isBlocked = state.blockedUntil > this.#options.clock.now();
    if (isBlocked && destination.jobs > 0) this.#blocked.add(destination);
    else this.#blocked.delete(destination);
    const lane = ready.mail.size > 0 ? 'mail' : 'notice';
    const mayBegin = this.#mayBegin(destination) && !this.#isWaiting(destination, lane);
    if (ready[lane].size > 0 && mayBegin) this.#open.add(destination);
    else this.#open.delete(destination);
  }

  /** How many next hops have mail, and how many of them are backing off. */
  get destinations(): Readonly<{ all: number; blocked: number }> {
    return { all: this.#destinations.size, blocked: this.#blocked.size };
  }

  /** Says why a job has not been tried yet, or is not tried now; undefined where its next attempt is planned. */
  explain(job: Job): string | undefined {
    const { destination, entry } = job;
    const now = this.#options.clock.now();
    if (job.isRunning) return sending;
    if (job.nextAt > now) return undefined;
    if (this.#trial.has(job)) return 'it was in flight when the server died: it waits to be tried alone';
    if (this.#isWaiting(destination, job.lane)) {
      const waitsFor = this.places.waitsFor(destination);
      if (waitsFor === notices) return 'it waits until fewer notices are under way';
      return `it waits until fewer sessions with ${waitsFor} are open`;
    }
    const { failures, blockedUntil, reason } = destination.state;
    const why = destinations.explainState(failures, blockedUntil > now, reason);
    if (why !== undefined) return why;
    return entry.isNotice ? 'it waits for its turn, as a notice' : 'it waits for its turn';
  }

  /**
   * Whether something is full that a job of this lane needs: the address of the destination, or the lane of notices.
   */
  #isWaiting(destination: Destination, lane: Lane): boolean {
    const waitsFor = this.places.waitsFor(destination);
    return waitsFor !== undefined && (waitsFor !== notices || lane === 'notice');
  }

  #mayBegin({ state, running }: Destination): boolean {
    return destinations.mayBegin(state, running, this.#options.clock.now());
  }

  #begin(job: Job, isAttempt: boolean): Turn {
    const { destination, lane } = job;
    this.#unschedule(job);
    job.isRunning = true;
    if (isAttempt) destination.lastLane = lane;
    if (isAttempt) destination.running += 1;
    this.offer(destination);
    return { job, isAttempt, place: this.places.take(lane) };
  }

  /** The job that begins next. Mail and notices alternate. */
  #pick({ ready, lastLane, state }: Destination): Job | undefined {
    const mayNotice = ready.notice.size > 0 && !this.places.isNoticeLaneFull;
    const lane = mayNotice && (lastLane === 'mail' || ready.mail.size === 0) ? 'notice' : 'mail';
    let [job] = ready[lane];
    // The probe is the job with the fewest attempts, because the wait after it grows with the attempts.
    if (state.failures > 0) for (const other of ready[lane]) if (job && other.attempts < job.attempts) job = other;
    return job;
  }

  #hop(recipient: StoredRecipient): NextHop {
    return nextHopOf(recipient, this.#options.isRelayed);
  }

  #destination(recipient: StoredRecipient): Destination {
    const hop = this.#hop(recipient);
    const key = nextHopKey(hop);
    const found = this.#destinations.get(key);
    if (found) return found;
    const { retryMs, maxSessions } = this.#options;
    const limits = { retryMs, maxSessions: destinations.attemptsAt(hop, maxSessions) };
    const ready = { mail: new Set<Job>(), notice: new Set<Job>() };
    const state = destinations.unknownDestination(limits);
    const made: Destination = { hop, key, limits, ready, lastLane: 'notice', state, jobs: 0, running: 0 };
    this.#destinations.set(key, made);
    return made;
  }

  #add(entry: Entry, destination: Destination): Job {
    const lane = laneOf(entry.isNotice, destination.hop);
    const times = { attempts: 0, nextAt: 0, noticeAt: Infinity, quietUntil: 0 };
    const job: Job = { entry, destination, lane, isRunning: false, ...times };
    entry.jobs.push(job);
    destination.jobs += 1;
    return job;
  }

  #drop(job: Job): void {
    const { entry, destination } = job;
    this.#unschedule(job);
    entry.jobs.splice(entry.jobs.indexOf(job), 1);
    destination.jobs -= 1;
    if (destination.jobs > 0) return;
    this.#destinations.delete(destination.key);
    this.#blocked.delete(destination);
    this.places.forget(destination);
  }

  /** Puts a job among the ready ones where its time has come, and into the calendar for what comes next. */
  #schedule(job: Job): void {
    const { entry, destination, lane } = job;
    const now = this.#options.clock.now();
    this.#unschedule(job);
    const isDue = job.nextAt <= now;
    if (isDue && entry.deaths > 0) this.#trial.add(job, entry.deaths);
    else if (isDue) destination.ready[lane].add(job);
    // Nobody waits longer for a destination than its own next failure would make it wait.
    if (isDue) destination.state = destinations.notBeyond(destination.state, now, job.attempts + 1, destination.limits);
    if (isDue) this.offer(destination);
    const wakeAt = Math.min(job.noticeAt, isDue ? entry.receivedAt + this.#options.lifetimeMs : job.nextAt);
    // At the earliest in the next second: else a job that cannot run now would be woken without end.
    if (wakeAt !== Infinity) this.#calendar.plan(job, Math.max(wakeAt, now + 1));
  }

  #unschedule(job: Job): void {
    job.destination.ready[job.lane].delete(job);
    this.#overdue.delete(job);
    this.#trial.delete(job);
    this.#calendar.cancel(job);
  }

  #wake(job: Job, now: number): void {
    const { destination } = job;
    const isDue = job.nextAt <= now;
    const isLate = now >= job.noticeAt || (isDue && now >= job.entry.receivedAt + this.#options.lifetimeMs);
    // If an attempt is about to run, wait for it: its result is better news for the sender than the previous failure.
    const { failures, blockedUntil } = destination.state;
    const isWaiting = this.#isWaiting(destination, job.lane);
    const isAboutToRun = isDue && !isWaiting && (failures === 0 || blockedUntil <= now);
    this.#schedule(job);
    if (isLate && !isAboutToRun) this.#overdue.add(job);
  }

  /** The clock was put back: what was planned by the old one would come late by as much. */
  #replan(now: number): void {
    for (const destination of this.#destinations.values()) {
      const { state, limits } = destination;
      destination.state = destinations.notBeyond(state, now, state.failures, limits);
    }
    for (const job of this.#calendar.items) {
      job.nextAt = Math.min(job.nextAt, this.#latest(job));
      this.#schedule(job);
    }
  }

  /** No plan goes beyond the wait that its attempts allow, whatever the clock said when it was made. */
  #latest({ attempts }: Job): number {
    return this.#options.clock.now() + 1.1 * destinations.waitAfter(attempts, this.#options.retryMs);
  }
}
