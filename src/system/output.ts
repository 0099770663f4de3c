// Where the lines of the log go: gathered, so that many of them are one call of the system, and written without
// waiting.
// Promises: a reader that stalls costs at most `maxLength` of memory; beyond that lines are dropped, mail never. What
// waits is written when the process ends, in whatever way but by a signal; but the end is never held up: by a second
// for a reader that stalls, and not at all where nobody reads any more (pino's own destination tries for ever then).
// How: at any time a line waits in `lines`, or is part of the one write that is under way (`octets`, from `done` on).
import { write, writeSync } from 'node:fs';

const maxLength = 16 * 1024 * 1024;
/** So much is worth a write of its own; less waits for the next moment. */
const enough = 12_288;
const momentMs = 250;
const stalledMs = 10;
const patience = 100; // times stalledMs
const isStalled = (error: NodeJS.ErrnoException): boolean => error.code === 'EAGAIN' || error.code === 'EBUSY';

/** `isGathered` false: each line is written at once, and waited for. */
export function openOutput(fd: number, isGathered: boolean) {
  let lines: string[] = [];
  let length = 0;
  let octets: Buffer | undefined;
  let done = 0;
  /** Whether the system has the write now; else it is to be tried again, because the reader stalled. */
  let isUnderWay = false;

  function take(): Buffer {
    const text = lines.join('');
    lines = [];
    length = 0;
    return Buffer.from(text);
  }

  function send(): void {
    if (isUnderWay || (octets === undefined && length === 0)) return;
    const now = (octets ??= take());
    isUnderWay = true;
    write(fd, now, done, now.length - done, null, (error, written) => {
      isUnderWay = false;
      if (error && isStalled(error)) return;
      done += written;
      // Where nobody reads any more, what was to be written is dropped.
      if (error || done === now.length) finish();
      else send();
    });
  }

  function finish(): void {
    octets = undefined;
    done = 0;
    if (length >= enough) send();
  }

  /** What the system has now it will write by itself. */
  function flush(): void {
    if (!isUnderWay && octets !== undefined) writeWhole(fd, octets.subarray(done));
    if (!isUnderWay) [octets, done] = [undefined, 0];
    if (length > 0) writeWhole(fd, take());
  }

  if (isGathered) {
    setInterval(send, momentMs).unref();
    process.on('exit', flush);
  }
  return {
    write(line: string): void {
      if (length > maxLength) return;
      lines.push(line);
      length += line.length;
      if (!isGathered) flush();
      else if (length >= enough) send();
    },
    flush,
  };
}

/** Waits for a reader that stalls, for a second in all. */
function writeWhole(fd: number, octets: Buffer): void {
  let tries = 0;
  for (let done = 0; done < octets.length && tries < patience;)
    try {
      done += writeSync(fd, octets, done);
    } catch (error) {
      if (!isStalled(error as NodeJS.ErrnoException)) return;
      tries += 1;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, stalledMs);
    }
}
