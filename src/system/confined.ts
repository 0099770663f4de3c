// A child process that is confined: neither settings nor secrets in its environment; it reads the files that it may
// read, writes none, and starts no process. Whatever strangers have written is parsed in such a child.
import { type ChildProcess, fork } from 'node:child_process';
import type { Event, Listen } from '../mail/event.ts';

type Confined<Message> = Readonly<{
  name: Extract<Event, { kind: 'child' }>['name'];
  script: string;
  /** Further arguments of the script. */
  words?: readonly string[];
  /** A path that ends in `/` is a folder with all below it. */
  mayRead: readonly string[];
  heapMb: number;
  listen: Listen | undefined;
  /** Takes each message of the child. */
  hear: (message: Message) => void;
  /** Called once: the child has ended, or cannot be reached any more. `how`: its signal, status or error. */
  ended: (how: string) => void;
}>;

/** Starts a child. `Message`: what it says. */
export function forkConfined<Message>(options: Confined<Message>): ChildProcess {
  const { name, script, words = [], mayRead, heapMb, listen, hear, ended } = options;
  const child = fork(script, words, {
    env: {},
    serialization: 'advanced',
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    execArgv: [
      '--disallow-code-generation-from-strings',
      '--disable-proto=delete',
      `--max-old-space-size=${heapMb}`,
      '--max-semi-space-size=4',
      '--permission',
      ...mayRead.map(path => `--allow-fs-read=${path}`),
    ],
  });
  let isOver = false;
  const end = (how: string): void => {
    if (!isOver) ended(how);
    isOver = true;
  };
  listen?.({ kind: 'child', name, state: 'started' });
  child.once('exit', () => listen?.({ kind: 'child', name, state: 'ended' }));
  child.on('message', message => hear(message as Message));
  child.on('exit', (status, signal) => end(signal ?? `status ${status}`));
  child.on('error', error => end(error.message));
  return child;
}
