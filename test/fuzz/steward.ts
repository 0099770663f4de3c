// What a network process that was broken into may ask of the steward: JSON of any kind. A request is one of the listed
// kinds, with values that cannot be options, paths upwards or numbers out of range; anything else is none. Never a
// throw. An input: JSON, or what is left of it.
import assert from 'node:assert/strict';
import { type Request, parseRequest } from '../../src/steward/protocol.ts';
import { kept } from './corpus.ts';
import type { Target } from './fuzzer.ts';

const seeds = [
  { id: 1, kind: 'account', name: 'anton' },
  { id: 2, kind: 'owner', path: '/home/anton/Maildir' },
  { id: 3, kind: 'authenticate', name: 'anton', password: 'secret' },
  {
    id: 4,
    kind: 'prepare',
    spool: 'abc1',
    targets: [
      { account: 'anton', folder: 'Maildir' },
      { account: 'b.c-d', folder: '' },
    ],
  },
  { id: 5, kind: 'commit', token: 4 },
  { id: 6, kind: 'tls', more: [null, 1e300, { length: 3 }] },
];

const isName = (name: string): boolean => name.length <= 32 && /^\w[\w.-]*$/.test(name);

function isSafe(request: Request): boolean {
  switch (request.kind) {
    case 'account':
      return isName(request.name);
    case 'owner':
      return request.path.startsWith('/') && !request.path.includes('\0');
    case 'authenticate':
      return isName(request.name) && !request.password.includes('\0') && Buffer.byteLength(request.password) <= 126;
    case 'prepare': {
      const { spool, targets } = request;
      const isInside = (folder: string): boolean =>
        folder === '' || !/^\/|\/$|\/\/|\0|(?:^|\/)\.\.?(?:\/|$)/.test(folder);
      return (
        /^[A-Za-z0-9]+$/.test(spool) &&
        targets.length <= 1000 &&
        targets.every(({ account, folder }) => isName(account) && isInside(folder))
      );
    }
    case 'commit':
    case 'abort':
      return Number.isInteger(request.token);
    case 'tls':
      return Object.keys(request).length === 2;
    default:
      return request satisfies never;
  }
}

export const steward: Target = {
  name: 'steward',
  maxOctets: 200,
  seeds: [...kept('steward'), ...seeds.map(request => Buffer.from(JSON.stringify(request)))],
  words: [
    '"',
    ':',
    ',',
    '{',
    '}',
    '[',
    ']',
    'null',
    'true',
    '1e400',
    '-0',
    '..',
    '/',
    '\\u0000',
    '\\n',
    '-',
    '"kind":"abort"',
    '"__proto__":',
    '"length":1',
    '"toString":1',
    'a'.repeat(33),
  ],
  run(input, _cuts, note) {
    let message: unknown = input.toString();
    try {
      message = JSON.parse(message as string);
    } catch {
      note('no JSON');
    }
    const request = parseRequest(message);
    note(request?.kind ?? 'none');
    if (request) assert.ok(isSafe(request) && Number.isSafeInteger(request.id), JSON.stringify(request));
  },
};
