// What the network process prints, on its way through the steward: whole lines, all of them, and nobody waits for a
// slow reader.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Readable } from 'node:stream';
import { after, test } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import { copyLines } from '../../src/steward/output.ts';

const folder = mkdtempSync(join(tmpdir(), 'slim-output-'));
after(() => rmSync(folder, { recursive: true }));
const path = join(folder, 'output');

/** What is in a file after these chunks were copied there. */
async function copied(chunks: readonly Buffer[]): Promise<Buffer> {
  const fd = openSync(path, 'w');
  await copyLines(Readable.from(chunks), fd);
  closeSync(fd);
  return readFileSync(path);
}

test('lines arrive octet for octet, in whatever pieces they come, also long ones and a last one without an end', async () => {
  const lines = ['one', 'x'.repeat(4095), 'y'.repeat(4096), '', 'z'.repeat(100_000), 'ü'.repeat(3000), 'last'];
  const text = Buffer.from(lines.join('\n'));
  for (const size of [1, 7, 4096, 65_536, text.length]) {
    const chunks = Array.from({ length: Math.ceil(text.length / size) }, (_, at) =>
      text.subarray(at * size, (at + 1) * size),
    );
    assert.ok(
      (await copied(size === 1 ? chunks.slice(-10_000) : chunks)).equals(size === 1 ? text.subarray(-10_000) : text),
    );
  }
});

test('a line is not begun before its end has come', async () => {
  const source = new PassThrough();
  const fd = openSync(path, 'w');
  const ended = copyLines(source, fd);
  source.write('whole\nhalf');
  await wait(50);
  assert.equal(readFileSync(path, 'utf8'), 'whole\n');
  source.end(' and half\n');
  await ended;
  closeSync(fd);
  assert.equal(readFileSync(path, 'utf8'), 'whole\nhalf and half\n');
});

test('a line without an end is copied in pieces, and not kept', async () => {
  const text = Buffer.alloc(5_000_000, 'x');
  assert.ok((await copied([0, 1, 2, 3, 4].map(at => text.subarray(at * 1e6, (at + 1) * 1e6)))).equals(text));
});

test('a reader that stalls holds nobody up, and one that has gone ends nothing', async () => {
  const pipe = join(folder, 'pipe');
  execFileSync('mkfifo', [pipe]);
  const reader = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK);
  const fd = openSync(pipe, 'w');
  const source = new PassThrough();
  const ended = copyLines(source, fd);
  source.write(Buffer.alloc(2_000_000, 'line\n'));
  const startedAt = performance.now();
  await wait(20);
  assert.ok(performance.now() - startedAt < 500);
  closeSync(reader);
  source.end('more\n');
  await ended;
  closeSync(fd);
});
