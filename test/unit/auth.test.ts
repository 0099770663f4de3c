// Who may log in: every mechanism, right, wrong and malformed; names; the order of the sources and their outages; the
// throttle and the delay. A real authenticator with real files; doubles for the table, the steward and the clock.
import assert from 'node:assert/strict';
import { createHmac, hash, pbkdf2Sync } from 'node:crypto';
import { readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test, type TestContext } from 'node:test';
import type { User } from '../../src/auth/chain.ts';
import { readGenerated } from '../../src/auth/inline.ts';
import type { TablePasswords } from '../../src/auth/sources.ts';
import { type Account, CannotTell } from '../../src/mail/ports.ts';
import { clientFinal, clientFirst, formatVerifier, makeVerifier } from '../../src/sasl/scram.ts';
import { replies } from '../../src/smtp/reply.ts';
import { systemRandom } from '../../src/system/world.ts';
import { type Chain, bindings, converse, openLogins, plain, scram, skipDelays } from './auth.harness.ts';

const anton: User = { kind: 'inline', name: 'anton', secret: 'right' };
const account: Account = { name: 'anton', uid: 1000, gid: 1000, home: '/home/anton' };
const noAnswer = async (): Promise<never> => {
  throw new CannotTell('it does not answer');
};

/** A steward with one account, anton; `asked` are the passwords that PAM got. */
function steward(asked: string[] = []) {
  return {
    accounts: { find: async (name: string) => (name === 'anton' ? account : undefined), owner: async () => undefined },
    authenticate: async (name: string, password: string) => {
      asked.push(`${name}:${password}`);
      return password === 'unix';
    },
  };
}

/** A table `users` as PostgreSQL would answer. */
const table =
  (rows: Readonly<Record<string, string>>): TablePasswords =>
  async names =>
    names.flatMap(name => rows[name] ?? []).at(0);

describe('PLAIN', () => {
  test('right, wrong, unknown, empty', async t => {
    skipDelays(t);
    const { chain } = await openLogins(t, {});
    const right = await plain(chain, 'anton', 'right');
    assert.equal(right.reply, replies.loggedIn);
    assert.deepEqual(right.login, { name: 'anton', address: { local: 'anton', domain: 'example.com' } });
    for (const [name, password] of [
      ['anton', 'wrong'],
      ['anton', ''],
      ['berta', 'right'],
      ['', 'right'],
      ['a@b@c', 'right'],
    ] as const) {
      const { reply, login } = await plain(chain, name, password);
      assert.equal(reply, replies.loginFailed, `${name}:${password}`);
      assert.equal(login, undefined);
    }
  });

  test('an empty password is refused even where it is the secret', async t => {
    skipDelays(t);
    const secret = formatVerifier(await makeVerifier('', systemRandom));
    const { chain } = await openLogins(t, { users: [{ kind: 'inline', name: 'anton', secret }] });
    assert.equal((await plain(chain, 'anton', '')).reply, replies.loginFailed);
  });

  test('without an initial response there is an empty challenge', async t => {
    const { chain } = await openLogins(t, {});
    const { reply, challenges } = await converse(chain, 'PLAIN', [undefined, '\0anton\0right']);
    assert.equal(reply, replies.loggedIn);
    assert.deepEqual(challenges, ['']);
  });

  test('malformed responses are 501', async t => {
    const { chain } = await openLogins(t, {});
    const bad = [
      '',
      'anton',
      'anton\0right',
      '\0anton\0right\0',
      '\0anton\0right\0more',
      Buffer.from('\0\xffnton\0right', 'latin1'),
    ];
    for (const response of bad)
      assert.equal((await converse(chain, 'PLAIN', [response])).reply, replies.badResponse, String(response));
  });

  test('nobody acts for another: an authorization identity is the login or nothing', async t => {
    skipDelays(t);
    const { chain } = await openLogins(t, {});
    assert.equal((await converse(chain, 'PLAIN', ['anton\0anton\0right'])).reply, replies.loggedIn);
    assert.equal((await converse(chain, 'PLAIN', ['berta\0anton\0right'])).reply, replies.loginFailed);
  });
});

test('LOGIN asks for name and password, or takes the name with AUTH', async t => {
  skipDelays(t);
  const { chain } = await openLogins(t, {});
  const whole = await converse(chain, 'LOGIN', [undefined, 'anton', 'right']);
  assert.equal(whole.reply, replies.loggedIn);
  assert.deepEqual(whole.challenges, ['Username:', 'Password:']);
  assert.equal((await converse(chain, 'LOGIN', ['anton', 'right'])).reply, replies.loggedIn);
  assert.equal((await converse(chain, 'LOGIN', ['anton', 'wrong'])).reply, replies.loginFailed);
  assert.equal((await converse(chain, 'LOGIN', ['anton', ''])).reply, replies.loginFailed);
  assert.equal((await converse(chain, 'LOGIN', [Buffer.from([0xff]), 'right'])).reply, replies.badResponse);
});

describe('SCRAM-SHA-256', () => {
  test('right, wrong and unknown; the server proves itself', async t => {
    skipDelays(t);
    const { chain } = await openLogins(t, {});
    const right = await scram(chain, 'anton', 'right');
    assert.equal(right.reply, replies.loggedIn);
    assert.equal(right.login?.name, 'anton');
    assert.equal(right.isServer, true);
    for (const [name, password] of [
      ['anton', 'wrong'],
      ['berta', 'right'],
    ] as const) {
      const { reply, login, challenges } = await scram(chain, name, password);
      assert.equal(reply, replies.loginFailed);
      assert.equal(login, undefined);
      assert.equal(challenges.length, 1);
    }
  });

  test('a name with a comma and an equals sign', async t => {
    const { chain } = await openLogins(t, { users: [{ kind: 'inline', name: 'a=2c,b', secret: 'right' }] });
    assert.equal((await scram(chain, 'a=2c,b', 'right')).reply, replies.loggedIn);
  });

  test('the login counts only when the client has taken the last challenge, and with an empty response', async t => {
    const { chain } = await openLogins(t, {});
    const first = clientFirst('anton', 'abc');
    for (const [response, end] of [
      ['', replies.loggedIn],
      ['x', replies.badResponse],
    ] as const) {
      const exchange = chain.begin('SCRAM-SHA-256', '192.0.2.1', () => undefined);
      const { text } = await exchange.step(Buffer.from(`n,,${first}`));
      const final = await clientFinal('right', first, Buffer.from(text, 'base64').toString());
      const last = await exchange.step(Buffer.from(final?.response ?? ''));
      assert.equal(Buffer.from(last.text, 'base64').toString(), final?.expected);
      const before: unknown = exchange.login;
      assert.equal(before, undefined);
      assert.equal(await exchange.step(Buffer.from(response)), end);
      assert.equal(exchange.login?.name, response === '' ? 'anton' : undefined);
    }
  });

  test('malformed messages are 501', async t => {
    const { chain } = await openLogins(t, {});
    const bad = [
      '',
      'n,,',
      'n=anton,r=abc',
      'n,,n=anton',
      'n,,r=abc,n=anton',
      'x,,n=anton,r=abc',
      'n,anton,n=anton,r=abc',
      'n,,m=x,n=anton,r=abc',
      'n,,n=an=ton,r=abc',
      'n,,n=anton,r=a b',
      'n,,n=anton,r=',
    ];
    for (const first of bad)
      assert.equal((await converse(chain, 'SCRAM-SHA-256', [first])).reply, replies.badResponse, first);
    for (const final of ['', 'c=biws', 'c=biws,r=abc', 'p=AAAA', 'r=abc,c=biws,p=AAAA'])
      assert.equal(
        (await converse(chain, 'SCRAM-SHA-256', ['n,,n=anton,r=abc', final])).reply,
        replies.badResponse,
        final,
      );
  });

  test('another nonce, channel or proof than agreed is no login', async t => {
    skipDelays(t);
    const { chain } = await openLogins(t, {});
    const changes: readonly ((text: string) => string)[] = [
      text => text.replace(/,r=(.)/, (_, octet) => `,r=${octet === '0' ? '1' : '0'}`),
      text => text.replace('c=biws', 'c=eSws'),
      text => text.replace(/,p=.*/, ',p=AAAA'),
      text => text.replace(',p=', ',x=1,p='),
    ];
    for (const change of changes)
      assert.equal(
        (await scram(chain, 'anton', 'right', { change })).reply,
        replies.loginFailed,
        change('c=biws,r=abc,p=AA'),
      );
  });

  test('a nonce that is not the one of this exchange is no login, though its proof is right', async t => {
    skipDelays(t);
    const { chain } = await openLogins(t, {});
    const first = clientFirst('anton', 'abc');
    const { reply } = await converse(chain, 'SCRAM-SHA-256', [
      `n,,${first}`,
      challenge => {
        const [, salt = ''] = /,s=([^,]+)/.exec(challenge) ?? [];
        const salted = pbkdf2Sync('right', Buffer.from(salt, 'base64'), 4096, 32, 'sha256');
        const clientKey = createHmac('sha256', salted).update('Client Key').digest();
        const unproven = 'c=biws,r=abcdef';
        const signature = createHmac('sha256', hash('sha256', clientKey, 'buffer')).update(
          `${first},${challenge},${unproven}`,
        );
        const mask = signature.digest();
        return `${unproven},p=${Buffer.from(clientKey.map((octet, at) => octet ^ (mask[at] ?? 0))).toString('base64')}`;
      },
    ]);
    assert.equal(reply, replies.loginFailed);
  });

  test('an unknown name asks for as much work as the known ones', async t => {
    const secret = formatVerifier({ ...(await makeVerifier('right', systemRandom)), iterations: 8192 });
    const { chain } = await openLogins(t, { users: [{ kind: 'inline', name: 'anton', secret }] });
    for (const name of ['anton', 'berta'])
      assert.match((await converse(chain, 'SCRAM-SHA-256', [`n,,n=${name},r=abc`])).challenges[0] ?? '', /,i=8192$/);
  });

  /** What a challenge shows, without the nonce. */
  const shown = async (chain: Chain, name: string): Promise<string> =>
    (await converse(chain, 'SCRAM-SHA-256', [`n,,n=${name},r=abc`])).challenges[0]?.replace(/^r=[^,]*,/, '') ?? '';
  /** Iterations, and octets of salt. */
  const shapeOf = (challenge: string): string => {
    const [, salt = '', iterations = ''] = /^s=([^,]+),i=(\d+)$/.exec(challenge) ?? [];
    return `${iterations}:${Buffer.from(salt, 'base64').length}`;
  };
  const verifier = async (iterations: number, octets: number): Promise<string> => {
    const made = await makeVerifier('right', systemRandom);
    return formatVerifier({ ...made, iterations, salt: Buffer.from(systemRandom.hex(octets), 'hex') });
  };
  const names = Array.from({ length: 60 }, (_, at) => `stranger${at}`);

  test('replicas show the same challenge for any name, by their common secret', async t => {
    const replica = async (commonSecret?: string): Promise<Chain> => (await openLogins(t, { commonSecret })).chain;
    const [one, other] = [await replica('a common secret'), await replica('a common secret')];
    const [another, alone] = [await replica('another secret'), await replica()];
    for (const name of ['anton', 'nobody']) {
      const own = await shown(one, name);
      assert.equal(await shown(other, name), own);
      assert.notEqual(await shown(another, name), own);
      assert.notEqual(await shown(alone, name), own);
    }
  });

  test('where verifiers differ, unknown names are shown what real ones are, some of each, and always the same', async t => {
    const users: readonly User[] = await Promise.all(
      [
        ['anton', 4096, 16],
        ['berta', 15_000, 16],
        ['carla', 4096, 40],
        ['dora', 4096, 100],
      ].map(async ([name, count, octets]) => {
        const secret = await verifier(Number(count), Number(octets));
        return { kind: 'inline', name: String(name), secret } as const;
      }),
    );
    const { chain, folder } = await openLogins(t, { users });
    const first = await Promise.all(names.map(name => shown(chain, name)));
    const real = ['4096:16', '15000:16', '4096:40', '4096:100'];
    assert.deepEqual(new Set(first.map(shapeOf)), new Set(real));
    const { chain: again } = await openLogins(t, { users: users.toReversed(), folder });
    assert.deepEqual(await Promise.all(names.map(name => shown(again, name))), first);
    // One user less: only the names that were shown what he has are shown something else.
    const { chain: fewer } = await openLogins(t, { users: users.slice(1), folder });
    for (const [at, name] of names.entries())
      assert.equal((await shown(fewer, name)) === first[at], shapeOf(first[at] ?? '') !== '4096:16', name);
  });

  test('what the verifiers of the table look like is learnt from its logins, and known after a restart', async t => {
    const tablePasswords = table({ anton: await verifier(20_000, 16), berta: await verifier(4096, 24) });
    const users: readonly User[] = [{ kind: 'postgresql' }];
    const { chain, folder } = await openLogins(t, { users, tablePasswords });
    assert.equal(shapeOf(await shown(chain, 'nobody')), '4096:16');
    const real = [await shown(chain, 'anton'), await shown(chain, 'berta')].map(shapeOf);
    const first = await Promise.all(names.map(name => shown(chain, name)));
    assert.deepEqual(new Set(first.map(shapeOf)), new Set(real));
    const { chain: again } = await openLogins(t, { users, tablePasswords, folder });
    assert.deepEqual(await Promise.all(names.map(name => shown(again, name))), first);
  });

  test('a password in plain text has the same salt after a restart, as a made-up one has', async t => {
    const users: readonly User[] = [anton, { kind: 'generate', name: 'demo' }];
    const { chain, folder } = await openLogins(t, { users });
    const { chain: again } = await openLogins(t, { users, folder });
    for (const name of ['anton', 'demo', 'nobody']) assert.equal(await shown(again, name), await shown(chain, name));
  });

  test('an authorization identity is the login or nothing', async t => {
    skipDelays(t);
    const { chain } = await openLogins(t, {});
    assert.equal((await scram(chain, 'anton', 'right', { header: 'n,a=anton,' })).reply, replies.loggedIn);
    assert.equal((await scram(chain, 'anton', 'right', { header: 'n,a=berta,' })).reply, replies.loginFailed);
  });

  test('an unknown name has a salt that stays, also over a restart, and differs from that of others', async t => {
    const { chain, folder } = await openLogins(t, {});
    const saltOf = async (one: typeof chain, name: string): Promise<string> =>
      (await converse(one, 'SCRAM-SHA-256', [`n,,n=${name},r=abc`])).challenges[0]?.replace(/^r=[^,]*,/, '') ?? '';
    const [first, again, asAddress, other] = [
      await saltOf(chain, 'berta'),
      await saltOf(chain, 'Berta'),
      await saltOf(chain, 'berta@example.com'),
      await saltOf(chain, 'carla'),
    ];
    assert.match(first, /^s=[A-Za-z0-9+/]{22}==,i=4096$/);
    assert.equal(again, first);
    assert.equal(asAddress, first);
    assert.notEqual(other, first);
    assert.equal(await saltOf((await openLogins(t, { folder })).chain, 'berta'), first);
    const { chain: stranger } = await openLogins(t, {});
    assert.notEqual(await saltOf(stranger, 'berta'), first);
  });
});

describe('channel binding', () => {
  for (const type of ['tls-exporter', 'tls-server-end-point'] as const)
    test(`${type}: the right one, and that of another connection`, async t => {
      skipDelays(t);
      const { chain } = await openLogins(t, {});
      const options = { header: `p=${type},,`, mechanism: 'SCRAM-SHA-256-PLUS' };
      const right = await scram(chain, 'anton', 'right', { ...options, data: bindings[type] });
      assert.equal(right.reply, replies.loggedIn);
      const relayed = await scram(chain, 'anton', 'right', { ...options, data: Buffer.alloc(32, 8) });
      assert.equal(relayed.reply, replies.loginFailed);
    });

  test('a type that this connection has not, or a mechanism that does not fit the header', async t => {
    skipDelays(t);
    const { chain } = await openLogins(t, {});
    const data = bindings['tls-exporter'];
    for (const [header, mechanism] of [
      ['p=tls-unique,,', 'SCRAM-SHA-256-PLUS'],
      ['n,,', 'SCRAM-SHA-256-PLUS'],
      ['p=tls-exporter,,', 'SCRAM-SHA-256'],
    ] as const)
      assert.equal(
        (await scram(chain, 'anton', 'right', { header, mechanism, data })).reply,
        replies.loginFailed,
        header + mechanism,
      );
  });

  test('a client that was not told of -PLUS is refused where we offer it, and welcome where we do not', async t => {
    skipDelays(t);
    const { chain } = await openLogins(t, {});
    assert.equal((await scram(chain, 'anton', 'right', { header: 'y,,' })).reply, replies.loginFailed);
    const { chain: without } = await openLogins(t, { offered: ['PLAIN', 'SCRAM-SHA-256'] });
    assert.deepEqual(without.mechanisms, ['SCRAM-SHA-256', 'PLAIN']);
    assert.equal((await scram(without, 'anton', 'right', { header: 'y,,' })).reply, replies.loggedIn);
  });
});

describe('mechanisms', () => {
  test('best first; none of SCRAM with @PAM; none at all without users', async t => {
    assert.deepEqual((await openLogins(t, {})).chain.mechanisms, [
      'SCRAM-SHA-256-PLUS',
      'SCRAM-SHA-256',
      'PLAIN',
      'LOGIN',
    ]);
    const pam = await openLogins(t, { users: [anton, { kind: 'pam' }], steward: steward() });
    assert.deepEqual(pam.chain.mechanisms, ['PLAIN', 'LOGIN']);
    assert.deepEqual((await openLogins(t, { users: [] })).chain.mechanisms, []);
  });
});

describe('names', () => {
  const users: readonly User[] = [anton, { kind: 'inline', name: 'Bérta@Bücher.example', secret: 'right' }];
  const cases: readonly (readonly [string, string | undefined])[] = [
    ['anton', 'anton@example.com'],
    ['ANTON', 'anton@example.com'],
    ['anton@example.com', 'anton@example.com'],
    ['Anton@EXAMPLE.com', 'anton@example.com'],
    ['anton@example.net', undefined],
    ['anton@', undefined],
    ['@example.com', undefined],
    ['anton@example.net@example.com', undefined],
    ['be\u0301rta@xn--bcher-kva.example', 'bérta@xn--bcher-kva.example'],
    ['BÉRTA@bücher.example', 'bérta@xn--bcher-kva.example'],
    ['bérta', undefined],
    ['anton\n', undefined],
    ['anton@example.com\n', undefined],
    ['anton@exam\tple.com', undefined],
    ['anton\u0085', undefined],
    ['bérta\u2028@xn--bcher-kva.example', undefined],
    ['BÉRTA@bücher.example\r\n', undefined],
    ['BÉRTA@bücher.example/', undefined],
    ['BÉRTA@bücher%2eexample', undefined],
    ['bérta@example.com', undefined],
  ];
  for (const [name, address] of cases)
    test(`${JSON.stringify(name)} is ${address ?? 'nobody'}`, async t => {
      skipDelays(t);
      const { chain } = await openLogins(t, { users });
      const { login } = await plain(chain, name, 'right');
      assert.equal(login && `${login.address.local}@${login.address.domain}`, address);
      if (login) assert.equal(login.name, name);
    });

  test('with a second @, the first domain makes no whole name of what stands before it', async t => {
    skipDelays(t);
    const { chain } = await openLogins(t, { users: [{ kind: 'inline', name: 'a@b.example', secret: 'right' }] });
    assert.equal((await plain(chain, 'a@b.example', 'right')).reply, replies.loggedIn);
    assert.equal((await plain(chain, 'a@b.example@example.com', 'right')).reply, replies.loginFailed);
  });
});

describe('the chain', () => {
  test('the first source that knows the name decides', async t => {
    skipDelays(t);
    const tablePasswords = table({
      berta: formatVerifier(await makeVerifier('tabled', systemRandom)),
      anton: formatVerifier(await makeVerifier('tabled', systemRandom)),
    });
    const { chain } = await openLogins(t, { users: [anton, { kind: 'postgresql' }], tablePasswords });
    assert.equal((await plain(chain, 'anton', 'right')).reply, replies.loggedIn);
    assert.equal((await plain(chain, 'anton', 'tabled')).reply, replies.loginFailed);
    assert.equal((await scram(chain, 'berta', 'tabled')).reply, replies.loggedIn);
    assert.deepEqual(await chain.check('anton', 'right'), { ok: true, source: 'SLIM_USERS' });
    assert.deepEqual(await chain.check('berta@example.com', 'wrong'), { ok: false, source: '@POSTGRESQL' });
    assert.deepEqual(await chain.check('carla', 'x'), { ok: false, source: 'no source knows the name' });
  });

  test('a source that cannot answer is 454 at once, but not for whom an earlier one knows', async t => {
    const { chain } = await openLogins(t, {
      users: [anton, { kind: 'postgresql' }, { kind: 'inline', name: 'zoe', secret: 'right' }],
      tablePasswords: noAnswer,
    });
    assert.equal((await plain(chain, 'anton', 'right')).reply, replies.loggedIn);
    assert.equal((await plain(chain, 'zoe', 'right')).reply, replies.cannotLogin);
    assert.equal((await plain(chain, 'nobody', 'right')).reply, replies.cannotLogin);
    assert.equal((await converse(chain, 'SCRAM-SHA-256', ['n,,n=zoe,r=abc'])).reply, replies.cannotLogin);
    await assert.rejects(chain.check('zoe', 'right'), CannotTell);
  });

  test('a surprise is 454 too, and logged with its stack', async t => {
    const tablePasswords: TablePasswords = async () => {
      throw new TypeError('a bug');
    };
    const { chain, lines } = await openLogins(t, { users: [{ kind: 'postgresql' }], tablePasswords });
    assert.equal((await plain(chain, 'anton', 'right')).reply, replies.cannotLogin);
    assert.equal(lines.find(({ level }) => level === 'error')?.fields['err'] instanceof TypeError, true);
  });

  test('passwords in plain text are warned about once, by name, and never shown', async t => {
    const { lines } = await openLogins(t, {
      users: [anton, { kind: 'inline', name: 'v', secret: formatVerifier(await makeVerifier('x', systemRandom)) }],
    });
    assert.equal(lines.length, 1);
    assert.deepEqual(lines[0]?.fields, { accounts: ['anton'] });
    assert.ok(!JSON.stringify(lines).includes('right'));
  });
});

describe('@PAM', () => {
  const users: readonly User[] = [{ kind: 'pam' }];
  test('the steward is asked, for what is no account too, and the login says which one', async t => {
    skipDelays(t);
    const asked: string[] = [];
    const { chain } = await openLogins(t, { users, steward: steward(asked) });
    assert.deepEqual((await plain(chain, 'anton@example.com', 'unix')).login, {
      name: 'anton@example.com',
      address: { local: 'anton', domain: 'example.com' },
      account: 'anton',
    });
    assert.equal((await plain(chain, 'anton', 'wrong')).reply, replies.loginFailed);
    assert.equal((await plain(chain, 'root', 'unix')).reply, replies.loginFailed);
    assert.equal((await plain(chain, 'anton@example.net', 'unix')).reply, replies.loginFailed);
    assert.equal((await plain(chain, 'anton', Buffer.from([0xff]))).reply, replies.loginFailed);
    // Otherwise time would tell which of them are.
    assert.deepEqual(asked, ['anton:unix', 'anton:wrong', 'nobody:unix', 'nobody:unix']);
    assert.deepEqual(await chain.check('anton', 'unix'), { ok: true, source: '@PAM' });
  });

  test('a wrong password of any other login waits for it too, a right one does not', async t => {
    skipDelays(t);
    const asked: string[] = [];
    const { chain } = await openLogins(t, { users: [{ ...anton, name: 'berta' }, ...users], steward: steward(asked) });
    assert.equal((await plain(chain, 'berta', 'right')).reply, replies.loggedIn);
    assert.equal((await plain(chain, 'berta', 'wrong')).reply, replies.loginFailed);
    assert.deepEqual(asked, ['nobody:wrong']);
  });

  test('a steward that cannot answer is 454', async t => {
    const down = await openLogins(t, { users, steward: { ...steward(), authenticate: noAnswer } });
    assert.equal((await plain(down.chain, 'anton', 'unix')).reply, replies.cannotLogin);
    const lost = await openLogins(t, {
      users,
      steward: { ...steward(), accounts: { find: noAnswer, owner: noAnswer } },
    });
    assert.equal((await plain(lost.chain, 'anton', 'unix')).reply, replies.cannotLogin);
    assert.equal((await plain((await openLogins(t, { users })).chain, 'anton', 'unix')).reply, replies.cannotLogin);
  });
});

describe('@POSTGRESQL', () => {
  const users: readonly User[] = [{ kind: 'postgresql' }];

  test('a name is looked for as it was written, whole and bare, the whole one first', async t => {
    skipDelays(t);
    const asked: (readonly string[])[] = [];
    const tablePasswords: TablePasswords = async names => {
      asked.push(names);
      return undefined;
    };
    const { chain } = await openLogins(t, { users, tablePasswords });
    for (const name of ['Anton', 'Anton@Example.com', 'anton@example.net']) await plain(chain, name, 'x');
    assert.deepEqual(asked, [
      ['Anton', 'anton'],
      ['Anton@Example.com', 'anton@example.com', 'Anton', 'anton'],
      ['anton@example.net', 'anton@example.net'],
    ]);
  });

  test('a password that is no verifier is "cannot tell", logged once a minute, without the password', async t => {
    let now = 1_000_000;
    const { chain, lines } = await openLogins(t, {
      users,
      tablePasswords: table({ anton: 'plaintext' }),
      clock: { now: () => now },
    });
    const complaints = () => lines.filter(({ level }) => level === 'error');
    for (let tries = 0; tries < 3; tries += 1)
      assert.equal((await plain(chain, 'anton', 'plaintext')).reply, replies.cannotLogin);
    assert.equal(complaints().length, 1);
    now += 60_000;
    await plain(chain, 'anton', 'plaintext');
    assert.equal(complaints().length, 2);
    assert.ok(!JSON.stringify(lines).includes('plaintext'));
  });
});

describe('@GENERATE', () => {
  const users: readonly User[] = [
    { kind: 'generate', name: 'demo' },
    { kind: 'generate', name: 'demo@example.net' },
  ];

  test('makes a password once, for its owner to read, and logs nothing', async t => {
    const { chain, folder, lines } = await openLogins(t, { users });
    const password = readGenerated(folder).get('demo') ?? '';
    assert.match(password, /^[a-km-np-z2-9]{20}$/);
    assert.notEqual(readGenerated(folder).get('demo@example.net'), password);
    assert.equal(readGenerated(folder).get('other'), undefined);
    assert.equal(statSync(join(folder, 'passwords')).mode & 0o777, 0o600);
    assert.deepEqual(lines, []);
    assert.equal((await scram(chain, 'demo', password)).reply, replies.loggedIn);
    assert.equal(
      (await plain(chain, 'demo@example.net', readGenerated(folder).get('demo@example.net') ?? '')).reply,
      replies.loggedIn,
    );
  });

  test('keeps it over restarts, and when another name comes or one goes', async t => {
    const { folder } = await openLogins(t, { users });
    const [password, written] = [readGenerated(folder).get('demo'), readFileSync(join(folder, 'passwords'), 'utf8')];
    const { ino } = statSync(join(folder, 'passwords'));
    await openLogins(t, { users, folder });
    assert.equal(statSync(join(folder, 'passwords')).ino, ino);
    assert.equal(readFileSync(join(folder, 'passwords'), 'utf8'), written);
    await openLogins(t, { users: [{ kind: 'generate', name: 'new' }], folder });
    assert.ok(readGenerated(folder).get('new'));
    assert.equal(readGenerated(folder).get('demo'), password);
  });

  test('no file, no password', async t => {
    const { folder } = await openLogins(t, { users });
    writeFileSync(join(folder, 'passwords'), '');
    assert.equal(readGenerated(folder).get('demo'), undefined);
    rmSync(join(folder, 'passwords'));
    assert.equal(readGenerated(folder).get('demo'), undefined);
  });
});

describe('the delay', () => {
  /** How long a login waits, as the timers have it; they run at once. `tookMs` is what the checking takes. */
  async function waitOf(t: TestContext, name: string, password: string, tookMs = 0): Promise<number[]> {
    let now = 0;
    const tablePasswords: TablePasswords = async () => {
      now += tookMs;
      return undefined;
    };
    const secret = formatVerifier(await makeVerifier('right', systemRandom));
    const { chain } = await openLogins(t, {
      users: [{ kind: 'inline', name: 'anton', secret }, { kind: 'postgresql' }],
      tablePasswords,
      clock: { now: () => now },
    });
    const waits: number[] = [];
    const real = globalThis.setTimeout;
    const double = t.mock.method(globalThis, 'setTimeout', ((work: () => void, ms = 0) => {
      if (ms <= 10_000) waits.push(ms);
      return real(work, ms <= 10_000 ? 0 : ms);
    }) as typeof setTimeout);
    await plain(chain, name, password);
    double.mock.restore();
    return waits;
  }

  test('a failure waits for two seconds, a known name as an unknown one; a success does not', async t => {
    assert.deepEqual(await waitOf(t, 'anton', 'right'), []);
    assert.deepEqual(await waitOf(t, 'anton', 'wrong'), [2000]);
    assert.deepEqual(await waitOf(t, 'berta', 'wrong'), [2000]);
    assert.deepEqual(await waitOf(t, 'berta', ''), [2000]);
  });

  test('what took longer is answered at the next multiple', async t => {
    assert.deepEqual(await waitOf(t, 'berta', 'wrong', 500), [1500]);
    assert.deepEqual(await waitOf(t, 'berta', 'wrong', 2300), [1700]);
  });

  test('for real, and others are served meanwhile', async t => {
    const { chain } = await openLogins(t, {});
    const startedAt = performance.now();
    const failing = [plain(chain, 'anton', 'wrong'), plain(chain, 'berta', 'wrong'), scram(chain, 'berta', 'wrong')];
    const took = failing.map(async each => (await each, performance.now() - startedAt));
    await plain(chain, 'anton', 'right');
    assert.ok(performance.now() - startedAt < 1000);
    for (const ms of await Promise.all(took)) assert.ok(ms > 1980 && ms < 2500, `${ms} ms`);
  });
});

describe('the throttle', () => {
  const fail = async (
    chain: Parameters<typeof plain>[0],
    times: number,
    name: string,
    client: string,
  ): Promise<void> => {
    for (let tries = 0; tries < times; tries += 1)
      assert.equal((await plain(chain, name, 'wrong', client)).reply, replies.loginFailed);
  };

  test('a client with more than ten failures is refused unchecked, right or wrong, and nobody else is', async t => {
    skipDelays(t);
    const { chain } = await openLogins(t, {});
    for (const name of ['anton', 'berta', 'carla']) await fail(chain, 3, name, '192.0.2.1');
    await fail(chain, 1, 'anton', '192.0.2.1');
    assert.equal((await plain(chain, 'anton', 'right', '192.0.2.1')).reply, replies.loggedIn);
    await fail(chain, 1, 'anton', '192.0.2.1');
    assert.equal((await plain(chain, 'anton', 'right', '192.0.2.1')).reply, replies.tooManyLogins);
    assert.equal(
      (await converse(chain, 'SCRAM-SHA-256', ['n,,n=anton,r=abc'], '192.0.2.1')).reply,
      replies.tooManyLogins,
    );
    assert.equal((await plain(chain, 'anton', 'right', '192.0.2.2')).reply, replies.loggedIn);
  });

  test('of fifty guesses at once no more are judged than one after the other', async t => {
    skipDelays(t);
    const { chain } = await openLogins(t, {});
    const replied = async (guesses: readonly Promise<{ readonly reply: unknown }>[]) => {
      const all = (await Promise.all(guesses)).map(({ reply }) => reply);
      assert.ok(all.every(reply => reply === replies.loginFailed || reply === replies.tooManyLogins));
      return all.filter(reply => reply === replies.loginFailed).length;
    };
    const fifty = Array.from({ length: 50 }, (_, at) => at);
    assert.equal(await replied(fifty.map(at => plain(chain, at % 2 ? 'anton' : `no${at}`, 'x', '192.0.2.1'))), 11);
    const client = '192.0.2.2';
    const guess = (at: number) => scram(chain, at % 2 ? 'anton' : `no${at}`, 'wrong', { client });
    assert.equal(await replied(fifty.map(guess)), 11);
    // Those that only begin take no place.
    for (const at of fifty)
      chain.begin('SCRAM-SHA-256', '192.0.2.3', () => undefined).step(Buffer.from(`n,,n=n${at},r=abc`));
    assert.equal((await plain(chain, 'anton', 'right', '192.0.2.3')).reply, replies.loggedIn);
  });

  test('a shared address has no more guesses at once at an account under attack than others', async t => {
    skipDelays(t);
    const { chain } = await openLogins(t, { isShared: client => client === '172.17.0.1' });
    const all = await Promise.all(Array.from({ length: 50 }, () => plain(chain, 'anton', 'x', '172.17.0.1')));
    assert.equal(all.filter(({ reply }) => reply === replies.loginFailed).length, 21);
    assert.equal((await plain(chain, 'berta', 'x', '172.17.0.1')).reply, replies.loginFailed);
  });

  test('fifty right logins at once all succeed, also while the account is under attack, and one wrong among them counts once', async t => {
    skipDelays(t);
    const { chain } = await openLogins(t, {});
    for (let host = 1; host <= 21; host += 1) await fail(chain, 1, 'anton', `192.0.2.${host}`);
    const all = await Promise.all(Array.from({ length: 50 }, () => plain(chain, 'anton', 'right', '198.51.100.1')));
    assert.ok(all.every(({ reply }) => reply === replies.loggedIn));
    await fail(chain, 11, 'berta', '198.51.100.2');
    assert.equal((await plain(chain, 'berta', 'x', '198.51.100.2')).reply, replies.tooManyLogins);
  });

  test('a place is given back when a guess cannot be judged', async t => {
    skipDelays(t);
    const { chain } = await openLogins(t, {
      users: [{ kind: 'pam' }],
      steward: { ...steward(), authenticate: noAnswer },
    });
    const all = await Promise.all(Array.from({ length: 50 }, () => plain(chain, 'anton', 'x')));
    assert.ok(all.every(({ reply }) => reply === replies.cannotLogin));
  });

  test('clients count by their key: an IPv6 network is one', async t => {
    skipDelays(t);
    const { chain } = await openLogins(t, { clientKey: client => client.slice(0, 9) });
    for (let host = 1; host <= 11; host += 1) await fail(chain, 1, 'anton', `2001:db8:${host}`);
    assert.equal((await plain(chain, 'anton', 'right', '2001:db8:99')).reply, replies.tooManyLogins);
  });

  test('a shared address is never shut out as such', async t => {
    skipDelays(t);
    const { chain } = await openLogins(t, { isShared: client => client === '172.17.0.1' });
    await fail(chain, 15, 'berta', '172.17.0.1');
    assert.equal((await plain(chain, 'anton', 'right', '172.17.0.1')).reply, replies.loggedIn);
  });

  test('an account under attack is shut for those that have failed, shared ones too, and open from elsewhere', async t => {
    skipDelays(t);
    const { chain } = await openLogins(t, { isShared: client => client === '172.17.0.1' });
    for (let host = 1; host <= 20; host += 1)
      await fail(chain, 1, host % 2 ? 'anton' : 'Anton@example.com', `192.0.2.${host}`);
    assert.equal((await plain(chain, 'anton', 'right', '192.0.2.1')).reply, replies.loggedIn);
    await fail(chain, 1, 'anton', '172.17.0.1');
    for (const client of ['192.0.2.1', '172.17.0.1']) {
      assert.equal((await plain(chain, 'anton', 'right', client)).reply, replies.tooManyLogins, client);
      assert.equal((await plain(chain, 'berta', 'wrong', client)).reply, replies.loginFailed, client);
    }
    assert.equal((await plain(chain, 'anton', 'right', '198.51.100.1')).reply, replies.loggedIn);
  });

  test('it is the same for a name that nobody has', async t => {
    skipDelays(t);
    const { chain } = await openLogins(t, {});
    for (let host = 1; host <= 21; host += 1) await fail(chain, 1, 'nobody', `192.0.2.${host}`);
    assert.equal((await plain(chain, 'nobody', 'x', '192.0.2.1')).reply, replies.tooManyLogins);
  });

  test('an outage and a malformed response are nobody’s failure', async t => {
    skipDelays(t);
    const { chain } = await openLogins(t, { users: [anton, { kind: 'postgresql' }], tablePasswords: noAnswer });
    for (let tries = 0; tries < 15; tries += 1) {
      await plain(chain, 'berta', 'x');
      await converse(chain, 'PLAIN', ['nonsense']);
    }
    assert.equal((await plain(chain, 'anton', 'right')).reply, replies.loggedIn);
  });
});

test('fifty logins at once leave the event loop free', async t => {
  const { chain } = await openLogins(t, {
    users: [{ kind: 'inline', name: 'anton', secret: formatVerifier(await makeVerifier('right', systemRandom)) }],
  });
  // What this thread has worked without a turn of the event loop: also on a busy machine only our own doing.
  const workedMs = (): number => {
    const { user, system } = process.threadCpuUsage();
    return (user + system) / 1000;
  };
  let longest = 0;
  let last = workedMs();
  const timer = setInterval(() => {
    const now = workedMs();
    longest = Math.max(longest, now - last);
    last = now;
  }, 1);
  const outcomes = await Promise.all(Array.from({ length: 50 }, () => plain(chain, 'anton', 'right')));
  clearInterval(timer);
  assert.ok(outcomes.every(({ reply }) => reply === replies.loggedIn));
  assert.ok(longest < 100, `${longest} ms`);
});
