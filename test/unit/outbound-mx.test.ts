// Where the mail of a domain goes, with a DNS that is a table.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { findTargets } from '../../src/outbound/mx.ts';
import type { Answer, Dns } from '../../src/system/dns.ts';
import { answerOf, noSuch, nullDns } from '../contract/null-dns.ts';

type Zone = {
  /** As `10 host`, or an error code. */
  readonly mx?: Readonly<Record<string, readonly string[] | string>>;
  readonly hosts?: Readonly<Record<string, readonly string[] | string>>;
};

function fake({ mx = {}, hosts = {} }: Zone): Dns {
  const look = async <T>(found: readonly T[] | string | undefined): Promise<Answer<T>> => {
    if (found === undefined || typeof found === 'string') throw noSuch(found ?? 'ENOTFOUND');
    return answerOf(found);
  };
  return nullDns({
    mx: async domain => {
      const records = (await look(mx[domain])).records.map(record => record.split(' '));
      return answerOf(records.map(([priority, exchange = '']) => ({ priority: Number(priority), exchange })));
    },
    addresses: host => look(hosts[host]),
  });
}

async function find(
  zone: Zone,
  own: readonly string[] = [],
  below: (limit: number) => number = () => 0,
): Promise<string> {
  const random = { hex: () => '', below };
  const isSelf = (name: string): boolean => own.includes(name);
  const { targets, end } = await all(findTargets('x.example', { dns: fake(zone), random, isSelf }));
  return targets.length > 0 ? targets.join(' ') : Object.values(end ?? {}).join(' ');
}

async function all(found: ReturnType<typeof findTargets>) {
  const targets: string[] = [];
  for (;;) {
    const { done, value } = await found.next();
    if (done) return { targets, end: value };
    targets.push(`${value.host}/${value.address}`);
  }
}

const mx = (...records: string[]): NonNullable<Zone['mx']> => ({ 'x.example': records });

describe('the hosts of a domain', () => {
  it('come by preference, IPv6 and IPv4 in turn', async () => {
    const hosts = { a: ['2001:db8::1', '2001:db8::2', '192.0.2.1'], B: 'ENODATA', b: ['192.0.2.2'] };
    assert.equal(await find({ mx: mx('20 B', '10 a'), hosts }), 'a/2001:db8::1 a/192.0.2.1 a/2001:db8::2 b/192.0.2.2');
  });

  it('of equal preference are shuffled', async () => {
    const zone = { mx: mx('10 a', '10 b', '5 c'), hosts: { a: ['192.0.2.1'], b: ['192.0.2.2'], c: ['192.0.2.3'] } };
    const lots = (numbers: number[]) => () => numbers.shift() ?? 0;
    assert.equal(await find(zone, [], lots([1, 2, 3])), 'c/192.0.2.3 a/192.0.2.1 b/192.0.2.2');
    assert.equal(await find(zone, [], lots([2, 1, 3])), 'c/192.0.2.3 b/192.0.2.2 a/192.0.2.1');
  });

  it('are the domain itself only where DNS says that there is no MX', async () => {
    const hosts = { 'x.example': ['192.0.2.1'] };
    assert.equal(await find({ mx: { 'x.example': 'ENODATA' }, hosts }), 'x.example/192.0.2.1');
    assert.match(await find({ mx: { 'x.example': 'ENOTFOUND' }, hosts }), /^failed 5\.1\.2 there is no domain/);
    for (const code of ['ESERVFAIL', 'ETIMEOUT', 'EREFUSED', 'ECONNREFUSED', 'EBADRESP'])
      assert.match(
        await find({ mx: { 'x.example': code }, hosts }),
        new RegExp(`^deferred 4\\.4\\.3 .*${code}.* true$`),
      );
  });

  it('with a null MX are none, for good', async () => {
    assert.match(await find({ mx: mx('0 ') }), /^failed 5\.1\.10/);
    assert.match(await find({ mx: mx('0 .') }), /^failed 5\.1\.10/);
  });

  it('without addresses fail when DNS said so, and wait when it could not', async () => {
    assert.match(await find({ mx: mx('10 a') }), /^failed 5\.4\.4 no mail server/);
    assert.match(await find({ mx: mx('10 a'), hosts: { a: 'ENODATA' } }), /^failed 5\.4\.4/);
    assert.match(await find({ mx: mx('10 a', '10 b'), hosts: { a: 'ESERVFAIL' } }), /^deferred 4\.4\.3/);
    assert.equal(await find({ mx: mx('10 a', '20 b'), hosts: { a: 'ESERVFAIL', b: ['192.0.2.2'] } }), 'b/192.0.2.2');
  });

  it('end where we are: we, and all that are not preferred to us, drop out', async () => {
    const hosts = { a: ['192.0.2.1'], b: ['192.0.2.2'], c: ['192.0.2.3'] };
    const zone = { mx: mx('10 a', '20 b', '20 c', '30 a'), hosts };
    assert.equal(await find(zone, ['b']), 'a/192.0.2.1');
    assert.equal(await find(zone, ['192.0.2.3']), 'a/192.0.2.1');
    assert.match(await find(zone, ['a']), /^failed 5\.4\.6/);
    assert.match(
      await find({ mx: { 'x.example': 'ENODATA' }, hosts: { 'x.example': ['192.0.2.9'] } }, ['192.0.2.9']),
      /^failed 5\.4\.6/,
    );
  });

  it('are never loopback, unspecified, link-local, multicast or broadcast, however written', async () => {
    const bad = [
      '127.0.0.1',
      '127.9.9.9',
      '0.0.0.0',
      '0.1.2.3',
      '169.254.169.254',
      '224.0.0.1',
      '255.255.255.255',
      '::1',
      '::',
    ];
    bad.push(
      '::ffff:127.0.0.1',
      '::ffff:7f00:1',
      '::127.0.0.1',
      'fe80::1',
      'ff02::1',
      '::ffff:0.0.0.0',
      '0:0:0:0:0:ffff:7f00:0001',
    );
    for (const address of bad)
      assert.match(await find({ mx: mx('10 a'), hosts: { a: [address] } }), /^failed 5\.4\.4 .*loopback/, address);
    assert.equal(await find({ mx: mx('10 a'), hosts: { a: [...bad, '10.0.0.1'] } }), 'a/10.0.0.1');
    const good = [
      '10.0.0.1',
      '172.17.0.2',
      '192.168.1.1',
      'fd00::1',
      '223.255.255.255',
      '2001:db8::1',
      '::ffff:10.0.0.1',
    ];
    for (const address of good) assert.equal(await find({ mx: mx('10 a'), hosts: { a: [address] } }), `a/${address}`);
  });

  it('are at most ten, with twenty addresses', async () => {
    const many = Array.from({ length: 30 }, (_, at) => `10.0.0.${at}`);
    const hosts = Object.fromEntries(many.map((_, at) => [`h${at}`, many]));
    assert.equal((await find({ mx: mx('1 h0'), hosts })).split(' ').length, 20);
    const asked: string[] = [];
    let now = 0;
    const dns: Dns = {
      ...fake({}),
      mx: async () => answerOf(many.map((exchange, at) => ({ exchange, priority: at < 12 ? 1 : 2 }))),
      addresses: async host => {
        asked.push(host);
        assert.equal((now += 1), 1, 'two hosts are asked for at once');
        await new Promise(resolve => setTimeout(resolve, 1));
        now -= 1;
        throw Object.assign(new Error('silent'), { code: 'ETIMEOUT' });
      },
    };
    const random = { hex: () => '', below: () => 0 };
    const { end } = await all(findTargets('x.example', { dns, random, isSelf: () => false }));
    assert.equal(end?.status, '4.4.3');
    assert.equal(asked.length, 10);
  });

  it('are not asked for before those that are preferred were tried', async () => {
    const asked: string[] = [];
    const zone = fake({ mx: mx('10 a', '20 b'), hosts: { a: ['192.0.2.1'], b: ['192.0.2.2'] } });
    const dns = { ...zone, addresses: async (host: string) => (asked.push(host), zone.addresses(host)) };
    const found = findTargets('x.example', { dns, random: { hex: () => '', below: () => 0 }, isSelf: () => false });
    assert.deepEqual((await found.next()).value, { host: 'a', name: '', isAuthentic: false, address: '192.0.2.1' });
    assert.deepEqual(asked, ['a']);
    assert.deepEqual((await found.next()).value, { host: 'b', name: '', isAuthentic: false, address: '192.0.2.2' });
  });
});
