// Questions to a name server of the test, on loopback: what its answers mean, what is believed, what is kept, and what
// silence costs.
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, describe, it } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import packet from 'dns-packet';
import { Cache } from '../../src/dns/cache.ts';
import { mayBeAuthentic, namedServers, parseResolvConf, systemServers } from '../../src/dns/servers.ts';
import { openDns } from '../../src/dns/stub.ts';
import { findTargets } from '../../src/outbound/mx.ts';
import { systemRandom as random } from '../../src/system/world.ts';
import { noSuch } from '../contract/null-dns.ts';
import { type Answering, a, cname, serveDns, soa } from './dns.harness.ts';

const quick = { patience: { timeoutMs: 400, maxTimeoutMs: 400, rounds: 2 }, deadlineMs: 4000 };

/** A resolver that asks one server of the test. */
async function ask(t: TestContext, answering: Answering) {
  const server = await serveDns(t, answering);
  return { server, dns: openDns({ ...quick, servers: [server] }) };
}

const code = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => 'an answer',
    (error: NodeJS.ErrnoException) => error.code,
  );
const descriptors = (): number => readdirSync('/proc/self/fd').length;

describe('answers of the DNS', () => {
  it('are the records of each verb', async t => {
    const owner = '_25._tcp.mx.example';
    const { dns, server } = await ask(t, ({ type, name }) => {
      if (type === 'MX') {
        const data = [
          { preference: 10, exchange: 'MX.Example' },
          { preference: 20, exchange: '.' },
        ];
        return [{ answers: data.map(each => ({ type, name, ttl: 60, data: each })) }];
      }
      if (type === 'TXT') return [{ answers: [{ type, name, ttl: 60, data: ['v=spf1 ', 'é'] }] }];
      if (type === 'PTR') return [{ answers: [{ type, name, ttl: 60, data: 'mx.example' }] }];
      if (type === 'TLSA') {
        const data = { usage: 3, selector: 1, matchingType: 1, certificate: Buffer.from('00ff', 'hex') };
        return [{ answers: [{ type, name, ttl: 60, data }] }];
      }
      return [
        type === 'A' ? { answers: [a(name)] } : { answers: [{ type: 'AAAA', name, ttl: 60, data: '2001:db8::1' }] },
      ];
    });
    assert.deepEqual((await dns.mx('x.example')).records, [
      { exchange: 'mx.example', priority: 10 },
      { exchange: '', priority: 20 },
    ]);
    assert.deepEqual((await dns.addresses('mx.example')).records, ['2001:db8::1', '192.0.2.1']);
    assert.deepEqual((await dns.addresses('mx.example', 4)).records, ['192.0.2.1']);
    assert.deepEqual((await dns.txt('x.example')).records, ['v=spf1 é']);
    const tlsa = { usage: 3, selector: 1, matching: 1, data: Buffer.from('00ff', 'hex') };
    assert.deepEqual((await dns.tlsa(owner)).records, [tlsa]);
    assert.deepEqual((await dns.ptr('192.0.2.9')).records, ['mx.example']);
    await dns.ptr('2001:db8::7');
    assert.ok(server.asked.includes('PTR 9.2.0.192.in-addr.arpa'));
    assert.ok(server.asked.includes(`PTR 7.${'0.'.repeat(23)}8.b.d.0.1.0.0.2.ip6.arpa`), server.asked.join('\n'));
    assert.deepEqual(await dns.records('x.example', 'TXT'), [['v=spf1 ', 'é']]);
  });

  it('that are a no say which kind of no; and a name that can be none is not asked for', async t => {
    const { dns, server } = await ask(t, ({ name }) => [
      { rcode: name.startsWith('none') ? 3 : 0, authorities: [soa()] },
    ]);
    assert.equal(await code(dns.addresses('none.example')), 'ENOTFOUND');
    assert.equal(await code(dns.addresses('empty.example')), 'ENODATA');
    assert.equal(await code(dns.records('none.example', 'TXT')), 'ENOTFOUND');
    server.asked.length = 0;
    for (const name of ['', '.', 'a..b', 'a b.example', 'é.example', `${'x'.repeat(64)}.example`, 'x.'.repeat(130)])
      assert.equal(await code(dns.mx(name)), 'EBADNAME');
    assert.deepEqual(server.asked, []);
  });

  it('with an alias are followed, also where its target is not told', async t => {
    const { dns } = await ask(t, ({ name, type }) => {
      if (name === 'short.example') return [{ answers: [cname(name, 'far.example')] }];
      if (name === 'far.example' && type === 'A') return [{ answers: [a(name)] }];
      if (name === 'whole.example' && type === 'A') return [{ answers: [cname(name, 'B.example'), a('b.example')] }];
      return [{ authorities: [soa()] }];
    });
    for (const [name, owner] of [
      ['short.example', 'far.example'],
      ['whole.example', 'b.example'],
    ] as const) {
      const found = await dns.addresses(name);
      assert.deepEqual([found.records, found.name], [['192.0.2.1'], owner]);
    }
  });

  it('with an alias that leads to a name without addresses are a no (5.4.4), and not an outage', async t => {
    const { dns } = await ask(t, ({ name }) => [
      name === 'alias.example' ? { answers: [cname(name, 'empty.example')] } : {},
    ]);
    assert.equal(await code(dns.addresses('alias.example')), 'ENODATA');
    const found = await findTargets('alias.example', { dns, random, isSelf: () => false }).next();
    const text = 'no mail server of alias.example has an address';
    assert.deepEqual(found.value, { kind: 'failed', status: '5.4.4', text });
  });

  it('with aliases that go round in a circle, or on and on, tell nothing: that mail waits', async t => {
    const { dns, server } = await ask(t, ({ name }) => [
      { answers: [cname(name, name.startsWith('loop') ? name : `x${name}`)] },
    ]);
    assert.equal(await code(dns.addresses('loop.example')), 'ELOOP');
    assert.equal(await code(dns.addresses('on.example')), 'ELOOP');
    assert.ok(server.asked.length < 25);
    const found = await findTargets('loop.example', { dns, random, isSelf: () => false }).next();
    assert.match(JSON.stringify(found.value), /deferred.*4\.4\.3/);
  });

  it('that do not fit into a datagram come over TCP', async t => {
    const { dns, server } = await ask(t, ({ name, isTcp }) => {
      if (!isTcp) return [{ flags: packet.TRUNCATED_RESPONSE }];
      return name === 'cut.example' ? [] : [{ answers: [a(name)] }];
    });
    assert.deepEqual((await dns.addresses('long.example', 4)).records, ['192.0.2.1']);
    assert.deepEqual(server.asked, ['A long.example', 'A long.example over TCP']);
    assert.equal(await code(dns.addresses('cut.example', 4)), 'ETIMEOUT');
  });
});

describe('a question', () => {
  it('asks for recursion, for the AD bit and for answers of up to 1,232 octets', async t => {
    let octets = Buffer.alloc(0);
    const { dns } = await ask(t, query => {
      octets = Buffer.from(query.octets);
      return [{ answers: [a(query.name)] }];
    });
    await dns.addresses('a.example', 4);
    const { flags, additionals = [] } = packet.decode(octets);
    assert.equal(flags, packet.RECURSION_DESIRED | packet.AUTHENTIC_DATA);
    assert.equal(additionals[0]?.type === 'OPT' && additionals[0].udpPayloadSize, 1232);
  });

  it('has an id and a port of its own', async t => {
    const ids = new Set<number>();
    const { dns, server } = await ask(t, ({ name, id }) => {
      ids.add(id);
      return [{ answers: [a(name, '192.0.2.1', 0)] }];
    });
    for (let at = 0; at < 20; at += 1) await dns.addresses('a.example', 4);
    assert.ok(ids.size > 17 && server.ports.size > 17, `${ids.size} ids, ${server.ports.size} ports`);
  });

  it('is not answered by another id, another question or rubbish in the name of one', async t => {
    const { dns } = await ask(t, ({ id, name, type }) => {
      const answers = [a(name, '192.0.2.66')];
      const forged = [1, 2, 77].map(step => ({ id: (id + step) % 65_536, answers }));
      const others = [
        { questions: [{ name: 'other.example', type }], answers },
        { questions: [{ name, type: 'MX' as const }], answers },
      ];
      return [...forged, ...others, Buffer.from([1]), { answers: [a(name, '192.0.2.1')] }];
    });
    assert.deepEqual((await dns.addresses('a.example', 4)).records, ['192.0.2.1']);
  });

  it('is not answered by records of another name', async t => {
    const { dns } = await ask(t, () => [{ answers: [a('evil.example', '192.0.2.66')] }]);
    assert.equal(await code(dns.addresses('a.example', 4)), 'ENODATA');
  });

  it('that is answered from another address hears nothing', async t => {
    const other = await serveDns(t, () => []);
    const { createSocket } = await import('node:dgram');
    const liar = createSocket('udp4');
    t.after(() => liar.close());
    await new Promise<void>(resolve => liar.bind(0, '127.0.0.1', resolve));
    const { dns, server } = await ask(t, ({ id, name, type }) => {
      const lie = { type: 'response', id, questions: [{ name, type }], answers: [a(name, '192.0.2.66')] } as const;
      for (const port of server.ports)
        liar.send(
          packet.encode({ ...lie, questions: [...lie.questions], answers: [...lie.answers] }),
          port,
          '127.0.0.1',
        );
      return [];
    });
    assert.equal(await code(dns.addresses('a.example', 4)), 'ETIMEOUT');
    assert.deepEqual(other.asked, []);
  });

  it('that is asked by many at once is asked once', async t => {
    const { dns, server } = await ask(t, ({ name }) => [{ answers: [a(name, '192.0.2.1', 0)] }]);
    await Promise.all(Array.from({ length: 50 }, () => dns.addresses('A.example.', 4)));
    assert.deepEqual(server.asked, ['A a.example']);
  });
});

describe('several servers', () => {
  it('are asked in turn, and the one that answered first of all next time', async t => {
    const silent = await serveDns(t, () => []);
    const failing = await serveDns(t, () => [{ rcode: 2 }]);
    const good = await serveDns(t, ({ name }) => [{ answers: [a(name)] }]);
    const dns = openDns({ ...quick, servers: [silent, failing, good] });
    assert.deepEqual((await dns.addresses('a.example', 4)).records, ['192.0.2.1']);
    await dns.addresses('b.example', 4);
    assert.deepEqual(good.asked, ['A a.example', 'A b.example']);
    assert.deepEqual([silent.asked, failing.asked], [['A a.example'], ['A a.example']]);
  });

  it('that all fail are the last one’s word, at once', async t => {
    const servers = [await serveDns(t, () => [{ rcode: 5 }]), await serveDns(t, () => [{ rcode: 2 }])];
    const dns = openDns({ ...quick, servers });
    assert.equal(await code(dns.addresses('a.example', 4)), 'ESERVFAIL');
    assert.deepEqual(
      servers.map(({ asked }) => asked.length),
      [1, 1],
    );
    const nobody = openDns({ ...quick, servers: [{ host: '127.0.0.1', port: 1 }] });
    assert.equal(await code(nobody.addresses('a.example', 4)), 'ECONNREFUSED');
    const { dns: rubbish } = await ask(t, ({ octets }) => [
      Buffer.concat([octets.subarray(0, 2), Buffer.alloc(40, 0xff)]),
    ]);
    assert.equal(await code(rubbish.addresses('a.example', 4)), 'EBADRESP');
  });

  it('are those that the configuration names now', async t => {
    const folder = mkdtempSync(join(tmpdir(), 'dns-'));
    t.after(() => rmSync(folder, { recursive: true }));
    const configuration = join(folder, 'resolv.conf');
    writeFileSync(configuration, 'nameserver 127.0.0.1\n');
    const find = systemServers(configuration);
    const before = await find();
    assert.deepEqual(before, [{ address: '127.0.0.1', port: 53, isTrusted: false }]);
    assert.equal(await find(), before, 'nothing has changed');
    writeFileSync(configuration, 'nameserver 192.0.2.53\n');
    utimesSync(configuration, 1, 1);
    assert.equal((await find())[0]?.address, '192.0.2.53');
    rmSync(configuration);
    assert.equal((await find())[0]?.address, '127.0.0.1');
  });

  it('that have a name are looked up again after half a minute', async t => {
    const one = await serveDns(t, ({ name }) => [{ answers: [a(name, '192.0.2.1')] }]);
    let [now, address] = [0, '127.0.0.1'];
    const find = namedServers([{ host: 'unbound', port: one.port }], async () => [address], { now: () => now });
    const before = await find();
    address = '127.0.0.2';
    now = 29_999;
    assert.equal(await find(), before);
    now = 30_000;
    assert.deepEqual(await find(), [{ address, port: one.port, isTrusted: true }]);
    const broken = namedServers([{ host: 'unbound', port: 53 }], () => Promise.reject(noSuch('EAI_AGAIN')), {
      now: () => 0,
    });
    assert.equal(await code(broken()), 'EAI_AGAIN');
    const dns = openDns({ ...quick, servers: [{ host: 'localhost', port: one.port }], clock: { now: () => now } });
    await dns.addresses('a.example', 4);
    await dns.addresses('a.example', 4);
    assert.equal(one.asked.length, 1);
  });

  it('of resolv.conf are believed about DNSSEC where it says so, Docker’s forwarder never', () => {
    const port = 53;
    assert.deepEqual(
      parseResolvConf('# x\nnameserver 192.0.2.1\nnameserver\t2001:db8::1 \nsearch a b\nnameserver x\n'),
      [
        { address: '192.0.2.1', port, isTrusted: false },
        { address: '2001:db8::1', port, isTrusted: false },
      ],
    );
    const trusting = parseResolvConf('options ndots:0 edns0 trust-ad\nnameserver 127.0.0.53\nnameserver 127.0.0.11\n');
    assert.deepEqual(
      trusting.map(({ isTrusted }) => isTrusted),
      [true, false],
    );
    assert.deepEqual(parseResolvConf(''), [{ address: '127.0.0.1', port, isTrusted: false }]);
    assert.deepEqual([mayBeAuthentic([]), mayBeAuthentic(undefined, '/nowhere')], [true, false]);
  });

  it('that settings name are believed: an answer is authentic when every part of it is', async t => {
    const { dns } = await ask(t, ({ name, type }) => {
      const flags = name.startsWith('plain') ? 0 : packet.AUTHENTIC_DATA;
      if (name === 'mixed.example') return [{ flags, answers: [cname(name, 'plain.example')] }];
      return [type === 'A' ? { flags, answers: [a(name)] } : { authorities: [soa()] }];
    });
    assert.equal((await dns.addresses('signed.example')).isAuthentic, true);
    assert.equal((await dns.addresses('plain.example')).isAuthentic, false);
    assert.equal((await dns.addresses('mixed.example')).isAuthentic, false);
  });
});

describe('what DNS has said', () => {
  it('is kept for its TTL, a no as its zone says, and an outage not at all', async t => {
    let now = 1_000_000;
    const server = await serveDns(t, ({ name }) => {
      if (name === 'no.example') return [{ rcode: 3, authorities: [soa(30)] }];
      if (name === 'bare.example') return [{ rcode: 3 }];
      if (name === 'broken.example') return [{ rcode: 2 }];
      return [{ answers: [a(name, '192.0.2.1', 10)] }];
    });
    const dns = openDns({ ...quick, servers: [server], clock: { now: () => now } });
    const times = async (name: string): Promise<number> => {
      server.asked.length = 0;
      for (let at = 0; at < 3; at += 1) await code(dns.addresses(name, 4));
      return server.asked.length;
    };
    assert.equal(await times('a.example'), 1);
    assert.equal(await times('no.example'), 1);
    assert.equal(await times('bare.example'), 3);
    assert.equal(await times('broken.example'), 3);
    now += 9_999;
    assert.equal(await times('a.example'), 0);
    now += 1;
    assert.equal(await times('a.example'), 1);
    assert.equal(await times('no.example'), 0);
    now += 20_000;
    assert.equal(await times('no.example'), 1);
  });

  it('has so much room, and lasts a day at most', () => {
    let now = 0;
    const cache = new Cache<number>({ now: () => now }, { maxBytes: 3000, maxSeconds: 100 });
    for (const key of [1, 2, 3]) cache.put(String(key), key, 1e6, 500);
    assert.deepEqual(
      [1, 2, 3].map(key => cache.get(String(key))),
      [1, 2, 3],
    );
    cache.put('4', 4, 10, 500);
    assert.deepEqual(
      [1, 2, 3, 4].map(key => cache.get(String(key))),
      [undefined, 2, 3, 4],
    );
    cache.put('big', 5, 10, 5000);
    cache.put('never', 6, 0, 1);
    cache.put('wrong', 7, 2 ** 31, 1);
    assert.deepEqual(
      ['big', 'never', 'wrong', '2'].map(key => cache.get(key)),
      [undefined, undefined, undefined, 2],
    );
    now = 100_000;
    assert.equal(cache.get('2'), undefined);
  });
});

describe('a name server that says nothing', () => {
  it('costs few descriptors, and holds up no other question for long', async t => {
    const server = await serveDns(t, ({ name, type }) => {
      if (name.startsWith('silent')) return [];
      return [type === 'A' ? { answers: [a(name)] } : { authorities: [soa()] }];
    });
    const dns = openDns({
      servers: [server],
      patience: { timeoutMs: 300, maxTimeoutMs: 300, rounds: 2 },
      deadlineMs: 4000,
    });
    const before = descriptors();
    // As many as there can be attempts, each with a host of its own.
    const silent = Array.from({ length: 1000 }, (_, at) => code(dns.addresses(`silent.x${at}.example`)));
    await pause(20);
    const startedAt = performance.now();
    assert.deepEqual((await dns.addresses('host.example')).records, ['192.0.2.1']);
    assert.ok(performance.now() - startedAt < 3500, `${performance.now() - startedAt} ms`);
    assert.ok(descriptors() - before < 100, `${descriptors() - before} descriptors`);
    assert.ok(server.ports.size >= 20, 'the port changes, so that nobody can guess it');
    assert.deepEqual(new Set(await Promise.all(silent)), new Set(['ETIMEOUT']));
    assert.ok(performance.now() - startedAt < 4500, 'no question takes longer than the deadline');
    assert.ok(descriptors() - before < 100);
  });

  it('is asked for a host of the hosts file once at a time', async () => {
    const dns = openDns();
    const [one, other] = [dns.systemAddresses('localhost'), dns.systemAddresses('localhost')];
    assert.equal(one, other);
    assert.ok((await one).every(address => ['127.0.0.1', '::1'].includes(address)));
  });
});
