// The log: a JSON object a line on stdout (pino), or readable lines on a terminal.
// Promise: text from the network only ever stands in fields, escaped by JSON, so no line can be forged; secrets and
// bodies are never given to it. What happens when nobody reads it: output.ts.
import pino from 'pino';
import { openOutput } from './output.ts';
import { systemClock } from './world.ts';

export type Level = 'debug' | 'info' | 'warn' | 'error';
export type Format = 'json' | 'pretty';

/**
 * What the parts log with (pino's shape). Fields first, then a fixed sentence: text from the network only in fields.
 */
export type Log = Record<Level, (fields: Record<string, unknown>, message: string) => void>;

export type FlushedLog = Log & { flush(): void };

/** `isGathered`: lines are written a quarter of a second late at most, many at once; else each at once. */
export async function openLog(level: Level, format: Format, isGathered: boolean): Promise<FlushedLog> {
  const options: pino.LoggerOptions = {
    level,
    base: null,
    timestamp: isoTime,
    formatters: { level: label => ({ level: label }) },
  };
  if (format === 'pretty') {
    const { default: pretty } = await import('pino-pretty');
    const stream = pretty({
      sync: true,
      ignore: 'session',
      singleLine: true,
      translateTime: 'SYS:yyyy-mm-dd HH:MM:ss',
    });
    return Object.assign(pino(options, stream), { flush: () => {} });
  }
  const output = openOutput(process.stdout.fd, isGathered);
  return Object.assign(pino(options, output), { flush: output.flush });
}

/**
 * Node's own warnings (a deprecated call, a listener too many) become lines of the log, in place of text on standard
 * error.
 */
export function takeWarnings(log: Log): void {
  process.removeAllListeners('warning').on('warning', ({ name, message, stack }) => {
    log.warn({ warning: message, type: name, stack }, 'Node warns');
  });
}

let second = NaN;
let isoSecond = '';
/**
 * The time of a line, for pino. The part before the milliseconds is kept while it is the same: a Date a line cost 1 %
 * of the time of a message.
 */
function isoTime(): string {
  const now = systemClock.now();
  const milliseconds = now % 1000;
  if (now - milliseconds !== second) {
    second = now - milliseconds;
    isoSecond = new Date(second).toISOString().slice(0, 20);
  }
  return `,"time":"${isoSecond}${String(milliseconds).padStart(3, '0')}Z"`;
}
