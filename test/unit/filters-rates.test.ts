// How much may be sent (SLIM_RATE_CLIENT, SLIM_RATE_LOGIN), through the real server: who is counted, what is said
// beyond the rate, and how often the log says it. The clock of the limiter is the real one.
import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import { type RatesOptions, countBy, openRates } from '../../src/filters/rates.ts';
import { clientKey, stranger } from '../../src/inbound/peer.ts';
import { type Policy, answerRecipient, answerSender } from '../../src/inbound/policy.ts';
import type { Filters } from '../../src/mail/ports.ts';
import { parseAddress } from '../../src/smtp/address.ts';
import { Gatherer } from '../../src/system/gather.ts';
import { Client, type Running, startServer } from './inbound.harness.ts';

const hour = 3_600_000;
const lines: string[] = [];
const note = (fields: Record<string, unknown>, text: string) => void lines.push(`${text} ${JSON.stringify(fields)}`);
const gatherer = new Gatherer({ debug: note, info: note, warn: note, error: note });
const open = (more: Partial<RatesOptions>): Promise<Filters> =>
  openRates({ client: undefined, login: undefined, clientKey, gatherer, ...more });
const policy = (filters: Filters): Policy => ({
  resolve: async () => ({ kind: 'elsewhere' }),
  returnPaths: { forForward: async from => from },
  senderCheck: 'off',
  gatherer,
  filters,
});
const code = async (reply: ReturnType<typeof answerSender>): Promise<number> => (await reply).code;
afterEach(() => void lines.splice(0));

describe('SLIM_RATE_CLIENT', () => {
  it('counts messages of a client from outside, loopback too, and says so once', async () => {
    const rates = policy(await open({ client: { count: 2, periodMs: hour } }));
    const said: number[] = [];
    for (let at = 0; at < 5; at += 1)
      said.push(await code(answerSender({ ...stranger, client: '127.0.0.1' }, '', rates)));
    assert.deepEqual(said, [250, 250, 450, 450, 450]);
    assert.equal(await code(answerSender({ ...stranger, client: '192.0.2.1' }, '', rates)), 250);
    assert.deepEqual(lines, ['a client sends more than SLIM_RATE_CLIENT allows {"who":"127.0.0.1"}']);
  });

  it('counts an IPv6 client by its /64', async () => {
    const rates = policy(await open({ client: { count: 2, periodMs: hour } }));
    const from = (client: string) => code(answerSender({ ...stranger, client }, '', rates));
    assert.deepEqual(
      [
        await from('2001:db8::1'),
        await from('2001:db8::ffff:2'),
        await from('2001:db8::3'),
        await from('2001:db8:0:1::1'),
      ],
      [250, 250, 450, 250],
    );
  });

  it('never counts a shared address, a trusted network or a login', async () => {
    const rates = policy(await open({ client: { count: 1, periodMs: hour } }));
    const login = { name: 'anton', address: { local: 'anton', domain: 'example.com' } } as never;
    for (const peer of [
      { ...stranger, client: '172.17.0.1', isShared: true },
      { ...stranger, client: '10.0.0.1', isTrusted: true },
      { ...stranger, client: '192.0.2.9', login },
    ])
      for (let at = 0; at < 3; at += 1) assert.equal(await code(answerSender(peer, '', rates)), 250);
  });

  it('ends with its period', async () => {
    const rates = policy(await open({ client: { count: 1, periodMs: 1000 } }));
    const again = () => code(answerSender({ ...stranger, client: '192.0.2.1' }, '', rates));
    assert.deepEqual([await again(), await again()], [250, 450]);
    await new Promise(resolve => setTimeout(resolve, 1100));
    assert.equal(await again(), 250);
  });
});

describe('SLIM_RATE_LOGIN', () => {
  const address = parseAddress('b@elsewhere.example');
  assert.ok(address);
  const as = (name: string) => ({
    ...stranger,
    client: '192.0.2.1',
    login: { name, address: { local: name, domain: 'example.com' } as never },
  });

  it('counts recipients of a login that were taken, and nobody else', async () => {
    const rates = policy(await open({ login: { count: 2, periodMs: hour } }));
    const to = async (peer: Parameters<typeof answerRecipient>[1]) =>
      (await answerRecipient(address, peer, '', rates)).reply;
    assert.deepEqual((await to(stranger)).code, 550); // refused: not counted
    const said = [];
    for (let at = 0; at < 3; at += 1) said.push(await to(as('anton')));
    assert.deepEqual(
      said.map(({ code: each, status }) => `${each} ${status}`),
      ['250 2.1.5', '250 2.1.5', '450 4.7.1'],
    );
    assert.equal((await to(as('berta'))).code, 250);
    assert.deepEqual(lines, ['a login sends more than SLIM_RATE_LOGIN allows {"who":"anton@example.com"}']);
  });
});

describe('a counter that cannot tell', () => {
  it('lets mail go on', async () => {
    const count = countBy({ consume: () => Promise.reject(new Error('the database is down')) });
    assert.equal(await count('x'), true);
  });
});

describe('the server', () => {
  let server: Running;
  afterEach(() => server.stop());

  it('says 450 4.7.1 to MAIL, and goes on', async () => {
    server = await startServer({ filters: await open({ client: { count: 1, periodMs: hour } }) });
    const client = await Client.to(server);
    await client.ask('EHLO client.example.net');
    assert.match(await client.ask('MAIL FROM:<a@example.net>'), /^250 /);
    await client.ask('RSET');
    assert.equal(
      await client.ask('MAIL FROM:<a@example.net>'),
      '450 4.7.1 Too much mail from you for now, try again later',
    );
    assert.match(await client.ask('NOOP'), /^250 /);
  });
});
