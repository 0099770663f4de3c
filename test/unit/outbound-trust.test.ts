// What a domain demands of those who send to it: DANE by its TLSA records, MTA-STS by its policy. Against servers on
// loopback whose certificate is made here, with a DNS that is a table.
import assert from 'node:assert/strict';
import { X509Certificate, createHash } from 'node:crypto';
import { describe, it } from 'node:test';
import { isUsable, verifyChain } from '../../src/outbound/dane.ts';
import { type StsPolicy, isNamed, parsePolicy, parseRecords } from '../../src/outbound/mta-sts.ts';
import type { Answer, Dns, TlsaRecord } from '../../src/system/dns.ts';
import { systemClock } from '../../src/system/world.ts';
import { answerOf, noSuch, nullDns } from '../contract/null-dns.ts';
import { certificate, certifyAs, serve, start, words } from './outbound.harness.ts';
import { makeChain } from './chain.harness.ts';

const now = systemClock.now();
const shown = (): X509Certificate => new X509Certificate(certificate.pair.cert);
const spki = (of: X509Certificate): Buffer => of.publicKey.export({ type: 'spki', format: 'der' });
const sha = (octets: Buffer, bits = 256): Buffer => createHash(`sha${bits}`).update(octets).digest();
const record = (usage: number, selector: number, matching: number, data: Buffer): TlsaRecord => {
  return { usage, selector, matching, data };
};
const ee = (of = shown()): TlsaRecord => record(3, 1, 1, sha(spki(of)));
const wrong = record(3, 1, 1, sha(Buffer.from('another key')));
const signed = <T>(records: readonly T[], name = ''): Answer<T> => ({ ...answerOf(records, name), isAuthentic: true });

/** A domain with these hosts; TLSA records by host, or the code that DNS fails with. */
function zone(
  hosts: readonly string[],
  tlsa: Readonly<Record<string, readonly TlsaRecord[] | string>>,
  more: Partial<Dns> = {},
): Dns {
  return nullDns({
    mx: async () => signed(hosts.map((exchange, priority) => ({ exchange, priority }))),
    addresses: async host => signed([`192.0.2.${hosts.indexOf(host) + 1}`], host),
    tlsa: async name => {
      const found = tlsa[name.replace('_25._tcp.', '')] ?? 'ENODATA';
      if (typeof found === 'string') throw noSuch(found);
      return signed(found);
    },
    ...more,
  });
}

describe('DANE', () => {
  const hosts = ['mx1.example'];
  const send = async (
    t: Parameters<typeof start>[0],
    dns: Dns,
    more: Parameters<typeof start>[2] = {},
    extensions?: readonly string[],
  ) => {
    const server = await serve(t, { tls: 'starttls', ...(extensions && { extensions }) });
    const told = words(await start(t, [server], { dns, externalTls: 'opportunistic', ...more }).send());
    return { told, server };
  };

  it('lets mail go where the certificate fits a TLSA record, self-signed or not', async t => {
    const { told, server } = await send(t, zone(hosts, { 'mx1.example': [wrong, ee()] }));
    assert.match(told, /^delivered 2\.0\.0 mx1\.example/);
    assert.equal(server.visits[0]?.isSecure, true);
  });

  it('keeps mail that would meet another certificate, and never sends it in plain text', async t => {
    const { told, server } = await send(t, zone(hosts, { 'mx1.example': [wrong] }));
    assert.match(told, /^deferred 4\.7\.5 - .*DANE of x\.example .*no certificate .* fits the TLSA records/);
    assert.deepEqual(
      server.visits.flatMap(({ messages }) => messages),
      [],
    );
    assert.equal(server.visits.length, 1, 'no second connection without TLS');
  });

  it('keeps mail where TLS is not offered any more', async t => {
    const server = await serve(t);
    const dns = zone(hosts, { 'mx1.example': [ee()] });
    const told = words(await start(t, [server], { dns, externalTls: 'opportunistic' }).send());
    assert.match(told, /^deferred 4\.7\.5 - /);
    assert.deepEqual(
      server.visits.flatMap(({ messages }) => messages),
      [],
    );
  });

  it('passes over a host whose records DNS cannot tell, and uses the next one', async t => {
    for (const code of ['ESERVFAIL', 'ETIMEOUT']) {
      const { told, server } = await send(t, zone(hosts, { 'mx1.example': code }));
      assert.match(told, new RegExp(`^deferred 4\\.7\\.5 - unreachable .*mx1\\.example \\(${code}`));
      assert.deepEqual(server.visits, [], 'it is not even connected to');
    }
    const [first, second] = [await serve(t, { tls: 'starttls' }), await serve(t, { tls: 'starttls' })];
    const dns = zone(['mx1.example', 'mx2.example'], { 'mx1.example': 'ESERVFAIL' });
    assert.match(words(await start(t, [first, second], { dns }).send()), /^delivered 2\.0\.0 mx2\.example/);
    assert.deepEqual(first.visits, []);
  });

  it('counts only where DNSSEC vouches for domain, host and records', async t => {
    const records = { 'mx1.example': [wrong] };
    const plain = zone(hosts, records);
    for (const more of [
      { mx: async () => answerOf([{ exchange: 'mx1.example', priority: 0 }]) },
      { addresses: async () => answerOf(['192.0.2.1'], 'mx1.example') },
      { tlsa: async () => answerOf([wrong]) },
    ])
      assert.match((await send(t, { ...plain, ...more })).told, /^delivered/);
  });

  it('with records that mail cannot use means TLS with any certificate, and never plain text', async t => {
    const dns = zone(hosts, {
      'mx1.example': [record(1, 1, 1, sha(spki(shown()))), record(3, 1, 1, Buffer.from('short'))],
    });
    assert.match((await send(t, dns)).told, /^delivered/);
    const server = await serve(t);
    assert.match(words(await start(t, [server], { dns, externalTls: 'opportunistic' }).send()), /^deferred 4\.7\.5/);
  });

  it('looks at the name that the aliases of a host lead to first', async t => {
    const addresses = async (): Promise<Answer<string>> => signed(['192.0.2.1'], 'real.example');
    const { told } = await send(t, zone(hosts, { 'mx1.example': [wrong], 'real.example': [ee()] }, { addresses }));
    assert.match(told, /^delivered/);
    assert.match((await send(t, zone(hosts, { 'mx1.example': [wrong] }, { addresses }))).told, /^deferred 4\.7\.5/);
  });

  it('beats MTA-STS', async t => {
    const findSts = async (): Promise<StsPolicy> => ({ mode: 'enforce', mx: ['other.example'], maxAgeSeconds: 1 });
    assert.match((await send(t, zone(hosts, { 'mx1.example': [ee()] }), { findSts })).told, /^delivered/);
  });
});

describe('MTA-STS', () => {
  const policy = (mode: StsPolicy['mode'], ...mx: string[]) => ({
    externalTls: 'opportunistic' as const,
    findSts: async (): Promise<StsPolicy> => ({ mode, mx, maxAgeSeconds: 1 }),
  });

  it('in force verifies the certificate, its name too', async t => {
    const server = await serve(t, { tls: 'starttls' });
    const ca = certificate.pair.cert;
    const enforced = policy('enforce', '*.example');
    assert.match(words(await start(t, [server], { ...enforced, ca }).send()), /^delivered 2\.0\.0 mx1\.example/);
    assert.match(
      words(await start(t, [server], enforced).send()),
      /^deferred 4\.7\.5 - MTA-STS of x\.example .*self.signed/,
    );
    await certifyAs('other.example', t);
    const told = words(await start(t, [server], { ...enforced, ca: certificate.pair.cert }).send());
    assert.match(told, /^deferred 4\.7\.5 - MTA-STS .*other\.example/);
    assert.deepEqual(server.visits.flatMap(({ messages }) => messages).length, 1);
  });

  it('in force passes over hosts that it does not name', async t => {
    const [first, second] = [await serve(t, { tls: 'starttls' }), await serve(t, { tls: 'starttls' })];
    const told = words(await start(t, [first, second], policy('enforce', 'mx3.example')).send());
    assert.match(told, /^deferred 4\.7\.5 - unreachable mx2\.example is not among the hosts of the MTA-STS policy/);
    assert.deepEqual([first.visits, second.visits], [[], []]);
  });

  it('that is only tested, or ended, changes nothing', async t => {
    const server = await serve(t);
    for (const mode of ['testing', 'none'] as const)
      assert.match(words(await start(t, [server], policy(mode, 'mx9.example')).send()), /^delivered/);
  });
});

describe('exceptions in SLIM_EXTERNAL_TLS', () => {
  it('hold for their domain alone', async t => {
    const server = await serve(t);
    const sent = async (
      externalTls: 'required' | 'opportunistic',
      of: string,
      exception: 'required' | 'opportunistic',
    ) => words(await start(t, [server], { externalTls, tlsExceptions: { [of]: exception } }).send());
    assert.match(await sent('required', 'x.example', 'opportunistic'), /^delivered/);
    assert.match(await sent('required', 'y.example', 'opportunistic'), /^deferred 4\.7\.4/);
    assert.match(await sent('opportunistic', 'x.example', 'required'), /^deferred 4\.7\.4/);
  });
});

describe('a chain of certificates', () => {
  const verdict = (
    chain: readonly X509Certificate[],
    records: readonly TlsaRecord[],
    names = ['mx.example'],
    at = now,
  ) => {
    const { isVerified, depth } = verifyChain(
      chain.map(({ raw }) => raw),
      { records, names },
      at,
    );
    return `${isVerified} ${depth}`;
  };

  it('fits by its own certificate, by an issuer that it shows, or by one that the record holds', async () => {
    const { leaf, middle, root } = await makeChain('mx.example', now);
    const chain = [leaf, middle, root];
    for (const [usage, of, depth] of [
      [3, leaf, 0],
      [2, middle, 1],
      [2, root, 2],
    ] as const)
      for (const [selector, octets] of [
        [0, of.raw],
        [1, spki(of)],
      ] as const)
        for (const [matching, data] of [
          [0, octets],
          [1, sha(octets)],
          [2, sha(octets, 512)],
        ] as const)
          assert.equal(verdict(chain, [record(usage, selector, matching, data)]), `true ${depth}`);
    assert.equal(verdict([leaf, middle], [record(2, 0, 0, root.raw)]), 'true 2');
    assert.equal(verdict([leaf], [record(2, 1, 0, spki(middle))]), 'true 0');
    assert.equal(verdict([leaf], [record(2, 0, 1, sha(middle.raw))]), 'false -1');
    assert.equal(verdict([leaf, root], [record(2, 1, 1, sha(spki(root)))]), 'false -1', 'the chain has a gap');
    assert.equal(verdict([leaf, middle, root], [record(2, 1, 1, sha(spki(leaf)))]), 'false -1', 'it is no issuer');
    assert.equal(verdict([], [ee(leaf)]), 'false -1');
  });

  it('needs a name and dates with usage 2, and neither with usage 3', async () => {
    const { leaf, middle, root } = await makeChain('mx.example', now);
    const chain = [leaf, middle, root];
    const anchor = record(2, 1, 1, sha(spki(root)));
    assert.equal(verdict(chain, [anchor], ['other.example']), 'false 2');
    assert.equal(verdict(chain, [anchor], ['other.example', 'mx.example']), 'true 2');
    assert.equal(verdict(chain, [anchor], undefined, now + 400 * 86_400_000), 'false -1');
    assert.equal(verdict(chain, [ee(leaf)], ['other.example'], now + 400 * 86_400_000), 'true 0');
  });

  it('is never fitted by a record that says what we do not understand', () => {
    const data = sha(Buffer.alloc(0));
    const usable = [
      record(3, 1, 1, data),
      record(2, 0, 2, sha(Buffer.alloc(0), 512)),
      record(3, 0, 0, Buffer.from([1])),
    ];
    const not = [record(0, 1, 1, data), record(1, 1, 1, data), record(4, 1, 1, data), record(3, 2, 1, data)];
    assert.deepEqual(usable.map(isUsable), [true, true, true]);
    assert.ok(![...not, record(3, 1, 3, data), record(3, 1, 2, data), record(3, 1, 0, Buffer.alloc(0))].some(isUsable));
  });
});

describe('the texts of MTA-STS', () => {
  it('have one record with one id', () => {
    assert.equal(parseRecords(['v=spf1 -all', 'v=STSv1; id=20260101A;']), '20260101A');
    assert.equal(parseRecords(['v=STSv1 ;\tid=a; ext=1']), 'a');
    for (const texts of [
      [],
      ['v=STSv1'],
      ['v=STSv1; id=a', 'v=STSv1; id=b'],
      ['v=STSv1; id=a-b'],
      ['v=STSv1; id='],
      ['id=a; v=STSv1;'],
    ])
      assert.equal(parseRecords(texts), undefined, texts.join(' | '));
  });

  it('have a policy with a mode, an age and hosts', () => {
    const text =
      'version: STSv1\r\nmode: enforce\r\nmx: MX.example.net\r\nmx: *.example.com \r\nmode: none\r\nmax_age: 9999999999\r\n';
    const policy = { mode: 'enforce', mx: ['mx.example.net', '*.example.com'], maxAgeSeconds: 31_557_600 };
    assert.deepEqual(parsePolicy(text), policy);
    assert.equal(parsePolicy('version: STSv1\nmode: none\nmax_age: 1')?.mode, 'none');
    for (const bad of [
      '',
      'mode: none\nmax_age: 1',
      'version: STSv1\nmode: enforce\nmax_age: 1',
      'version: STSv1\nmode: strict\nmx: a\nmax_age: 1',
      'version: STSv1\nmode: none\nmax_age: -1',
      'version: STSv1\nmode: enforce\nmx: *.*.example\nmax_age: 1',
      'version: STSv1\n<html>\nmode: none\nmax_age: 1',
    ])
      assert.equal(parsePolicy(bad), undefined, bad);
  });

  it('name a host by itself, or by a star for one label', () => {
    const mx = ['mx.example.net', '*.example.com'];
    for (const host of ['MX.example.net', 'a.example.com', 'a.example.com.']) assert.ok(isNamed(host, { mx }), host);
    for (const host of ['example.com', 'a.b.example.com', 'xmx.example.net', 'a.example.net'])
      assert.ok(!isNamed(host, { mx }), host);
  });
});
