// Finds the lives of messages in the history: by id, by an address, or by Message-ID. Reads files alone, so it needs no
// server, and holds up none.
// How: twice through all files, 256 MB at most. First the ids of the messages that are meant, with those of the mail
// that follows from them (forwards, notices); then their events. Lines that a crash has torn are left out.
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import type { Event } from '../mail/event.ts';
import { filesIn } from './file-names.ts';

/** An event with its time, in ms since 1970. */
export type Past = Event & { readonly at: number };
/**
 * `messages`: the events of each message, by its id, in the order of time. `refusals`: of mail that never got an id.
 */
type Traced = Readonly<{
  messages: ReadonlyMap<string, readonly Past[]>;
  refusals: readonly Past[];
  /** Messages beyond the limit: the oldest ones. */
  more: number;
}>;

const followEveryMs = 300;

export class Search {
  readonly #folder: string;
  readonly #wanted: string;
  readonly #needle: string;
  /** The ids of the messages that are looked for; the one that was found last comes last. */
  readonly #ids = new Set<string>();
  /** The file that was read last, and how much of it was read. */
  #path = '';
  #end = 0;

  /** `wanted`: an id, an address or a Message-ID, also in angle brackets. */
  constructor(folder: string, wanted: string) {
    this.#folder = folder;
    this.#wanted = bare(wanted);
    this.#needle = JSON.stringify(this.#wanted).slice(1, -1);
  }

  /**
   * Gives what is known by now, of the newest `limit` messages and refusals. `others`: lines of other replicas; some of
   * them may be in the files, too.
   */
  find(limit: number, others: readonly string[] = []): Traced {
    const paths = filesIn(this.#folder);
    const known = new Set(others);
    for (const line of others) this.#look(line);
    for (const path of paths) for (const line of read(path).lines) this.#look(line);
    const ids = [...this.#ids];
    const messages = new Map<string, Past[]>(ids.slice(-limit).map(id => [id, []]));
    const refusals: Past[] = [];
    const keep = (line: string): void => {
      const id = idOf(line);
      const events = id === undefined ? refusals : messages.get(id);
      const event = events && this.#meant(line, id);
      if (event) events.push(event);
    };
    for (const line of known) keep(line);
    for (const path of paths) {
      const { lines, end } = read(path);
      this.#path = path;
      this.#end = end;
      for (const line of lines) if (!known.has(line)) keep(line);
    }
    refusals.sort((a, b) => a.at - b.at);
    for (const [id, events] of messages) {
      if (events.length === 0) messages.delete(id);
      events.sort((a, b) => beganAt(a) - beganAt(b));
    }
    return { messages, refusals: refusals.slice(-limit), more: Math.max(0, ids.length - limit) };
  }

  /** Gives the events that come from now on, without end. Call find() first. */
  async *follow(): AsyncGenerator<Past> {
    for (;;) {
      for (const path of filesIn(this.#folder).filter(each => each >= this.#path)) {
        const { lines, end } = read(path, path === this.#path ? this.#end : 0);
        this.#path = path;
        this.#end = end;
        for (const line of lines) {
          this.#look(line);
          const event = this.#meant(line, idOf(line));
          if (event) yield event;
        }
      }
      await pause(followEveryMs);
    }
  }

  /** Notes the message of a line that is looked for, and the message that follows from one that is. */
  #look(line: string): void {
    const id = idOf(line);
    if (id === undefined) return;
    const isLink = this.#ids.has(id) && line.includes('"as":');
    const event = isLink ? parse(line) : this.#match(line);
    if (event === undefined) return;
    this.#ids.delete(id);
    this.#ids.add(id);
    if ('as' in event && event.as !== undefined) this.#ids.add(event.as);
  }

  /** The event of a line that belongs to one of the messages, or that is looked for by itself. */
  #meant(line: string, id: string | undefined): Past | undefined {
    if (id === undefined) return this.#match(line);
    return this.#ids.has(id) ? parse(line) : undefined;
  }

  /** The event of a line that has what is wanted. */
  #match(line: string): Past | undefined {
    if (!line.toLowerCase().includes(this.#needle)) return undefined;
    const event = parse(line);
    return event && namesOf(event).includes(this.#wanted) ? event : undefined;
  }
}

/** A name in the form in which names are compared. */
export const bare = (text: string): string => text.replace(/^<(.*)>$/s, '$1').toLowerCase();
const idOf = (line: string): string | undefined => /"message":"([^"]+)"/.exec(line)?.[1];
/** The message of a line, and the one that follows from it. */
export function idsIn(line: string): readonly string[] {
  const event = parse(line);
  const ids = event && 'message' in event ? [event.message] : [];
  return event && 'as' in event && event.as !== undefined ? [...ids, event.as] : ids;
}
/** An attempt may end before the line of its message is written. */
const beganAt = (event: Past): number => (event.kind === 'message' ? event.at - event.ms : event.at);

/** The whole lines of a file from an octet on, and where they end. A file may be removed at any time. */
function read(path: string, start = 0): { readonly lines: readonly string[]; readonly end: number } {
  let octets: Buffer;
  try {
    const file = openSync(path, 'r');
    try {
      octets = Buffer.alloc(Math.max(0, fstatSync(file).size - start));
      octets = octets.subarray(0, readSync(file, octets, 0, octets.length, start));
    } finally {
      closeSync(file);
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    octets = Buffer.alloc(0);
  }
  const whole = octets.subarray(0, octets.lastIndexOf(10) + 1);
  return { lines: whole.toString().split('\n'), end: start + whole.length };
}

function parse(line: string): Past | undefined {
  try {
    return JSON.parse(line) as Past;
  } catch {
    return undefined;
  }
}

/** All by which an event can be found, in lower case. */
export const namesOf = (event: Event): readonly string[] => [...new Set(names(event).filter(Boolean).map(bare))];

function names(event: Event): readonly string[] {
  switch (event.kind) {
    case 'refused':
      return [event.session, event.from, event.to ?? ''];
    case 'message':
      return [event.message, event.session, event.from, ...event.to, event.messageId ?? ''];
    case 'attempt':
    case 'order':
      return [event.message, ...event.to, ...('from' in event ? [event.from] : [])];
    case 'forward':
      return [event.message, event.as, event.from, ...event.to];
    case 'notice':
      return [event.message, event.as ?? '', event.to, ...event.outcomes.map(({ to }) => to)];
    case 'turned away':
    case 'session':
    case 'login':
    case 'child':
      return [];
    default:
      event satisfies never; // but another version may have written it
      return [];
  }
}
