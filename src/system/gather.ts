// Gathers log lines of one kind, so that nobody who can make us write a line can fill the disk with lines. A kind is a
// sentence together with whoever caused it (a client's address). In each minute the first lines of a kind are written
// at once and whole; the others are counted, and when the minute is over one line says how many more there were.
// Promises: memory is bounded, whatever comes; no line is lost without being counted. Never drops a kind's first line
// unless thousands of lines were written in that minute already.
import type { Level, Log } from './log.ts';

/** Lines of one kind that are written whole in a minute. A person who looks for a bounced mail finds it among them. */
const maxLinesOfKind = 60;
/** Lines of all kinds together in a minute: a thousand clients must not do together what one cannot. */
const maxLines = 3000;
/** Kinds that are told apart in a minute. All further ones are told apart by their sentence alone. */
const maxKinds = 1000;
const minuteMs = 60_000;

type Kind = { readonly level: Level; readonly who: string; readonly sentence: string; written: number; more: number };

export class Gatherer {
  readonly #log: Log;
  readonly #kinds = new Map<string, Kind>();
  #written = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(log: Log) {
    this.#log = log;
  }

  /**
   * Writes a line, or counts it. `who` has caused it: a client's address, or its network. `limit`: of this kind, in a
   * minute.
   */
  line(level: Level, who: string, fields: Record<string, unknown>, sentence: string, limit = maxLinesOfKind): void {
    const kind = this.#kind(level, who, sentence);
    if (kind.written >= limit || this.#written >= maxLines) return void (kind.more += 1);
    kind.written += 1;
    this.#written += 1;
    this.#log[level](fields, sentence);
  }

  /** A log whose lines are all gathered, as caused by `who`. */
  asLog(who: string): Log {
    const at =
      (level: Level): Log[Level] =>
      (fields, sentence) =>
        this.line(level, who, fields, sentence);
    return { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
  }

  /** Writes how many lines were only counted, and begins a new minute. */
  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const kinds = [...this.#kinds.values()];
    this.#kinds.clear();
    this.#written = 0;
    for (const { level, who, sentence, more } of kinds) if (more > 0) this.#log[level]({ who, more }, sentence);
  }

  #kind(level: Level, who: string, sentence: string): Kind {
    this.#timer ??= setTimeout(() => this.flush(), minuteMs).unref();
    const isFull = this.#kinds.size >= maxKinds;
    const key = `${sentence}\n${who}`;
    const known = this.#kinds.get(key) ?? (isFull ? this.#kinds.get(sentence) : undefined);
    if (known !== undefined) return known;
    const kind = { level, who: isFull ? 'others' : who, sentence, written: 0, more: 0 };
    this.#kinds.set(isFull ? sentence : key, kind);
    return kind;
  }
}
