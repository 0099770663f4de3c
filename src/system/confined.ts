// A child process that is confined: neither settings nor secrets in its environment; it reads the files that it may read, writes
// none, and starts no process. Whatever strangers have written is parsed in such a child.
import { type ChildProcess, fork } from 'node:child_process';

type Confined = Readonly<{
  script: string;
  /** A path that ends in `/` is a folder with all below it. */
  mayRead: readonly string[];
  heapMb: number;
}>;

export function forkConfined({ script, mayRead, heapMb }: Confined, words: readonly string[] = []): ChildProcess {
  return fork(script, words, {
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
}
