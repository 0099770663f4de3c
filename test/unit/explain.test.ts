// `slimsmtp resolve`: the steps of a decision, the reply to a stranger, and for another's domain what a login may do.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { CannotTell, type Resolve } from '../../src/mail/ports.ts';
import { explain } from '../../src/wiring/explain.ts';

const log = { debug() {}, info() {}, warn() {}, error() {} };
const users = [{ kind: 'generate', name: 'anton' }] as const;
const plain = { relay: undefined, users: [], trustedNetworks: [] };
const resolve: Resolve = async ({ local, domain }, say) => {
  say?.(`asked for ${local}`);
  if (local === 'down') throw new CannotTell('the database is down');
  if (domain !== 'example.com') return { kind: 'elsewhere' };
  if (local !== 'anton') return { kind: 'unknown' };
  return { kind: 'local', routes: [{ kind: 'maildir', path: '/m', root: '/m' }] };
};

describe('resolve', () => {
  for (const [address, settings, expected] of [
    ['anton@example.com', plain, [250, 'asked for anton', /^=> 250 2\.1\.5 /]],
    ['berta@example.com', plain, [550, 'asked for berta', /^=> 550 5\.1\.1 /]],
    ['down@example.com', plain, [451, 'asked for down', 'cannot tell: the database is down', /^=> 451 4\./]],
    ['no address', plain, [501, /^=> 501 /]],
    [
      'x@other.example',
      plain,
      [
        550,
        'asked for x',
        /^nobody can send there: .*SLIM_USERS.*SLIM_TRUSTED_NETWORKS/,
        /^=> from anyone else: 550 5\.7\.1/,
      ],
    ],
    [
      'x@other.example',
      { ...plain, users },
      [
        550,
        'asked for x',
        /^from a login or a trusted network: 250 .* leaves to the MX hosts/,
        /^=> from anyone else: 550/,
      ],
    ],
    [
      'x@other.example',
      {
        ...plain,
        trustedNetworks: ['10.0.0.0/8'],
        relay: { host: 'relay.example', port: 587, tls: 'starttls' as const },
      },
      [
        550,
        'asked for x',
        /^from a login .*: 250 .* leaves by way of relay\.example, port 587/,
        /^=> from anyone else: 550/,
      ],
    ],
  ] as const)
    it(`${address}, ${JSON.stringify(settings)}`, async () => {
      const { code, steps } = await explain(address, { resolve, settings, log });
      const [expectedCode, ...lines] = expected;
      assert.equal(code, expectedCode);
      assert.equal(steps.length, lines.length, steps.join('\n'));
      for (const [at, line] of lines.entries())
        if (typeof line === 'string') assert.equal(steps[at], line);
        else assert.match(steps[at] ?? '', line);
    });
});
