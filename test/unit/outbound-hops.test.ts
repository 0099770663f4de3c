// Which servers are tried for a next hop, with which TLS; and what it means for the mail when none of them could be
// used.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Delivery, NextHop } from '../../src/mail/message.ts';
import type { Refusal } from '../../src/outbound/dialogue.ts';
import { type HopOptions, type Relay, type Server, findServers, summarize } from '../../src/outbound/hops.ts';
import { deferred, failed } from '../../src/outbound/replies.ts';
import { answerOf, noSuch, nullDns } from '../contract/null-dns.ts';

const options: HopOptions = {
  dns: nullDns({
    mx: async () => answerOf([{ exchange: 'mx.example', priority: 10 }]),
    addresses: async () => answerOf(['2001:db8::1', '192.0.2.1']),
    systemAddresses: async () => ['192.0.2.9', '2001:db8::9'],
  }),
  random: { hex: () => '', below: () => 0 },
  isSelf: () => false,
  externalTls: 'required',
  port: 25,
};
const domain: NextHop = { kind: 'domain', domain: 'x.example' };

async function servers(
  hop: NextHop,
  more: Partial<HopOptions> = {},
  isUnreached: (address: string) => boolean = () => false,
) {
  const found: Server[] = [];
  for await (const server of findServers(hop, { ...options, ...more }, isUnreached)) {
    assert.ok(!('refusal' in server));
    found.push(server);
  }
  return found;
}
const relay = (tls: Relay['tls']): Partial<HopOptions> => ({ relay: { host: 'relay.example', port: 587, tls } });

describe('TLS is', () => {
  it('what SLIM_EXTERNAL_TLS says at MX hosts, without a look at the certificate', async () => {
    for (const [externalTls, use] of [
      ['required', 'required'],
      ['opportunistic', 'offered'],
    ] as const)
      for (const { tls, isChosen, port } of await servers(domain, { externalTls }))
        assert.deepEqual({ tls, isChosen, port }, { tls: { use, isVerified: false }, isChosen: false, port: 25 });
  });

  it('what SLIM_RELAY_TLS says at the relay, whose certificate is verified', async () => {
    for (const [tls, use] of [
      ['none', 'never'],
      ['starttls', 'required'],
      ['implicit', 'implicit'],
    ] as const)
      for (const server of await servers({ kind: 'relay' }, relay(tls)))
        assert.deepEqual(
          [server.tls, server.isChosen, server.port, server.host],
          [{ use, isVerified: true }, true, 587, 'relay.example'],
        );
  });
});

describe('an LMTP server', () => {
  const lmtp = (server: string) => servers({ kind: 'lmtp', server }, { externalTls: 'required' });

  it('is looked up as the system does it, loopback too, and SLIM_EXTERNAL_TLS does not bind it', async () => {
    const dns = nullDns({ systemAddresses: async () => ['127.0.0.1'] });
    const [found] = await servers({ kind: 'lmtp', server: 'lmtp://dovecot:2424' }, { dns, externalTls: 'required' });
    assert.deepEqual([found?.host, found?.address, found?.port, found?.isChosen], ['dovecot', '127.0.0.1', 2424, true]);
    assert.deepEqual([found?.tls.use, found?.tls.isVerified], ['offered', false]);
  });

  it('is an address, or the path of a socket', async () => {
    assert.deepEqual(
      (await lmtp('lmtp://[2001:db8::1]:24')).map(({ address, port }) => [address, port]),
      [['2001:db8::1', 24]],
    );
    assert.deepEqual(
      (await lmtp('lmtp:///run/a b/lmtp')).map(({ address }) => address),
      ['/run/a b/lmtp'],
    );
  });

  it('that nobody can find leaves the mail waiting', async () => {
    const dead = nullDns({ systemAddresses: async () => Promise.reject(noSuch('ENOTFOUND')) });
    const found = findServers({ kind: 'lmtp', server: 'lmtp://gone:24' }, { ...options, dns: dead }, () => false);
    const { value } = await found.next();
    assert.ok(value && 'kind' in value);
    assert.deepEqual([value.kind, value.isUnreachable], ['deferred', true]);
  });
});

describe('addresses', () => {
  const list = async (...given: Parameters<typeof servers>): Promise<string[]> =>
    (await servers(...given)).map(({ address }) => address);

  it('of the relay come as the system orders them, those of MX hosts with IPv6 and IPv4 in turn', async () => {
    assert.deepEqual(await list({ kind: 'relay' }, relay('starttls')), ['192.0.2.9', '2001:db8::9']);
    assert.deepEqual(await list(domain), ['2001:db8::1', '192.0.2.1']);
  });

  it('that could not be reached a moment ago come last', async () => {
    const isUnreached = (address: string): boolean => ['192.0.2.9', '2001:db8::1'].includes(address);
    assert.deepEqual(await list({ kind: 'relay' }, relay('starttls'), isUnreached), ['2001:db8::9', '192.0.2.9']);
    assert.deepEqual(await list(domain, {}, isUnreached), ['192.0.2.1', '2001:db8::1']);
  });
});

describe('when no server can be used', () => {
  const tls = { use: 'required', isVerified: false } as const;
  const server = (host: string, isChosen: boolean): Server => ({
    host,
    name: host,
    address: '192.0.2.1',
    isAuthentic: false,
    port: 25,
    tls,
    isChosen,
  });
  const busy: Delivery = { ...deferred('4.7.0', 'too many'), isBusy: true };
  const words = ({ kind, status, remote, isUnreachable, isBusy }: Delivery): string =>
    [kind, status, remote ?? '-', isUnreachable && 'unreachable', isBusy && 'busy'].filter(Boolean).join(' ');
  const told = (isChosen: boolean, ...refusals: readonly Refusal[]): string =>
    words(
      summarize(
        'x.example',
        refusals.map((refusal, at) => ({ ...refusal, server: server(`mx${at + 1}`, isChosen) })),
      ),
    );
  const no: Refusal = { because: 'host', delivery: failed('5.7.1', 'not you') };
  const dead: Refusal = { because: 'host', delivery: deferred('4.4.1', 'refused') };
  const clear: Refusal = { because: 'tls', delivery: deferred('4.7.4', 'no TLS') };
  const loop: Refusal = { because: 'loop', delivery: failed('5.4.6', 'it is us') };
  const full: Refusal = { because: 'host', delivery: busy };

  it('of a domain, the most hopeful word counts', () => {
    assert.equal(told(false, no), 'failed 5.7.1 mx1');
    assert.equal(told(false, loop), 'failed 5.4.6 mx1');
    assert.equal(told(false, no, dead), 'deferred 4.4.1 mx2 unreachable');
    assert.equal(told(false, dead, no), 'deferred 4.4.1 mx1 unreachable');
    assert.equal(told(false, dead, clear, dead), 'deferred 4.7.4 -');
    assert.equal(told(false, clear, full, dead), 'deferred 4.7.0 mx2 unreachable busy');
  });

  it('of the relay, nothing bounces, and TLS is no word for senders', () => {
    assert.equal(told(true, no), 'deferred 4.7.1 mx1 unreachable');
    assert.equal(told(true, loop), 'deferred 4.4.6 mx1 unreachable');
    assert.equal(told(true, clear), 'deferred 4.7.5 mx1 unreachable');
    assert.equal(
      told(true, { because: 'login', delivery: deferred('4.7.8', 'wrong') }),
      'deferred 4.7.8 mx1 unreachable',
    );
  });
});
