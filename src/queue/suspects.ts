// Which messages were in flight when the process died, so that one that kills the process is found and put aside. A
// message is in flight from before its content is read until what became of it is recorded. A small file says so, by a
// line of fixed length for each message; the attempts that begin in one turn of the event loop share a write. It is
// written without fsync, because it is to survive the death of the process, not a power cut. At the next start the
// messages whose lines say so are suspects: trial.ts has them tried one at a time. Only a death at which one message
// alone was in flight counts against it. After three of these it is a killer, and the queue holds it.
// Promises: never throws because of the disk; a line that cannot be written only means that a death goes unnoticed.
import fs from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import type { Log } from '../system/log.ts';

const maxDeathsAlone = 3;
const lineLength = 80;
/** With at least this many in flight no message is alone. Then the line of one that is over may stay for a moment. */
const fewInFlight = 2;
const momentMs = 50;

/** A message that is in flight or suspect. */
type Watched = {
  readonly line: number;
  /** Attempts of the message that run now. */
  users: number;
  /** Deaths of the process at which it was in flight, and those at which nothing else was. */
  deaths: number;
  deathsAlone: number;
};

export class Suspects {
  readonly #watched = new Map<string, Watched>();
  readonly #free: number[] = [];
  readonly #path: string | undefined;
  readonly #log: Log;
  #file: number | undefined;
  #lines = 0;
  #inFlight = 0;
  /** The file as it is to be. What has changed since it was last written lies between `#from` and `#to`. */
  #image = Buffer.alloc(64 * lineLength, ' ');
  #from = Infinity;
  #to = 0;
  #timer: NodeJS.Timeout | undefined;
  /** The attempts that begin in one turn of the event loop share a write, and this promise of it. */
  #soon: Promise<void> | undefined;

  /** Without a path nothing is kept. */
  constructor(path: string | undefined, log: Log) {
    this.#path = path;
    this.#log = log;
  }

  /**
   * Reads the file that the previous process has left, and begins a new one. The caller has the lock on the data
   * folder.
   */
  open(): void {
    if (this.#path !== undefined) this.#file = this.#open(this.#path);
  }

  /** At how many deaths of the process a message was in flight. With any it is a suspect. */
  deaths(id: string): number {
    return this.#watched.get(id)?.deaths ?? 0;
  }

  /** Whether a message was the only one in flight at so many deaths that it must not be tried again. */
  isKiller(id: string): boolean {
    return (this.#watched.get(id)?.deathsAlone ?? 0) >= maxDeathsAlone;
  }

  /** Notes that an attempt begins. Resolves when the file says so: only then may the content of the message be read. */
  begin(id: string): Promise<void> | undefined {
    const watched = this.#watched.get(id) ?? this.#add(id, 0, 0);
    watched.users += 1;
    if (watched.users > 1) return this.#soon;
    this.#inFlight += 1;
    this.#mark(id, watched);
    if (this.#file === undefined) return undefined;
    return (this.#soon ??= this.#writeSoon());
  }

  async #writeSoon(): Promise<void> {
    await setImmediate();
    this.#soon = undefined;
    this.#write();
  }

  end(id: string): void {
    const watched = this.#watched.get(id);
    if (watched === undefined) return;
    watched.users -= 1;
    if (watched.users > 0) return;
    this.#inFlight -= 1;
    this.#mark(id, watched);
    if (this.#inFlight < fewInFlight) this.#write();
    else this.#timer ??= setTimeout(() => this.#write(), momentMs).unref();
  }

  /** Watches a message no more, because it was tried and did no harm, or because it is gone. */
  clear(id: string): void {
    const watched = this.#watched.get(id);
    if (watched === undefined) return;
    watched.deaths = 0;
    watched.deathsAlone = 0;
    if (watched.users > 0) return;
    this.#mark(id, watched);
    this.#write();
  }

  /** Ends as planned: a message that is still in flight is no suspect then. */
  close(): void {
    for (const [id, watched] of this.#watched) {
      watched.users = 0;
      this.#mark(id, watched);
    }
    this.#write();
    if (this.#file !== undefined) fs.closeSync(this.#file);
    this.#file = undefined;
  }

  #open(path: string): number | undefined {
    try {
      const before = fs.existsSync(path) ? parse(fs.readFileSync(path, 'latin1')) : [];
      const isAlone = before.filter(({ inFlight }) => inFlight).length === 1;
      const file = fs.openSync(path, 'w', 0o600);
      for (const { id, inFlight, deaths, deathsAlone } of before) {
        const counted = [deaths + (inFlight ? 1 : 0), deathsAlone + (inFlight && isAlone ? 1 : 0)] as const;
        this.#mark(id, this.#add(id, ...counted));
      }
      fs.writeSync(file, this.#image, 0, this.#to, 0);
      this.#from = Infinity;
      return file;
    } catch (error) {
      this.#log.warn({ file: path, error: String(error) }, 'a message that kills the server cannot be found out');
      return undefined;
    }
  }

  #add(id: string, deaths: number, deathsAlone: number): Watched {
    const line = this.#free.pop() ?? this.#lines++;
    const watched = { line, users: 0, deaths, deathsAlone };
    this.#watched.set(id, watched);
    return watched;
  }

  /** Puts the line of a message into the image, or takes it out. */
  #mark(id: string, watched: Watched): void {
    const isOver = watched.users === 0 && watched.deaths === 0;
    if (isOver) {
      this.#watched.delete(id);
      this.#free.push(watched.line);
    }
    const at = watched.line * lineLength;
    if (at >= this.#image.length) this.#image = Buffer.concat([this.#image, Buffer.alloc(this.#image.length, ' ')]);
    this.#image.write(isOver ? blank : format(id, watched), at, 'latin1');
    this.#from = Math.min(this.#from, at);
    this.#to = Math.max(this.#to, at + lineLength);
  }

  /** Writes what has changed. */
  #write(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const from = this.#from;
    const to = this.#to;
    this.#from = Infinity;
    this.#to = 0;
    if (this.#file === undefined || from >= to) return;
    try {
      fs.writeSync(this.#file, this.#image, from, to - from, from);
    } catch {} // a full disk: see the promise
  }
}

const blank = `${' '.repeat(lineLength - 1)}\n`;

function format(id: string, { users, deaths, deathsAlone }: Watched): string {
  const text = `${users > 0 ? 'in-flight' : 'suspect'} ${deaths} ${deathsAlone} ${id}`;
  return `${text.slice(0, lineLength - 1).padEnd(lineLength - 1)}\n`;
}

function parse(text: string) {
  return text.split('\n').flatMap(line => {
    const [, state, deaths, deathsAlone, id] =
      /^(in-flight|suspect) (\d{1,9}) (\d{1,9}) ([A-Za-z0-9]+) *$/.exec(line) ?? [];
    if (id === undefined) return [];
    return [{ id, inFlight: state === 'in-flight', deaths: Number(deaths), deathsAlone: Number(deathsAlone) }];
  });
}
