// Routing from settings and Unix accounts, rule by rule of DESIGN §3, with real directories. Only the accounts are a
// double: a few made-up ones, and a steward that does not answer. The table is tested with a real PostgreSQL.
import assert from 'node:assert/strict';
import { hash } from 'node:crypto';
import { test } from 'node:test';
import { formatMailbox } from '../../src/mail/address.ts';
import { CannotTell } from '../../src/mail/ports.ts';
import type { Account, Accounts, AskMailbox, Directory, Found, Resolve } from '../../src/mail/ports.ts';
import { accountDirectory } from '../../src/routing/accounts.ts';
import { type Entry, addressDirectory, defaultDirectory, domainDirectory } from '../../src/routing/address-map.ts';
import { postmasterDirectory } from '../../src/routing/address-map.ts';
import { toFileName } from '../../src/postgres/routes.ts';
import { createResolver } from '../../src/routing/resolver.ts';
import { directoryContract, mailbox } from '../contract/directory.ts';

/** Entries of SLIM_STORAGES, and where they lead. */
type To = Pick<Entry, 'path' | 'forward' | 'server'>;
const ofAddress = (text: string, to: To): Entry => ({ kind: 'address', key: formatMailbox(mailbox(text)), ...to });
const ofDomain = (domain: string, to: To): Entry => ({ kind: 'domain', key: `*@${domain}`, ...to });
const ofAll = (to: To): Entry => ({ kind: 'default', key: 'default', ...to });

const people: Account[] = [
  { name: 'anton', uid: 1000, gid: 1000, home: '/home/anton' },
  { name: 'postmaster', uid: 1001, gid: 1001, home: '/home/postmaster' },
];
const accounts: Accounts = {
  find: async name => people.find(each => each.name === name && name !== 'postmaster'),
  owner: async path => people.find(each => path === each.home || path.startsWith(`${each.home}/`)),
};
const gone = () => Promise.reject(new CannotTell('the steward does not answer'));
const brokenAccounts: Accounts = { find: gone, owner: gone };

type Setup = {
  addresses?: Record<string, string>;
  domains?: Record<string, string>;
  default?: string;
  pam?: Accounts;
  subaddress?: string;
  extra?: Directory[];
};

function setUp(setup: Setup): Resolve {
  const map = [
    ...Object.entries(setup.addresses ?? {}).map(([text, path]) => ofAddress(text, { path })),
    ...Object.entries(setup.domains ?? {}).map(([domain, path]) => ofDomain(domain, { path })),
    ...(setup.default === undefined ? [] : [ofAll({ path: setup.default })]),
  ];
  return createResolver({
    directories: [
      addressDirectory(map, accounts),
      ...(setup.extra ?? []),
      ...(setup.pam ? [accountDirectory(setup.pam)] : []),
      domainDirectory(map, accounts),
      defaultDirectory(map, accounts),
      postmasterDirectory('/var/mail'),
    ],
    domains: { hosts: async domain => ['example.com', 'xn--bcher-kva.example', 'other.example'].includes(domain) },
    subaddress: setup.subaddress ?? '+',
    mainDomain: 'example.com',
  });
}

async function where(setup: Setup, address: string): Promise<string> {
  const resolution = await setUp(setup)(mailbox(address));
  if (resolution.kind !== 'local') return resolution.kind;
  return resolution.routes
    .map(route => (route.kind === 'maildir' ? route.path : `${route.account}:${route.folder}`))
    .join(' ');
}

const everything: Setup = {
  addresses: { 'anton@example.com': '/m/anton', 'anton+vip@example.com': '/m/vip', 'büro@bücher.example': '/m/büro' },
  domains: { 'other.example': '/m/other' },
  default: '/m/default',
  pam: accounts,
};
const strict: Setup = { pam: accounts };

const examples: [title: string, setup: Setup, address: string, outcome: string][] = [
  ['an address of the settings wins over the account of that name', everything, 'anton@example.com', '/m/anton'],
  ['an address compares without regard to case', everything, 'ANTON@Example.COM', '/m/anton'],
  ['an address compares in NFC, and its domain as A-labels', everything, 'BU\u0308RO@xn--bcher-kva.example', '/m/büro'],
  ['a subaddress leads to its base', everything, 'anton+shop@example.com', '/m/anton'],
  ['an exact address wins over its base', everything, 'anton+vip@example.com', '/m/vip'],
  ['a subaddress ends at the first separator', everything, 'anton+vip+x@example.com', '/m/anton'],
  ['an empty base is nobody, so the catch-all takes it', everything, '+shop@example.com', '/m/default'],
  ['an empty base without a catch-all is unknown', strict, '+shop@example.com', 'unknown'],
  ['another separator may be set', { ...everything, subaddress: '-' }, 'anton-shop@example.com', '/m/anton'],
  ['without a separator there are no subaddresses', { ...strict, subaddress: '' }, 'anton+shop@example.com', 'unknown'],
  ['an account is found by its name', strict, 'anton@other.example', 'anton:Maildir'],
  ['an account is found without its subaddress', strict, 'anton+x@other.example', 'anton:Maildir'],
  ['an account wins over *@domain', everything, 'anton@other.example', 'anton:Maildir'],
  ['*@domain wins over the catch-all', everything, 'nobody@other.example', '/m/other'],
  ['the catch-all takes what nobody knows', everything, 'nobody@example.com', '/m/default'],
  ['without a catch-all nobody is unknown', strict, 'nobody@example.com', 'unknown'],
  ['a domain that is not ours is elsewhere, catch-all or not', everything, 'anton@elsewhere.example', 'elsewhere'],
  ['postmaster has a home of last resort', strict, 'postmaster@example.com', '/var/mail/postmaster'],
  ['postmaster without domain is that of the first domain', strict, 'Postmaster@', '/var/mail/postmaster'],
  ['a subaddress of postmaster is postmaster', strict, 'postmaster+x@example.com', '/var/mail/postmaster'],
  ['postmaster goes to the catch-all where there is one', everything, 'postmaster@example.com', '/m/default'],
  ['postmaster of a domain that is not ours is elsewhere', strict, 'postmaster@elsewhere.example', 'elsewhere'],
  [
    'postmaster goes to its own address where there is one',
    { ...everything, addresses: { 'postmaster@example.com': '/m/pm' } },
    'postmaster@',
    '/m/pm',
  ],
  [
    'a path inside a home is delivered as its account',
    { default: '/home/anton/Maildir/lists' },
    'x@example.com',
    'anton:Maildir/lists',
  ],
];
for (const [title, setup, address, outcome] of examples) {
  test(`${title}: ${address}`, async () => assert.equal(await where(setup, address), outcome));
}

test('what is found says whether the address is the own one of the mailbox', async () => {
  const aliases = { 'a.n@example.com': '/m/shared', 'info@example.com': '/m/shared', 'berta@example.com': '/m/berta' };
  const resolve = setUp({ ...everything, addresses: aliases });
  for (const [address, via] of [
    ['berta@example.com', undefined],
    ['berta+shop@example.com', 'alias'],
    ['a.n@example.com', 'alias'],
    ['info@example.com', 'alias'],
    ['anton@example.com', undefined],
    ['anton+x@example.com', 'alias'],
    ['x@other.example', 'catch-all'],
    ['x+y@example.com', 'catch-all'],
  ] as const) {
    const found = await resolve(mailbox(address));
    assert.equal(found.kind === 'local' ? found.via : found.kind, via, address);
  }
});

test('a directory that cannot tell ends the question: nothing falls into the catch-all', async () => {
  const resolver = setUp({ ...everything, pam: brokenAccounts });
  await assert.rejects(resolver(mailbox('nobody@example.com')), CannotTell);
  await assert.rejects(resolver(mailbox('postmaster@example.com')), CannotTell);
});

test('a directory that is asked earlier answers although a later one cannot', async () => {
  assert.equal(await where({ ...everything, pam: brokenAccounts }, 'anton@example.com'), '/m/anton');
});

test('each directory is asked for the exact address and then for its base, before the next is', async () => {
  const asked: string[] = [];
  const spy = (name: string): Directory => ({
    name,
    lookup: async each => void asked.push(`${name} ${each.local}`) as undefined,
  });
  assert.equal(await where({ extra: [spy('A'), spy('B')] }, 'anton+x@example.com'), 'unknown');
  assert.deepEqual(asked, ['A anton+x', 'A anton', 'B anton+x', 'B anton']);
  asked.length = 0;
  assert.equal(await where({ extra: [spy('A')] }, '+x@example.com'), 'unknown');
  assert.deepEqual(asked, ['A +x'], 'an empty base is not asked for');
});

test('a decision is explained step by step, by the names of the directories', async () => {
  const lines: string[] = [];
  await setUp(everything)(mailbox('anton+x@other.example'), line => lines.push(line));
  assert.deepEqual(lines, [
    'other.example is hosted here',
    'SLIM_STORAGES: no entry for anton+x@other.example',
    'SLIM_STORAGES: no entry for anton@other.example',
    '@PAM: no entry for anton+x@other.example',
    '@PAM: Unix account anton (uid 1000): /home/anton/Maildir',
  ]);
});

test('the last home of postmaster is made where missing, below the mail root', async () => {
  const routes = await postmasterDirectory('/var/mail').lookup(mailbox('postmaster@example.com'), () => {});
  assert.deepEqual(routes, { routes: [{ kind: 'maildir', path: '/var/mail/postmaster', root: '/var/mail' }] });
});

const map = [
  ofAddress('anton@example.com', { path: '/m/anton' }),
  ofDomain('example.com', { path: '/m/all' }),
  ofAll({ path: '/m/default' }),
];
directoryContract('the directory of addresses', () => ({
  directory: addressDirectory(map, accounts),
  known: 'anton@example.com',
  unknown: 'berta@example.com',
  broken: addressDirectory(map, brokenAccounts),
}));
directoryContract('the directory of domains', () => ({
  directory: domainDirectory(map, accounts),
  known: 'anyone@example.com',
  unknown: 'anyone@other.example',
  broken: domainDirectory(map, brokenAccounts),
}));
directoryContract('the catch-all', () => ({
  directory: defaultDirectory(map, undefined),
  known: 'anyone@example.com',
  broken: defaultDirectory(map, brokenAccounts),
}));
directoryContract("postmaster's last home", () => ({
  directory: postmasterDirectory('/var/mail'),
  known: 'postmaster@example.com',
  unknown: 'anton@example.com',
}));
directoryContract('the directory of Unix accounts', () => ({
  directory: accountDirectory(accounts),
  known: 'anton@example.com',
  unknown: 'berta@example.com',
  broken: accountDirectory(brokenAccounts),
}));

const names: [name: string, encoded: string][] = [
  ['anton', 'anton'],
  ['anton.b c', 'anton.b c'],
  ['bü+x', 'bü+x'],
  ['.', '%2E'],
  ['..', '%2E.'],
  ['.hidden', '%2Ehidden'],
  ['a/b', 'a%2Fb'],
  ['../../x', '%2E.%2F..%2Fx'],
  ['100%', '100%25'],
  ['%2e', '%252e'],
  ['a\0b\n\x7f\u0085', 'a%00b%0A%7F%C2%85'],
  ['x'.repeat(255), 'x'.repeat(255)],
  ['', '%empty'],
  [`${'%'.repeat(84)}abc`, `${'%25'.repeat(84)}abc`],
  [`${'%'.repeat(84)}abcd`, `%sha256-${hash('sha256', `${'%'.repeat(84)}abcd`)}`],
];
for (const [name, encoded] of names) {
  test(`as a file name, ${JSON.stringify(name.slice(0, 20))} is ${encoded.slice(0, 20)}`, () =>
    assert.equal(toFileName(name), encoded));
}

const forwardTo = (address: string) => ({ address, mailbox: mailbox(address) });
/** `forwards`: from and to. */
function forwarding(
  forwards: readonly (readonly [string, string])[],
  addresses: Record<string, string> = {},
  fallback?: string,
) {
  const forwardMap = [
    ...Object.entries(addresses).map(([text, path]) => ofAddress(text, { path })),
    ...forwards.map(([from, to]) => ofAddress(from, { forward: forwardTo(to) })),
    ...(fallback === undefined ? [] : [ofAll({ path: fallback })]),
  ];
  return createResolver({
    directories: [addressDirectory(forwardMap, undefined), defaultDirectory(forwardMap, undefined)],
    domains: { hosts: async domain => ['example.com', 'other.example'].includes(domain) },
    subaddress: '+',
    mainDomain: 'example.com',
  });
}
const maildir = (path: string) => ({ kind: 'maildir', path, root: path });

test('a forward leads to other servers, and to whatever an address of ours leads to', async () => {
  const resolve = forwarding(
    [
      ['anna@example.com', 'anna@example.net'],
      ['both@example.com', 'x@example.net'],
      ['both@example.com', 'anton@other.example'],
      ['far@example.com', 'both@example.com'],
    ],
    { 'both@example.com': '/m/both', 'anton@other.example': '/m/anton' },
  );
  const away = { kind: 'local', routes: [], forwards: [forwardTo('anna@example.net')] };
  assert.deepEqual(await resolve(mailbox('anna@example.com')), away);
  assert.deepEqual(await resolve(mailbox('anna+shop@example.com')), { ...away, via: 'alias' });
  const both = { kind: 'local', via: 'alias', routes: [maildir('/m/both'), maildir('/m/anton')] };
  const forwards = [forwardTo('x@example.net')];
  assert.deepEqual(await resolve(mailbox('both@example.com')), { ...both, own: [maildir('/m/both')], forwards });
  assert.deepEqual(await resolve(mailbox('far@example.com')), { ...both, own: [], forwards });
});

test('a loop of forwards ends; one that leads to nobody cannot be told, and never falls into the catch-all', async () => {
  const loop = [
    ['a@example.com', 'b@example.com'],
    ['b@example.com', 'a@example.com'],
  ] as const;
  const isNothing = (error: unknown): boolean => error instanceof CannotTell && error.status === '4.3.5';
  await assert.rejects(forwarding(loop)(mailbox('a@example.com')), isNothing);
  await assert.rejects(forwarding(loop, {}, '/m/default')(mailbox('a@example.com')), isNothing);
  await assert.rejects(forwarding([['a@example.com', 'a@example.com']])(mailbox('a@example.com')), isNothing);
  await assert.rejects(forwarding([['a@example.com', 'nobody@example.com']])(mailbox('a@example.com')), isNothing);
  const found = await forwarding(loop, { 'b@example.com': '/m/b' })(mailbox('a@example.com'));
  assert.deepEqual(found.kind === 'local' && found.routes, [maildir('/m/b')]);
});

test('so many addresses are followed, and no more', async () => {
  const many = Array.from({ length: 1001 }, (_, at) => ['a@example.com', `x${at}@example.net`] as const);
  const found = await forwarding(many.slice(1))(mailbox('a@example.com'));
  assert.equal(found.kind === 'local' && found.forwards?.length, 1000);
  await assert.rejects(forwarding(many)(mailbox('a@example.com')), CannotTell);
});

test('an address for bounces leads to whom it was made for; a forged one is unknown, whatever the catch-all', async () => {
  const back = forwardTo('Anna@example.net');
  const resolve = createResolver({
    directories: [defaultDirectory([ofAll({ path: '/m/default' })])],
    domains: { hosts: async domain => domain === 'example.com' },
    subaddress: '+',
    mainDomain: 'example.com',
    returnPaths: {
      forForward: async from => from,
      wayBack: ({ local }) => (local === 'SRS0=Anna' ? back : local.startsWith('srs0') ? 'forged or old' : undefined),
    },
  });
  const lines: string[] = [];
  const written = await resolve(mailbox('srs0=anna@example.com'), line => lines.push(line), 'SRS0=Anna');
  assert.deepEqual(written, { kind: 'local', routes: [], forwards: [back], isForBounces: true });
  assert.match(lines.join('\n'), /takes bounces, with the null reverse-path, for Anna@example\.net/);
  assert.deepEqual(await resolve(mailbox('srs0=anna@example.com')), { kind: 'unknown' });
});

test('a mailbox at an LMTP server: what the server says decides, and an outage is no answer', async () => {
  const said: Record<string, Awaited<ReturnType<AskMailbox>>> = {
    'anton@example.com': 'taken',
    'x@other.example': 'taken',
    'full@other.example': { refusal: '5.2.2' },
    'postmaster@other.example': { refusal: '5.7.1' },
    'anton@other.example': 'taken',
  };
  const asked: string[] = [];
  const ask: AskMailbox = async ({ server: name, address }) => {
    asked.push(`${name} ${address}`);
    if (address.startsWith('later')) throw new CannotTell('it is down');
    return said[address] ?? 'unknown';
  };
  const server = 'lmtp://dovecot:24';
  const places = [
    ofAddress('both@example.com', { path: '/m/both' }),
    ofAddress('anton@example.com', { server }),
    ofAddress('both@example.com', { server }),
    ofDomain('other.example', { server }),
    ofAddress('sales@example.com', { forward: { address: 'x@other.example', mailbox: mailbox('x@other.example') } }),
    ofAll({ server: 'lmtp:///run/lmtp' }),
  ];
  const resolve = createResolver({
    directories: [
      addressDirectory(places, accounts, ask),
      domainDirectory(places, accounts, ask),
      defaultDirectory(places, accounts, ask),
      postmasterDirectory('/var/mail'),
    ],
    domains: { hosts: async domain => domain !== 'elsewhere.example' },
    subaddress: '+',
    mainDomain: 'example.com',
  });
  const of = (address: string) => resolve(mailbox(address));
  assert.deepEqual(await of('anton@example.com'), {
    kind: 'local',
    routes: [],
    lmtp: [{ server, address: 'anton@example.com' }],
  });
  assert.deepEqual(asked, [`${server} anton@example.com`]);
  const shop = await of('anton+shop@example.com');
  assert.deepEqual(shop, { kind: 'local', via: 'alias', routes: [], lmtp: [{ server, address: 'anton@example.com' }] });
  assert.deepEqual(await of('x@other.example'), {
    kind: 'local',
    via: 'catch-all',
    routes: [],
    lmtp: [{ server, address: 'x@other.example' }],
  });
  assert.deepEqual(await of('full@other.example'), { kind: 'local', routes: [], refusal: '5.2.2' });
  // It knows the mailbox, and not the subaddress.
  const [based] = ((await of('anton+x@other.example')) as Found).lmtp ?? [];
  assert.equal(based?.address, 'anton@other.example');
  assert.equal((await of('nobody@other.example')).kind, 'unknown');
  assert.ok(asked.includes('lmtp:///run/lmtp nobody@other.example'), 'default is asked, too');
  await assert.rejects(of('later@other.example'), CannotTell);
  // Its mailbox there is not there, or refuses: it has one here all the same.
  for (const address of ['postmaster@other.example', 'postmaster@example.com'])
    assert.deepEqual(((await of(address)) as Found).routes, [
      { kind: 'maildir', path: '/var/mail/postmaster', root: '/var/mail' },
    ]);
  // The other place has it; this one is the operator's mistake.
  assert.deepEqual(((await of('both@example.com')) as Found).routes.length, 1);
  assert.deepEqual(await of('sales@example.com'), {
    kind: 'local',
    routes: [],
    lmtp: [{ server, address: 'x@other.example' }],
  });
});
