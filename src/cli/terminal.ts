// What every verb shares: its call (words and flags), how a result is printed, how a password is read, how a failure is
// told.
import { createInterface } from 'node:readline/promises';
import { Writable } from 'node:stream';
import { parseArgs } from 'node:util';
import { SettingsError } from '../config/settings.ts';
import { NoServer } from '../control/client.ts';
import type { Log } from '../system/log.ts';
import { hasControls } from '../mail/address.ts';

/** A wrong call: the text says how it should be. */
export class UsageError extends Error {}

const flag = { type: 'boolean' } as const;
const text = { type: 'string' } as const;
const options = {
  help: flag,
  version: flag,
  json: flag,
  demo: flag,
  password: flag,
  'with-home': flag,
  show: flag,
  all: flag,
  follow: flag,
  domain: text,
  sender: text,
  client: text,
  from: text,
  helo: text,
};

/** The words and flags after `slimsmtp`. Throws UsageError. */
export function readArguments() {
  try {
    const { values, positionals } = parseArgs({ options, allowPositionals: true });
    // All of them are names: of verbs, accounts, logins, messages, domains, or addresses.
    const wrong = [...positionals, ...Object.values(values).filter(value => typeof value === 'string')].find(
      hasControls,
    );
    if (wrong !== undefined) throw new Error(`a name may hold no control character: ${encodeURI(wrong)}`);
    return { flags: values, words: positionals };
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

export type Flags = ReturnType<typeof readArguments>['flags'];

export function one(words: readonly string[]): string {
  const [word] = words;
  if (word === undefined || words.length > 1) throw new UsageError('exactly one name or address is wanted');
  return word;
}

/** Prints a result for people, or as JSON with --json; gives the exit status: 0, or 1 for a no. */
export function print<T>(flags: Flags, result: T, toText: (result: T) => string = String, isYes = true): number {
  console.log(flags.json ? JSON.stringify(result) : toText(result));
  return isYes ? 0 : 1;
}

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

/**
 * A log for verbs that do the server's work: what is grave goes to standard error, where it does not disturb a result.
 */
export const standardError: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: (fields, message) => console.error(`slimsmtp: ${message} ${JSON.stringify(fields)}`),
  error: (fields, message) => console.error(`slimsmtp: ${message} ${JSON.stringify(fields)}`),
};

/** Tells a failure on standard error, a line for each problem; gives the exit status. */
export function complain(error: unknown): number {
  for (const line of (error as Error).message.split('\n')) console.error(`slimsmtp: ${line}`);
  if (error instanceof UsageError) console.error('slimsmtp --help says more');
  if (error instanceof SettingsError) return 78;
  if (error instanceof NoServer) return 69;
  return error instanceof UsageError ? 64 : 1;
}
