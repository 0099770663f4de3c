// TLS from the start and by STARTTLS, over real sockets: good clients, garbage, clients that leave, and deadlines.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type Socket, connect } from 'node:net';
import { afterEach, before, describe, it } from 'node:test';
import { type SecureContext, type TLSSocket, connect as connectTls } from 'node:tls';
import { createTransport } from 'nodemailer';
import { Client, type Running, Time, makeContext, startServer, until } from './inbound.harness.ts';

let secureContext: SecureContext;
let server: Running;
before(async () => {
  secureContext = await makeContext();
});
afterEach(() => server.stop());

const secured = async (socket?: Socket): Promise<TLSSocket> => {
  const where = socket ? { socket } : { port: server.port, host: '127.0.0.1' };
  const secure = connectTls({ ...where, rejectUnauthorized: false });
  await once(secure, 'secureConnect');
  return secure;
};
const plainFor = async (last: string): Promise<Client> => {
  server = await startServer({ secureContext });
  const client = await Client.to(server);
  await client.ask('EHLO client.example.net');
  client.say(last);
  await client.hear(/^220 2\.0\.0 .*\r\n/);
  client.socket.removeAllListeners('data');
  return client;
};
/** Brings a client to where it is its turn to begin the handshake. */
async function beforeHandshake(kind: 'smtp' | 'submissions', socket: Socket): Promise<void> {
  if (kind === 'submissions') return until(() => server.listeners.sessions === 1, 'the session');
  socket.write('EHLO x\r\nSTARTTLS\r\n');
  await until(() => (socket.read()?.toString() ?? '').includes('220 2.0.0'), 'the word for TLS');
}
const allGone = (): Promise<void> =>
  until(() => server.sessionLines().length === 1 && server.listeners.sessions === 0, 'the end of the session');

for (const kind of ['smtp', 'submissions'] as const)
  describe(kind === 'smtp' ? 'STARTTLS' : 'implicit TLS', () => {
    it('serves a real client, and says so in the trace and in the log', async () => {
      server = await startServer({ kind, secureContext });
      const secure = kind === 'submissions';
      const tls = { rejectUnauthorized: false };
      const transport = createTransport({
        host: '127.0.0.1',
        port: server.port,
        secure,
        requireTLS: true,
        tls,
      });
      const envelope = { from: 'me@example.net', to: 'anton@example.com' };
      await transport.sendMail({ envelope, raw: 'hello\r\n' });
      transport.close();
      await allGone();
      assert.match(server.files('anton')[0] ?? '', /with ESMTPS \(TLSv1\.3:TLS_\w+\)\n/);
      assert.match(String(server.sessionLines()[0]?.['tls']), /^TLSv1\.3:/);
      assert.match(String(server.messageLines()[0]?.['tls']), /^TLSv1\.3:/);
    });

    it('ends a session whose handshake is garbage, and says why in its line', async () => {
      server = await startServer({ kind, secureContext });
      const socket = connect(server.port, '127.0.0.1');
      if (kind === 'smtp') {
        socket.write('EHLO x\r\nSTARTTLS\r\n');
        await until(() => (socket.read()?.toString() ?? '').includes('220 2.0.0'), 'the word for TLS');
      }
      socket.on('error', () => undefined).resume();
      socket.write(Buffer.alloc(2000, 0xff));
      await allGone();
      assert.match(String(server.sessionLines()[0]?.['end']), /wrong version|ssl|tls/i);
      assert.equal(server.lines.length, 1);
    });

    for (const leave of ['resetAndDestroy', 'end'] as const)
      it(`ends a session whose client leaves in the handshake (${leave})`, async () => {
        server = await startServer({ kind, secureContext });
        const socket = connect(server.port, '127.0.0.1');
        await beforeHandshake(kind, socket);
        socket[leave]();
        await allGone();
        assert.equal(server.sessionLines().length, 1);
      });

    it('ends a session whose client stalls in the handshake after a minute', async () => {
      const time = new Time();
      server = await startServer({ kind, secureContext });
      const socket = connect(server.port, '127.0.0.1').on('error', () => undefined);
      await beforeHandshake(kind, socket);
      time.pass(59_000);
      assert.equal(server.listeners.sessions, 1);
      time.pass(2000);
      await allGone();
      assert.equal(server.sessionLines()[0]?.['end'], 'TLS handshake timeout');
      socket.destroy();
      time.restore();
    });

    it('that is under way when the server stops still hears why', async () => {
      server = await startServer({ kind, secureContext });
      let socket = connect(server.port, '127.0.0.1');
      await beforeHandshake(kind, socket);
      const drained = server.listeners.drain(3000);
      socket = await secured(socket);
      assert.match(await new Client(socket).rest(), /^(?:220 .*\r\n)?421 4\.3\.2 .*\r\n$/);
      await drained;
    });

    it('that stalls when the time is up is over five seconds later', async () => {
      const time = new Time();
      server = await startServer({ kind, secureContext });
      const socket = connect(server.port, '127.0.0.1').on('error', () => undefined);
      await beforeHandshake(kind, socket);
      await server.listeners.drain(0);
      assert.equal(server.listeners.sessions, 1);
      time.pass(5000);
      await allGone();
      socket.destroy();
      time.restore();
    });

    it('that is under way when the time is up still hears why, once', async () => {
      server = await startServer({ kind, secureContext });
      let socket = connect(server.port, '127.0.0.1');
      await beforeHandshake(kind, socket);
      await server.listeners.drain(0);
      socket = await secured(socket);
      assert.match(await new Client(socket).rest(), /^(?:220 .*\r\n)?421 4\.3\.2 .*\r\n$/);
      await allGone();
      assert.match(String(server.sessionLines()[0]?.['end']), /^421 4\.3\.2 /);
    });
  });

describe('after STARTTLS', () => {
  it('the session begins anew, and does not offer it again', async () => {
    const plain = await plainFor('STARTTLS\r\n');
    const client = new Client(await secured(plain.socket));
    assert.match(await client.ask('MAIL FROM:<>'), /^503 5\.5\.1 /);
    client.say('EHLO client.example.net\r\n');
    assert.doesNotMatch(await client.hear(/^250 .*\r\n/m), /STARTTLS/);
    client.socket.destroy();
  });

  it('clear text in the same segment is never interpreted', async () => {
    const plain = await plainFor('STARTTLS\r\nEHLO injected.example\r\nMAIL FROM:<evil@example.net>\r\n');
    const client = new Client(await secured(plain.socket));
    assert.match(await client.ask('RCPT TO:<anton@example.com>'), /^503 5\.5\.1 /);
    assert.match(await client.ask('MAIL FROM:<>'), /^503 5\.5\.1 Send EHLO first/);
    client.socket.destroy();
    await allGone();
    assert.equal(server.sessionLines()[0]?.['helo'], undefined);
  });

  it('clear text in a later segment ends the session, and is never interpreted', async () => {
    const plain = await plainFor('STARTTLS\r\n');
    let heard = '';
    plain.socket.on('data', octets => (heard += octets.toString('latin1')));
    plain.say('EHLO injected.example\r\nMAIL FROM:<evil@example.net>\r\n');
    await allGone();
    assert.doesNotMatch(heard, /\d{3}[ -]/);
    assert.equal(server.sessionLines()[0]?.['helo'], undefined);
  });

  it('clear text while the session was busy is never interpreted', async () => {
    const { promise: slow, resolve: go } = Promise.withResolvers<void>();
    server = await startServer({ secureContext, resolve: () => slow.then(() => ({ kind: 'unknown' })) });
    const plain = await Client.to(server);
    plain.say('EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<anton@example.com>\r\n');
    // Three segments that come while the session waits: one that it takes, and some that stay in the socket.
    for (const text of ['RSET\r\nSTARTTLS\r\n', 'EHLO injected.example\r\n', 'MAIL FROM:<evil@example.net>\r\n']) {
      plain.say(text);
      await new Promise(resolve => void setTimeout(resolve, 20));
    }
    go();
    await allGone();
    assert.match((await plain.rest()).slice(-40), /Ready to start TLS\r\n/);
    assert.equal(server.sessionLines()[0]?.['helo'], undefined);
  });

  it('garbage under TLS ends the session, and is never interpreted', async () => {
    const plain = await plainFor('STARTTLS\r\n');
    const client = new Client(await secured(plain.socket));
    await client.ask('EHLO client.example.net');
    plain.socket.write('NOOP\r\n'.repeat(100));
    await allGone();
    assert.match(String(server.sessionLines()[0]?.['end']), /ssl|tls/i);
  });
});
