// Starts a real steward with a real network process (steward.process.ts) and talks to the latter over a socket.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Question } from './steward.process.ts';

type Line = Record<string, unknown>;

export class RunningSteward {
  readonly process: ChildProcess;
  readonly lines: Line[] = [];
  /** It has ended, and all that it printed is in `lines`. */
  readonly closed: Promise<unknown>;
  readonly #host: string;
  #port = 0;

  constructor(options: Record<string, unknown>, host = '127.0.0.1', port = 0) {
    this.#host = host;
    const script = new URL('steward.process.ts', import.meta.url).pathname;
    const whole = { sockets: [{ host, port }], tlsFiles: {}, stopWithinMs: 5000, ...options };
    this.process = spawn(process.execPath, [...process.execArgv, script, 'steward', JSON.stringify(whole)], {
      // Most of a start is the compiling, which is the same each time.
      env: { NODE_COMPILE_CACHE: join(tmpdir(), 'slimsmtp-compiled'), ...process.env },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    this.closed = once(this.process, 'close');
    if (this.process.stdout)
      createInterface({ input: this.process.stdout }).on('line', text => {
        const line = JSON.parse(text) as Line;
        this.lines.push(line);
        if (typeof line['port'] === 'number') this.#port = line['port'];
      });
  }

  /** The first line printed so far, or later, that has this field (or one of these, separated by `|`). */
  async line(field: string, after = 0): Promise<Line> {
    for (let tries = 0; tries < 500; tries += 1) {
      const found = this.lines.slice(after).find(line => field.split('|').some(name => name in line));
      if (found) return found;
      await new Promise(resolve => setTimeout(resolve, 20));
    }
    throw new Error(`no line with ${field} among ${JSON.stringify(this.lines)}`);
  }

  async ask(question: Question): Promise<Line> {
    await this.line('port');
    const socket = createConnection({ host: this.#host, port: this.#port });
    socket.on('error', () => {});
    socket.write(`${JSON.stringify(question)}\n`);
    let text = '';
    for await (const chunk of socket.setEncoding('utf8')) {
      text += String(chunk);
      if (text.endsWith('\n')) break;
    }
    return text === '' ? {} : (JSON.parse(text) as Line);
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    if (this.process.exitCode === null && this.process.signalCode === null) {
      this.process.kill(signal);
      await once(this.process, 'exit');
    }
    this.process.stdout?.destroy();
    return this.process.exitCode;
  }
}
