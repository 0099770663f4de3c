// What a domain has to publish: each record, what DNS has in its place, and what a person is told of it.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { reverseName } from '../../src/dns/reverse-name.ts';
import { type ShownCertificate, checkRecords } from '../../src/publish/records.ts';
import type { Dns } from '../../src/system/dns.ts';
import { answerOf, noSuch, nullDns } from '../contract/null-dns.ts';

const key = {
  domain: 'example.com',
  selector: 'r1',
  algorithm: 'rsa',
  state: 'active',
  signs: true,
  name: 'r1._domainkey.example.com',
  record: `v=DKIM1; k=rsa; p=${'A'.repeat(392)}`,
} as const;
const { record: _, ...retired } = { ...key, selector: 'r0', state: 'retired', signs: false } as const;
const digest = 'ab'.repeat(32);
const certificate: ShownCertificate = {
  digest,
  keyLasts: true,
  fits: records => records.some(({ usage, data }) => usage === 3 && data.toString('hex') === digest),
};
const facts = {
  domain: 'example.com',
  hostname: 'mail.example.com',
  isRelayed: false,
  keys: [key, retired],
  certificate,
};

/** A DNS with these TXT records, and the usual host. */
const dnsWith = (texts: Readonly<Record<string, readonly string[]>>, more: Partial<Dns> = {}): Dns =>
  nullDns({
    mx: async () =>
      answerOf([
        { exchange: 'other.example', priority: 5 },
        { exchange: 'MAIL.example.com', priority: 10 },
      ]),
    addresses: async () => answerOf(['2001:db8::25', '192.0.2.25']),
    ptr: async () => answerOf(['mail.example.com']),
    txt: async name => {
      const found = texts[name];
      return found ? answerOf(found) : Promise.reject(noSuch('ENOTFOUND'));
    },
    ...more,
  });
const good = {
  'example.com': ['some-verification=1', 'v=spf1 include:x.example mx -all'],
  'mail.example.com': ['v=spf1 a -all'],
  'r1._domainkey.example.com': [key.record.replace('; k=rsa', '')],
  '_dmarc.example.com': ['v=DMARC1; p=reject'],
  '_mta-sts.example.com': ['v=STSv1; id=2026'],
  '_smtp._tls.example.com': ['v=TLSRPTv1; rua=mailto:x@example.net'],
};
const told = async (dns: Dns, more: Partial<typeof facts> = {}): Promise<readonly string[]> =>
  (await checkRecords({ ...facts, ...more }, dns)).map(({ name, type, status }) => `${type} ${name} ${status}`);

describe('the records of a domain', () => {
  it('are all ok where what is there serves the purpose', async () => {
    assert.deepEqual(await told(dnsWith(good)), [
      'MX example.com. ok',
      'AAAA mail.example.com. ok',
      `PTR ${'5.2.0.0.'}${'0.'.repeat(20)}8.b.d.0.1.0.0.2.ip6.arpa. ok`,
      'A mail.example.com. ok',
      'PTR 25.2.0.192.in-addr.arpa. ok',
      'TXT example.com. ok',
      'TXT mail.example.com. ok',
      'TXT r1._domainkey.example.com. ok',
      'TXT _dmarc.example.com. ok',
      'TXT _mta-sts.example.com. ok',
      'TXT _smtp._tls.example.com. ok',
    ]);
  });

  it('are all missing where there is nothing', async () => {
    const all = await told(nullDns());
    assert.ok(
      all.every(line => line.endsWith(' missing')),
      all.join('\n'),
    );
    assert.equal(all.length, 8);
  });

  it('differ where something else is there', async () => {
    const others: typeof good = {
      'example.com': ['v=spf1 -all'],
      'mail.example.com': ['v=spf1 a -all', 'v=spf1 mx -all'],
      'r1._domainkey.example.com': [key.record.replace('AA', 'BB')],
      '_dmarc.example.com': ['v=DMARC1; pct=100'],
      '_mta-sts.example.com': ['v=STSv1'],
      '_smtp._tls.example.com': ['v=TLSRPTv1;'],
    };
    const elsewhere = {
      mx: async () => answerOf([{ exchange: 'other.example', priority: 5 }]),
      ptr: async () => answerOf(['host.provider.example']),
    };
    const all = await told(dnsWith(others, elsewhere));
    assert.deepEqual(
      all.filter(line => !line.endsWith(' differs')),
      ['AAAA mail.example.com. ok', 'A mail.example.com. ok'],
    );
    const [mx] = await checkRecords(facts, dnsWith(others, elsewhere));
    assert.deepEqual(mx?.found, ['5 other.example.']);
  });

  it('are unknown where DNS cannot tell', async () => {
    const silent = async () => Promise.reject(noSuch('ETIMEOUT'));
    const all = await told(nullDns({ mx: silent, addresses: silent, txt: silent, ptr: silent }));
    assert.ok(
      all.every(line => line.endsWith(' unknown')),
      all.join('\n'),
    );
  });

  it('of one that sends through a relay leave out what only other servers look at', async () => {
    const all = await checkRecords({ ...facts, isRelayed: true }, dnsWith(good));
    assert.ok(!all.some(({ type, name }) => type === 'PTR' || (type === 'TXT' && name === 'mail.example.com.')));
    assert.match(all.find(({ value }) => value.startsWith('v=spf1'))?.note ?? '', /relay/);
  });

  describe('for DANE, where the zone of the host is signed', () => {
    const addresses = async () => ({ ...answerOf(['192.0.2.25']), isAuthentic: true });
    const tlsaOf = async (data: string | undefined, keyLasts = true) => {
      const records =
        data === undefined ? [] : [{ usage: 3, selector: 1, matching: 1, data: Buffer.from(data, 'hex') }];
      const tlsa = async () => (records.length > 0 ? answerOf(records) : Promise.reject(noSuch('ENOTFOUND')));
      const dns = dnsWith(good, { addresses, tlsa });
      const all = await checkRecords({ ...facts, certificate: { ...certificate, keyLasts } }, dns);
      return all.find(({ type }) => type === 'TLSA');
    };

    it('binds others to our own key', async () => {
      const wanted = { name: '_25._tcp.mail.example.com.', value: `3 1 1 ${digest}` };
      const { name, value, zone, status } = (await tlsaOf(digest)) ?? {};
      assert.deepEqual({ name, value, status }, { ...wanted, status: 'ok' });
      assert.equal(zone, `${wanted.name} IN TLSA ${wanted.value}`);
      assert.equal((await tlsaOf(undefined))?.status, 'missing');
    });

    it('that bind others to another key differ, whoever made the certificate', async () => {
      for (const keyLasts of [true, false]) {
        const { status, found } = (await tlsaOf('00'.repeat(32), keyLasts)) ?? {};
        assert.deepEqual({ status, found }, { status: 'differs', found: [`3 1 1 ${'00'.repeat(32)}`] });
      }
    });

    it('are not asked for where the next certificate may have another key', async () =>
      assert.equal(await tlsaOf(undefined, false), undefined));
  });

  it('are not asked for DANE where DNS does not say that the zone is signed', async () =>
    assert.ok(!(await told(dnsWith(good))).some(line => line.startsWith('TLSA'))));

  it('stand in a zone file in strings of 255, and on one line whole', async () => {
    const all = await checkRecords(facts, dnsWith(good));
    const { zone = '', value } = all.find(({ name }) => name.startsWith('r1.')) ?? {};
    assert.equal(value, key.record);
    const [, first = '', second = ''] = /^r1\._domainkey\.example\.com\. IN TXT "(.*)" "(.*)"$/.exec(zone) ?? [];
    assert.equal(first.length, 255);
    assert.equal(first + second, key.record);
  });
});

it('the name of an address in DNS', () => {
  assert.equal(reverseName('192.0.2.1'), '1.2.0.192.in-addr.arpa');
  assert.equal(reverseName('2001:db8::1'), `1.${'0.'.repeat(23)}8.b.d.0.1.0.0.2.ip6.arpa`);
});
