// The HTTP server by itself: who may ask, what a request may cost, and that errors are sentences.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { connect } from 'node:net';
import { type TestContext, test } from 'node:test';
import { type Route, type ServerOptions, json, openServer, text } from '../../src/web/server.ts';

const routes: readonly Route[] = [
  { method: 'GET', path: '/', about: '', answer: () => text('here') },
  { method: 'GET', path: '/mail/{ID}.html', about: '', answer: ({ inPath }) => json(inPath) },
  { method: 'PUT', path: '/mail/{ID}', about: '', answer: async ({ body }) => text((await body()).toString()) },
  {
    method: 'GET',
    path: '/broken',
    about: '',
    answer: () => {
      throw new Error('a secret of ours');
    },
  },
  { method: 'GET', path: '/slow', about: '', answer: ({ gone }) => once(gone, 'abort').then(() => text('')) },
  {
    method: 'GET',
    path: '/stream',
    about: '',
    async answer() {
      return {
        status: 200,
        body: (async function* () {
          yield Buffer.from('one ');
          yield Buffer.from('two');
        })(),
      };
    },
  },
];

async function start(t: TestContext, more: Partial<ServerOptions> = {}) {
  const troubles: string[] = [];
  const onTrouble = (request: string, error: unknown): void => void troubles.push(`${request}: ${String(error)}`);
  const server = await openServer({
    host: '127.0.0.1',
    port: 0,
    hostname: 'mx.example.com',
    routes,
    onTrouble,
    ...more,
  });
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  /** Octets in, octets out, until the server ends the connection. */
  const raw = async (octets: string): Promise<string> => {
    const socket = connect(port, '127.0.0.1').setEncoding('latin1');
    let answer = '';
    socket.on('data', piece => (answer += piece)).on('error', () => {});
    socket.write(octets);
    await once(socket, 'close');
    return answer;
  };
  const get = async (path: string, headers: Record<string, string> = {}, method = 'GET'): Promise<string> => {
    const lines = Object.entries({ Host: `127.0.0.1:${port}`, Connection: 'close', ...headers });
    const answer = await raw(
      `${method} ${path} HTTP/1.1\r\n${lines.map(line => `${line.join(': ')}\r\n`).join('')}\r\n`,
    );
    const [head = '', body = ''] = answer.split('\r\n\r\n');
    return `${head.split(' ')[1]} ${body}`;
  };
  return { port, raw, get, troubles };
}

test('answers by method and path', async t => {
  const { get, port } = await start(t);
  assert.equal(await get('/'), '200 here');
  assert.equal(await get('/mail/a%20b.html?x=1'), '200 {"ID":"a b"}');
  assert.equal(await get('/nowhere'), '404 {"Error":"There is nothing at /nowhere."}');
  assert.equal(await get('/', {}, 'DELETE'), '405 {"Error":"DELETE is not possible at /."}');
  assert.equal(await get('/mail/%E0%A4%A.html'), '400 {"Error":"The path of the request is malformed."}');
  assert.equal(await get('/', {}, 'HEAD'), '200 ');
  const put = await fetch(`http://127.0.0.1:${port}/mail/1`, { method: 'PUT', body: 'hello' });
  assert.equal(await put.text(), 'hello');
  assert.equal(await (await fetch(`http://127.0.0.1:${port}/stream`)).text(), 'one two');
});

test('says that a browser may make nothing of it but what it is', async t => {
  const { port } = await start(t);
  const { headers } = await fetch(`http://127.0.0.1:${port}/`);
  assert.equal(headers.get('content-security-policy'), "default-src 'none'; frame-ancestors 'none'");
  assert.equal(headers.get('x-content-type-options'), 'nosniff');
  assert.equal(headers.get('access-control-allow-origin'), null);
});

test('a surprise is a sentence for the client, and a line for the log', async t => {
  const { get, troubles } = await start(t);
  assert.equal(await get('/broken'), '500 {"Error":"The server failed at this request; its log says more."}');
  assert.deepEqual(troubles, ['GET /broken: Error: a secret of ours']);
});

test('is reached by an address, a name without a dot, or its own name: a stranger’s DNS name that leads here is 403', async t => {
  const { get, raw } = await start(t);
  for (const host of [
    '127.0.0.1',
    '127.0.0.1:8025',
    '[::1]:8025',
    '[::ffff:127.0.0.1]',
    'localhost:1',
    'slimsmtp',
    'MX.example.com:80',
  ])
    assert.equal(await get('/', { Host: host }), '200 here', host);
  for (const host of ['evil.example', 'evil.example:8025', 'localhost.', '127.0.0.1.evil.example', 'x.mx.example.com'])
    assert.match(await get('/', { Host: host }), /^403 \{"Error":"The host .* is not ours/, host);
  assert.match(await raw('GET / HTTP/1.0\r\n\r\n'), /^HTTP\/1.1 200/, 'a load balancer of old');
});

test('is not for pages of other origins', async t => {
  const { get, port } = await start(t);
  const own = `127.0.0.1:${port}`;
  assert.equal(await get('/', { Origin: `http://${own}` }), '200 here');
  for (const origin of [
    'http://evil.example',
    'null',
    `http://${own}.evil.example`,
    'http://127.0.0.1:1',
    `http://x@evil/${own}`,
  ])
    assert.match(await get('/', { Origin: origin }), /^403 \{"Error":"Pages of other origins/, origin);
  const upgrade = { Connection: 'Upgrade', Upgrade: 'websocket' };
  assert.match(await get('/api/events', { ...upgrade, Origin: 'http://evil.example' }), /^403 /);
  assert.match(await get('/api/events', { ...upgrade, Host: 'evil.example' }), /^403 /);
  assert.match(await get('/api/events', upgrade), /^404 There is no WebSocket here/);
});

test('a body has a limit, and so have all bodies together', async t => {
  const { port } = await start(t, { limits: { maxBodyOctets: 1000, maxBodiesOctets: 1500 } });
  const put = async (octets: number): Promise<number> =>
    (await fetch(`http://127.0.0.1:${port}/mail/1`, { method: 'PUT', body: 'x'.repeat(octets) })).status;
  assert.equal(await put(1000), 200);
  assert.equal(await put(1001), 413);
  const held = connect(port, '127.0.0.1');
  held.write(`PUT /mail/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n${'x'.repeat(800)}`);
  await new Promise(resolve => setTimeout(resolve, 100));
  assert.equal(await put(900), 503);
  held.destroy();
  await new Promise(resolve => setTimeout(resolve, 100));
  assert.equal(await put(900), 200, 'what was held is free again');
});

test('headers have a size and a time, requests a time and a number, connections a number', async t => {
  const { raw, get, port } = await start(t, {
    limits: { maxHeaderOctets: 2000, headerMs: 200, requestMs: 300, checkMs: 50, maxRequests: 2, maxConnections: 5 },
  });
  assert.match(await raw(`GET / HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(3000)}\r\n\r\n`), /^HTTP\/1.1 431/);
  assert.match(await raw('GET / HTTP/1.1\r\nHost: x\r\n'), /^HTTP\/1.1 408/, 'the header does not end');
  assert.match(await raw('PUT /mail/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe'), /^HTTP\/1.1 408/);
  const slow = Array.from({ length: 2 }, () => connect(port, '127.0.0.1'));
  for (const socket of slow) socket.on('error', () => {}).write('GET /slow HTTP/1.1\r\nHost: x\r\n\r\n');
  await new Promise(resolve => setTimeout(resolve, 100));
  assert.match(await get('/'), /^503 /);
  const idle = Array.from({ length: 3 }, () => connect(port, '127.0.0.1').on('error', () => {}));
  await new Promise(resolve => setTimeout(resolve, 100));
  assert.equal(await raw('GET / HTTP/1.1\r\nHost: x\r\n\r\n'), '', 'closed without a word');
  for (const socket of [...slow, ...idle]) socket.destroy();
  await new Promise(resolve => setTimeout(resolve, 100));
  assert.equal(await get('/'), '200 here');
});

test('says which address it cannot have, and what to do', async t => {
  const { port } = await start(t);
  await assert.rejects(
    openServer({ host: '127.0.0.1', port, hostname: 'x', routes, onTrouble: () => {} }),
    new RegExp(`^Error: SLIM_HTTP: cannot listen on 127.0.0.1:${port}: another program listens there`),
  );
});
