// The control socket: any line gets lines of JSON and the end of the connection, and the next caller is served.
// An input: what a caller sends. A real socket, with the parser of the real server.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Handlers, openControl } from '../../src/control/server.ts';
import { kept } from './corpus.ts';
import { type Target, cut } from './fuzzer.ts';

const folder = mkdtempSync(join(tmpdir(), 'control-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
const path = join(folder, 'control');
let isOpen = false;

const handlers: Handlers = {
  health: () => ({ listening: true, sessions: 0, database: 'off', queued: 0, writable: true, unwritable: [] }),
  figures: () => assert.fail('not asked for'),
  resolve: ({ address }) => ({ code: 250, steps: [address.toUpperCase()] }),
  auth: ({ name, password }) => ({ ok: name === password, source: name }),
  async *dns({ domain = '' }) {
    yield { name: 'x.', type: 'MX', value: domain, zone: '', status: 'ok', found: [] };
  },
  async *dkim({ action, domain = '' }) {
    yield { domain, selector: action, algorithm: 'rsa', state: 'new', signs: true, name: domain };
  },
  async *list({ selector }) {
    for (const id of Object.values(selector).filter(each => each !== undefined))
      yield { id, from: '', ageSeconds: 0, sizeBytes: 0, isHeld: false, recipients: [] };
  },
  act: ({ action, selector }) => action.length + Object.keys(selector).length,
};

/** All that is answered until the end. */
async function ask(pieces: readonly Buffer[]): Promise<string> {
  const socket = connect({ path, allowHalfOpen: true });
  socket.on('error', () => {});
  for (const piece of pieces) socket.write(piece);
  socket.end();
  let answer = '';
  for await (const text of socket.setEncoding('utf8')) answer += text as string;
  return answer;
}

export const control: Target = {
  name: 'control',
  maxOctets: 200,
  isSlow: true,
  seeds: [
    ...kept('control'),
    ...[
      { verb: 'health' },
      { verb: 'auth', name: 'a', password: 'b' },
      { verb: 'list', selector: { id: 'x' } },
      { verb: 'act', action: 'hold', selector: { domain: 'x' } },
      { verb: 'resolve', address: 'x' },
      { verb: 'dns', domain: 'x' },
      { verb: 'dkim', action: 'rotate', domain: 'x' },
      { verb: 'toString' },
    ].map(each => Buffer.from(`${JSON.stringify(each)}\n`)),
  ],
  words: [
    '"',
    ':',
    '{',
    '}',
    '[',
    ']',
    'null',
    '\n',
    '\r',
    '\r\n',
    '"verb":"health"',
    '"verb":"list"',
    '"selector":',
    '"address":',
    '"__proto__"',
    '\\"',
    '1',
    '\xff',
    '\0',
  ],
  async run(input, cuts, note) {
    if (!isOpen) (await openControl(path, handlers)).unref();
    isOpen = true;
    const answer = await ask([input]);
    const again = await ask(cut(input, cuts));
    assert.equal(again, answer, 'it depends on how it was cut');
    const lines = answer.split('\n').slice(0, -1);
    const items = lines.map(line => JSON.parse(line) as { item?: unknown; error?: string; isEnd?: boolean });
    assert.ok(answer === '' || answer.endsWith('\n'), 'half a line');
    if (items.length > 0) assert.ok(items.at(-1)?.isEnd === true || typeof items.at(-1)?.error === 'string', 'no end');
    note(
      `${Math.min(3, items.length)} ${items
        .at(-1)
        ?.error?.replaceAll(/[^a-z ]/g, '')
        .slice(0, 20)}`,
    );
  },
};
