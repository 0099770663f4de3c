// Clients behind a proxy (SLIM_PROXY_NETWORKS), over real sockets: whom the server takes for the client, in the trace,
// the log, the limits and what trust means; and what becomes of headers that are late, forged or none.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { afterEach, before, describe, it } from 'node:test';
import { type SecureContext, connect as connectTls } from 'node:tls';
import { openProxies } from '../../src/inbound/proxy.ts';
import { Gatherer } from '../../src/system/gather.ts';
import type { Log } from '../../src/system/log.ts';
import { Client, type Running, Time, makeContext, startServer, until } from './inbound.harness.ts';

let secureContext: SecureContext;
let server: Running;
before(async () => {
  secureContext = await makeContext();
});
afterEach(() => server.stop());

type Options = Parameters<typeof startServer>[0] & { readonly shared?: string };
const refusals: Record<string, unknown>[] = [];
/** A server whose proxies are 127.0.0.2 and 127.0.0.3. */
async function start({ shared = '', ...options }: Options = {}): Promise<void> {
  refusals.length = 0;
  const ignore = (): void => {};
  const log: Log = { debug: ignore, info: ignore, warn: fields => void refusals.push(fields), error: ignore };
  const isShared = (client: string): boolean => client === shared;
  const introduce = openProxies({ networks: ['127.0.0.2/31'], isShared, gatherer: new Gatherer(log) });
  server = await startServer({ ...options, isShared, introduce });
}
const dial = (localAddress = '127.0.0.2'): Client =>
  new Client(connect({ port: server.port, host: '127.0.0.1', localAddress }));
const named = (client: string): string => `PROXY TCP4 ${client} 198.51.100.1 40000 25\r\n`;
const binaryIPv6 = Buffer.from(
  '0d0a0d0a000d0a515549540a 21 21 0024 20010db8000000000000000000000007 20010db8000000000000000000000001 9c40 0019'.replaceAll(
    ' ',
    '',
  ),
  'hex',
);
const local = Buffer.from('0d0a0d0a000d0a515549540a20000000', 'hex');
const dialogue =
  'EHLO client.example.net\r\nMAIL FROM:<me@example.net>\r\nRCPT TO:<anton@example.com>\r\nDATA\r\nhello\r\n.\r\nQUIT\r\n';
const ended = (): Promise<void> => until(() => server.sessionLines().length === 1, 'the end of the session');

describe('behind a proxy', () => {
  for (const [what, header, client, trace] of [
    ['version 1', Buffer.from(named('192.0.2.7')), '192.0.2.7', '[192.0.2.7]'],
    ['version 2', binaryIPv6, '2001:db8::7', '[IPv6:2001:db8::7]'],
    ['a proxy that names nobody', local, '127.0.0.2', '[127.0.0.2]'],
  ] as const) {
    it(`the client is whom the header names, in trace and log: ${what}`, async () => {
      await start();
      const said = await dial()
        .say(Buffer.concat([header, Buffer.from(dialogue)]))
        .rest();
      assert.match(said, /^220 .*\r\n250 2\.0\.0 Delivered.*\r\n221 /s);
      await ended();
      assert.ok(server.files('anton')[0]?.includes(`(${trace})`));
      assert.deepEqual(server.mail('anton'), ['hello\n']);
      assert.equal(server.messageLines()[0]?.['client'], client);
      assert.equal(server.sessionLines()[0]?.['client'], client);
    });

    it(`nothing changes when all of it comes octet by octet: ${what}`, async () => {
      await start();
      const proxy = dial();
      await once(proxy.socket, 'connect');
      for (const octet of Buffer.concat([header, Buffer.from(dialogue)])) {
        proxy.say(Buffer.from([octet]));
        await new Promise(resolve => void setImmediate(resolve));
      }
      assert.match(await proxy.rest(), /^220 .*\r\n250 2\.0\.0 Delivered.*\r\n221 /s);
      await ended();
      assert.deepEqual(server.mail('anton'), ['hello\n']);
      assert.equal(server.sessionLines()[0]?.['client'], client);
    });
  }

  it('nothing is said before the header', async () => {
    await start();
    const proxy = dial();
    await until(() => server.listeners.sessions === 1, 'the connection');
    await new Promise(resolve => void setTimeout(resolve, 50));
    proxy.say('PROXY UNKNOWN\r\n');
    await proxy.hear(/^220 /);
  });

  for (const isTogether of [true, false])
    it(`the header comes before TLS${isTogether ? ', also in one packet with the handshake' : ''}`, async () => {
      await start({ kind: 'submissions', secureContext });
      const socket = connect({ port: server.port, host: '127.0.0.1', localAddress: '127.0.0.2' });
      if (isTogether) socket.cork();
      socket.write(named('192.0.2.7'));
      if (!isTogether) await until(() => server.lines.length >= 0 && server.listeners.sessions === 1, 'the session');
      const secure = connectTls({ socket, rejectUnauthorized: false });
      setImmediate(() => socket.uncork());
      const client = new Client(secure);
      await client.hear(/^220 /);
      client.say(dialogue);
      await client.rest();
      await ended();
      assert.equal(server.sessionLines()[0]?.['client'], '192.0.2.7');
      assert.match(server.files('anton')[0] ?? '', /\(\[192\.0\.2\.7\]\)\n\tby \S+ with ESMTPS/);
    });

  it('each client has its limit, and the proxy none', async () => {
    await start({ maxSessionsPerClient: 1, shared: '127.0.0.1' });
    for (const client of ['192.0.2.7', '192.0.2.8']) await dial().say(named(client)).hear(/^220 /);
    assert.match(await dial('127.0.0.3').say(named('192.0.2.7')).rest(), /^421 4\.7\.0 Too many sessions/);
    assert.equal(server.turnedAway()[0]?.['client'], '192.0.2.7');
    // One that is shared by all clients has none.
    for (let count = 0; count < 2; count += 1) await dial().say(named('127.0.0.1')).hear(/^220 /);
  });

  it('a proxy that names nobody is never trusted, a client that it names may be', async () => {
    const elsewhere = async (header: string | Buffer): Promise<string> => {
      const client = dial().say(header);
      await client.hear(/^220 .*\r\n/);
      await client.ask('EHLO x');
      await client.ask('MAIL FROM:<me@example.net>');
      return client.ask('RCPT TO:<x@example.org>');
    };
    await start({ isTrusted: true, resolve: async () => ({ kind: 'elsewhere' }) });
    assert.match(await elsewhere(named('192.0.2.7')), /^250 /);
    for (const header of [local, 'PROXY UNKNOWN\r\n', 'PROXY UNKNOWN 192.0.2.7 198.51.100.1 1 25\r\n'])
      assert.match(await elsewhere(header), /^550 5\.7\.1/);
  });
});

describe('a header', () => {
  it('that is missing or malformed closes the connection, with a line a minute', async () => {
    await start();
    for (const text of ['EHLO client.example.net\r\n', 'PROXY TCP4 x y 1 2\r\n', '\r\n\r\n\0\r\nQUIT\nxxxx'])
      assert.equal(await dial().say(text).rest(), '');
    assert.deepEqual(
      refusals.map(({ client }) => client),
      ['127.0.0.2'],
    );
    assert.match(String(refusals[0]?.['reason']), /something else than a PROXY header/);
    assert.deepEqual(server.sessionLines(), []);
    await until(() => server.listeners.sessions === 0, 'no session');
  });

  it('that is cut by the end of the connection closes it, and a probe that says nothing makes no line', async () => {
    await start();
    const probe = dial();
    await once(probe.socket, 'connect');
    probe.socket.end();
    assert.equal(await probe.rest(), '');
    assert.deepEqual(refusals, []);
    const proxy = dial().say('PROXY TCP4 192');
    proxy.socket.end();
    assert.equal(await proxy.rest(), '');
    assert.equal(refusals.length, 1);
    const reset = dial().say('PROXY TCP4 192');
    await until(() => server.listeners.sessions === 1, 'the connection');
    reset.socket.resetAndDestroy();
    await until(() => server.listeners.sessions === 0, 'its end');
  });

  it('has five seconds, however it drips', async () => {
    const time = new Time();
    try {
      await start();
      const [silent, dripping] = [dial(), dial()];
      await until(() => server.listeners.sessions === 2, 'the connections');
      time.pass(4000);
      dripping.say('PROXY');
      await new Promise(resolve => void setImmediate(resolve));
      assert.equal(server.listeners.sessions, 2);
      time.pass(1001);
      assert.equal((await silent.rest()) + (await dripping.rest()), '');
      assert.match(String(refusals[0]?.['reason']), /did not come in time/);
    } finally {
      time.restore();
    }
  });

  it('of anybody else is a command that nobody knows', async () => {
    await start();
    const forger = await Client.to(server);
    assert.match(await forger.ask(named('192.0.2.7').trimEnd()), /^500 5\.5\.1/);
    await forger.ask('QUIT');
    const binary = await Client.to(server);
    assert.match(await binary.say(binaryIPv6).rest(), /^(?:500 .*\r\n){4}$/);
    await until(() => server.sessionLines().length === 2, 'the ends');
    for (const line of server.sessionLines()) assert.equal(line['client'], '127.0.0.1');
  });

  it('of a shared address closes the connection, before it is read', async () => {
    await start({ shared: '127.0.0.3' });
    assert.equal(await dial('127.0.0.3').rest(), '');
    assert.match(String(refusals[0]?.['reason']), /never a proxy/);
    await dial('127.0.0.2').say(named('192.0.2.7')).hear(/^220 /);
  });

  it('counts as a session while it is awaited, and ends with the server', async () => {
    await start({ maxSessions: 1 });
    const waiting = dial();
    await until(() => server.listeners.sessions === 1, 'the connection');
    assert.match(await dial().say(named('192.0.2.7')).rest(), /^421 4\.7\.0/);
    await server.listeners.drain(5000);
    assert.equal(await waiting.rest(), '');
    assert.equal(server.listeners.sessions, 0);
  });
});
