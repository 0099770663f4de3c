// What the command line reads from people.
import { createInterface } from 'node:readline/promises';
import { Writable } from 'node:stream';

/** A line from standard input: asked for on a terminal, without echo. */
export async function readPassword(prompt: string): Promise<string> {
  const terminal = process.stdin.isTTY === true;
  const output = new Writable({ write: (_chunk, _encoding, done) => done() });
  const lines = createInterface({ input: process.stdin, output, terminal });
  if (terminal) process.stderr.write(prompt);
  const { value } = await lines[Symbol.asyncIterator]().next();
  if (terminal) process.stderr.write('\n');
  lines.close();
  return value ?? '';
}
