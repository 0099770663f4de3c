// The command line as a process of its own: what it takes for a call, and its exit status.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';

const script = join(import.meta.dirname, '../../src/cli.ts');
const run = (...words: string[]) => spawnSync(process.execPath, [script, ...words], { encoding: 'utf8', cwd: '/' });

test('a name with a control character in it is a wrong call, whatever the verb', () => {
  for (const words of [
    ['resolve', 'anton@example.com\n'],
    ['password', 'anton\x1b[31m'],
    ['queue', 'list', '--sender', 'a\r\n@example.com'],
    ['queue', 'list', '--domain=example.com\u2028'],
  ]) {
    const { status, stderr } = run(...words);
    assert.equal(status, 64, stderr);
    assert.match(stderr, /^slimsmtp: a name may hold no control character: .*%.*\n/);
  }
});
