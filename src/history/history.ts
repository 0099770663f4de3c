// Keeps the life events of messages for some days, for `slimsmtp trace`.
// How: lines are gathered in memory and appended a few times a second, without fsync: a crash costs the last moments of
// the history, and never mail. A file is closed when it is a sixteenth of all that may be kept, or a seventh of the
// time old; then the oldest go, until there is room and none is too old.
// Promises: never more than `maxBytes` on the disk and 4 MiB in memory; never throws; what cannot be written is counted
// and left out. What strangers can cause for nothing (refusals) is written 60 times a minute for each client, as in the
// log, so that nobody can push the history of others out.
import fs from 'node:fs';
import { join } from 'node:path';
import type { Event } from '../mail/event.ts';
import { Gatherer } from '../system/gather.ts';
import type { Log } from '../system/log.ts';
import type { Clock } from '../system/world.ts';
import { filesIn, nameFor } from './file-names.ts';
import { namesOf } from './search.ts';

/** The history of all replicas. Both functions reject where it cannot be reached. */
interface Shared {
  append(events: readonly SharedEvent[]): Promise<void>;
  prune(before: number): Promise<void>;
}
type SharedEvent = Readonly<{ at: number; message: string; names: readonly string[]; line: string }>;

type HistoryOptions = Readonly<{
  folder: string;
  /** SLIM_HISTORY. */
  lifetimeMs: number;
  maxBytes: number;
  /** The history in the database, which all replicas share; each keeps its own in files besides. */
  table?: Shared | undefined;
  /** The key by which the bound on refusals counts a client. */
  clientKey: (client: string) => string;
  clock: Clock;
  log: Log;
}>;

const writeEveryMs = 300;
const maxWaitingLength = 4 * 1024 * 1024;
const files = 16;
const fileLives = 7;
const complainEveryMs = 60_000;
const pruneEveryMs = 3600_000;

type Open = { readonly fd: number; readonly beganAt: number; octets: number };

export class History {
  readonly #options: HistoryOptions;
  readonly #refusals: Gatherer;
  readonly #timers: readonly NodeJS.Timeout[];
  #lines: string[] = [];
  #length = 0;
  #file: Open | undefined;
  #writing: Promise<void> | undefined;
  #forAll: SharedEvent[] = [];
  #sharing: Promise<void> | undefined;
  #complainedAt = -Infinity;
  /** How many events could not be written. */
  lost = 0;

  constructor(options: HistoryOptions) {
    this.#options = options;
    const keep = (event: object): void => this.#add(event as Event);
    this.#refusals = new Gatherer({ debug: keep, info: keep, warn: keep, error: keep });
    this.#timers = [
      setInterval(() => void this.write(), writeEveryMs).unref(),
      setInterval(() => this.#prune(), pruneEveryMs).unref(),
    ];
  }

  hear(event: Event): void {
    switch (event.kind) {
      case 'refused':
        return this.#refusals.line('info', this.#options.clientKey(event.client), event, 'refused');
      case 'message':
        if (event.result === 'delivered' || event.result === 'queued') return this.#add(event);
        return this.#refusals.line('info', this.#options.clientKey(event.client), event, 'message');
      case 'attempt':
      case 'notice':
      case 'forward':
      case 'order':
        return this.#add(event);
      case 'turned away':
      case 'session':
      case 'login':
      case 'child':
        return undefined; // such an event belongs to no message
      default:
        return event satisfies never;
    }
  }

  /** Writes what has been gathered. Never rejects. */
  write(): Promise<void> {
    return (this.#writing ??= this.#writeAll().finally(() => (this.#writing = undefined)));
  }

  /** Writes the last lines. */
  async close(): Promise<void> {
    for (const timer of this.#timers) clearInterval(timer);
    await this.#writing;
    await this.write();
    await this.#sharing;
    if (this.#file) fs.closeSync(this.#file.fd);
    this.#file = undefined;
  }

  #add(event: Event): void {
    if (this.#length > maxWaitingLength) return void (this.lost += 1);
    const at = this.#options.clock.now();
    // Not `{ at, ...event }`: that copies each event.
    const line = `{"at":${at},${JSON.stringify(event).slice(1)}\n`;
    this.#lines.push(line);
    if (this.#options.table)
      this.#forAll.push({
        at,
        message: 'message' in event ? event.message : '',
        names: namesOf(event),
        line: line.trimEnd(),
      });
    this.#length += line.length;
  }

  async #writeAll(): Promise<void> {
    if (this.#length === 0) return;
    this.#share();
    const count = this.#lines.length;
    const octets = Buffer.from(this.#lines.join(''));
    this.#lines = [];
    this.#length = 0;
    try {
      const file = (this.#file = this.#fileFor(octets.length));
      await new Promise<void>((resolve, reject) =>
        fs.write(file.fd, octets, (error, written) => {
          if (error ?? written < octets.length) reject(error ?? new Error('the disk is full'));
          else resolve();
        }),
      );
      file.octets += octets.length;
    } catch (error) {
      this.lost += count;
      this.#complain(error);
    }
  }

  #complain(error: unknown): void {
    const now = this.#options.clock.now();
    if (now - this.#complainedAt < complainEveryMs) return;
    this.#complainedAt = now;
    this.#options.log.warn({ lost: this.lost, error: String(error) }, 'the history cannot be written now');
  }

  /**
   * Tells the other replicas, and does not wait: a database that hangs holds up no file. Events that come meanwhile are
   * lost for the others.
   */
  #share(): void {
    const events = this.#forAll.splice(0);
    if (events.length === 0) return;
    if (this.#sharing) return void (this.lost += events.length);
    this.#sharing = this.#options.table
      ?.append(events)
      .catch((error: unknown) => {
        this.lost += events.length;
        this.#complain(error);
      })
      .finally(() => (this.#sharing = undefined));
  }

  /** Removes what is too old, also where nothing happens any more. */
  #prune(): void {
    const { folder, lifetimeMs, maxBytes, clock, table } = this.#options;
    table?.prune(clock.now() - lifetimeMs).catch((error: unknown) => this.#complain(error));
    try {
      prune(folder, clock.now() - lifetimeMs, maxBytes);
    } catch (error) {
      this.#complain(error);
    }
  }

  /** The open file, or a new one in its place when it is large or old. */
  #fileFor(octets: number): Open {
    const { folder, lifetimeMs, maxBytes, clock } = this.#options;
    const now = clock.now();
    const open = this.#file;
    const isYoung = open && now >= open.beganAt && now - open.beganAt < lifetimeMs / fileLives;
    if (isYoung && open.octets + octets <= maxBytes / files) return open;
    if (open) fs.closeSync(open.fd);
    this.#file = undefined;
    prune(folder, now - lifetimeMs, maxBytes - maxBytes / files);
    // A name that is taken is of this very millisecond: its file goes on.
    const fd = fs.openSync(join(folder, nameFor(now)), 'a', 0o600);
    return { fd, beganAt: now, octets: fs.fstatSync(fd).size };
  }
}

/** Removes the oldest files until the others fit, and those whose last event is too old. */
function prune(folder: string, oldest: number, maxBytes: number): void {
  let sum = 0;
  for (const path of filesIn(folder).toReversed()) {
    const { size, mtimeMs } = fs.statSync(path);
    sum += size;
    if (sum > maxBytes || mtimeMs < oldest) fs.rmSync(path, { force: true });
  }
}
