// Limits on sessions, shared addresses, the listening sockets, draining, and the deadlines of a session.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { type Socket, connect } from 'node:net';
import { networkInterfaces } from 'node:os';
import { Listeners } from '../../src/inbound/listener.ts';
import { matcher, sharedAddresses } from '../../src/inbound/shared-addresses.ts';
import { Gatherer } from '../../src/system/gather.ts';
import { Client, type Running, Time, startServer, until } from './inbound.harness.ts';

let server: Running;
const silent = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
afterEach(() => server.stop());
const said = (host = '127.0.0.1', localAddress?: string): Promise<string> =>
  new Client(connect({ port: server.port, host, ...(localAddress ? { localAddress } : {}) })).rest();
const from = async (localAddress: string): Promise<Client> => {
  const client = new Client(connect({ port: server.port, host: '127.0.0.1', localAddress }));
  await client.hear(/^220 .*\r\n/);
  return client;
};
const sessions = (count: number): Promise<void> =>
  until(() => server.listeners.sessions === count, `${count} sessions`);
const tooMany = '421 4.7.0 Too many sessions, try again later\r\n';

describe('the number of sessions', () => {
  it('is limited in all; who comes later hears 421, also when it talks first', async () => {
    server = await startServer({ maxSessions: 2 });
    const [one] = [await from('127.0.0.1'), await from('127.0.0.2')];
    assert.equal(await said(), tooMany);
    const impolite = new Client(connect(server.port, '127.0.0.1')).say('EHLO x\r\n'.repeat(200_000));
    assert.equal(await impolite.rest(), tooMany);
    // Well before the second that is given to clients that hang on.
    await new Promise(resolve => void setTimeout(resolve, 100));
    const held = await new Promise<number>(resolve => server.server.getConnections((_, count) => resolve(count)));
    assert.equal(held, 2);
    await one?.ask('QUIT');
    await sessions(1);
    await from('127.0.0.1');
  });

  it('is limited for each address, and a session that ends makes room', async () => {
    server = await startServer({ maxSessionsPerClient: 1 });
    const one = await from('127.0.0.1');
    await from('127.0.0.2');
    assert.equal(await said('127.0.0.1', '127.0.0.2'), tooMany);
    one.socket.resetAndDestroy();
    await sessions(1);
    await from('127.0.0.1');
  });

  it('counts the sessions that an address still has when one of them ends', async () => {
    server = await startServer({ maxSessionsPerClient: 2 });
    const one = await from('127.0.0.1');
    await from('127.0.0.1');
    await one.ask('QUIT');
    await sessions(1);
    await from('127.0.0.1');
    assert.equal(await said('127.0.0.1', '127.0.0.1'), tooMany);
  });

  it('counts an IPv4 client as itself on a socket of both families', async () => {
    server = await startServer({ host: undefined, maxSessionsPerClient: 1 });
    await from('127.0.0.1');
    await from('127.0.0.2');
    assert.equal(await said('127.0.0.1', '127.0.0.1'), tooMany);
    assert.equal(server.turnedAway()[0]?.['client'], '127.0.0.1');
  });

  it('counts the /64 of an IPv6 client, however it is written', () => {
    const opened: string[] = [];
    const refused: string[] = [];
    const listeners = new Listeners({
      sockets: [],
      maxSessions: 0,
      maxSessionsPerClient: 1,
      isShared: () => false,
      gatherer: new Gatherer(silent),
      open: (_, __, { client }) => {
        opened.push(client);
        return { drain() {}, end() {} };
      },
    });
    // Addresses that this host does not have: the listeners are given sockets that claim them.
    const comes = (remoteAddress: string): boolean => {
      const before = listeners.sessions;
      const socket = {
        remoteAddress,
        on: () => socket,
        resume: () => socket,
        end: () => refused.push(remoteAddress),
        destroy() {},
      };
      void listeners.accept(socket as never, { kind: 'smtp', host: undefined, port: 25 });
      return listeners.sessions > before;
    };
    assert.deepEqual(
      [
        '2001:db8::1',
        '2001:db8::2',
        '2001:db8:0:0:8000::',
        '2001:db8:0:1::1',
        '2001:db8:0:1:2:3:4:5',
        '::1',
        '::2',
        'fe80::1%eth0',
        'fe80::2%eth1',
      ].map(comes),
      [true, false, false, true, false, true, false, true, false],
    );
    assert.deepEqual(opened, ['2001:db8::1', '2001:db8:0:1::1', '::1', 'fe80::1']);
  });

  it('is not limited for one address that every client may have', async () => {
    server = await startServer({ maxSessionsPerClient: 1, isShared: client => client === '127.0.0.1' });
    for (let count = 0; count < 3; count += 1) await from('127.0.0.1');
    await from('127.0.0.2');
    assert.equal(await said('127.0.0.1', '127.0.0.2'), tooMany);
  });

  it('fills the log with one line a minute at most', async () => {
    const time = new Time();
    server = await startServer({ maxSessions: 1 });
    await from('127.0.0.1');
    for (let count = 0; count < 5; count += 1) assert.equal(await said(), tooMany);
    time.pass(60_000);
    await said();
    assert.deepEqual(server.turnedAway(), [
      { client: '127.0.0.1', reason: 'SLIM_MAX_SESSIONS' },
      { who: 'SLIM_MAX_SESSIONS', more: 4 },
      { client: '127.0.0.1', reason: 'SLIM_MAX_SESSIONS' },
    ]);
    time.restore();
  });
});

describe('shared addresses', () => {
  it('match in both families, and nothing else', async () => {
    server = await startServer();
    const isShared = matcher(['172.17.0.1', 'fd00:0000:0000:0000:0000:0000:0000:0001']);
    assert.deepEqual(['172.17.0.1', 'fd00::1', '172.17.0.2', 'fd00::2', '::1'].map(isShared), [
      true,
      true,
      false,
      false,
      false,
    ]);
    // Whatever this host has, it can be read; in a container, our own subnets are among it.
    const shared = sharedAddresses();
    const isOurs = matcher(shared);
    for (const { address, netmask, family, internal } of Object.values(networkInterfaces()).flatMap(
      list => list ?? [],
    )) {
      if (internal || family !== 'IPv4' || shared.length === 0) continue;
      const mask = netmask.split('.').map(Number);
      const subnet = address.split('.').map((octet, index) => Number(octet) & (mask[index] ?? 0));
      assert.ok(isOurs(address) && isOurs([...subnet.slice(0, 3), (subnet[3] ?? 0) | 1].join('.')), address);
    }
  });
});

describe('a listener', () => {
  it('says which address is taken, and what to do', async () => {
    server = await startServer();
    const other = new Listeners({
      sockets: [{ kind: 'smtp', host: '127.0.0.1', port: server.port }],
      maxSessions: 0,
      maxSessionsPerClient: 0,
      isShared: () => false,
      gatherer: new Gatherer(silent),
      open: () => ({ drain() {}, end() {} }),
    });
    await assert.rejects(other.open(), {
      message: `cannot listen on 127.0.0.1:${server.port}: another program listens there; stop it or choose another port in SLIM_LISTEN`,
    });
    assert.equal(other.isListening, false);
  });

  it('on [::] leaves IPv4 to a socket of its own; one without a host wants both', async () => {
    server = await startServer({ host: '::' });
    const onPort = (host: string | undefined): Listeners =>
      new Listeners({
        sockets: [{ kind: 'smtp', host, port: server.port }],
        maxSessions: 0,
        maxSessionsPerClient: 0,
        isShared: () => false,
        gatherer: new Gatherer(silent),
        open: () => ({ drain() {}, end() {} }),
      });
    await assert.rejects(onPort(undefined).open(), /^Error: cannot listen on :\d+: another program listens there/);
    const ipv4 = onPort('0.0.0.0');
    await ipv4.open();
    await ipv4.drain(0);
  });

  it('survives a failure to accept, and says so', async () => {
    server = await startServer();
    server.server.emit('error', new Error('accept EMFILE'));
    assert.deepEqual(server.turnedAway(), [{ client: '', reason: 'accept EMFILE' }]);
    await from('127.0.0.1');
  });
});

describe('on drain', () => {
  it('idle sessions hear 421, no new one begins, and an open transaction may end', async () => {
    server = await startServer();
    const [idle, busy] = [await from('127.0.0.1'), await from('127.0.0.1')];
    await busy.begin('anton');
    const drained = server.listeners.drain(4000);
    assert.equal(await idle.rest(), '421 4.3.2 Server is shutting down, try again later\r\n');
    await assert.rejects(from('127.0.0.1'));
    busy.say('hello\r\n.\r\nMAIL FROM:<>\r\n');
    assert.match(await busy.rest(), /^250 2\.0\.0 Delivered as \w+\r\n421 4\.3\.2 .*\r\n$/);
    await drained;
    assert.deepEqual(
      [server.mail('anton'), server.listeners.sessions, server.listeners.isListening],
      [['hello\n'], 0, false],
    );
  });

  for (const work of ['looked up', 'stored'])
    it(`what is being ${work} when the time is up hears 421, and is finished all the same`, async () => {
      const { promise: slow, resolve: go } = Promise.withResolvers<void>();
      let isAtWork = false;
      const wait = (now: string): Promise<void> | undefined => (now === work ? ((isAtWork = true), slow) : undefined);
      server = await startServer({
        account: { prepare: async () => ({ commit: async () => wait('stored'), abort: async () => {} }) },
        resolve: async () => {
          await wait('looked up');
          return { kind: 'local', routes: [{ kind: 'account', account: 'anton', folder: 'Maildir' }] };
        },
      });
      const client = await from('127.0.0.1');
      client.say('EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<anton@example.com>\r\nDATA\r\nhello\r\n.\r\n');
      await until(() => isAtWork, work);
      await server.listeners.drain(0);
      assert.match(await client.rest(), /\r\n421 4\.3\.2 .*\r\n$/);
      assert.equal(server.listeners.sessions, 1);
      go();
      await sessions(0);
      const messages = server.messageLines().map(({ text }) => text);
      assert.deepEqual(messages, work === 'stored' ? ['message delivered'] : []);
    });

  it('who goes on sending hears 421 too: what comes is read until it is gone', async () => {
    server = await startServer();
    const client = await from('127.0.0.1');
    await client.begin('anton');
    client.socket.pause();
    const drained = server.listeners.drain(0);
    client.say(Buffer.alloc(30_000_000, 'x'));
    await until(() => client.socket.writableLength === 0, 'sending');
    await drained;
    client.socket.resume();
    assert.match(await client.rest(), /^421 4\.3\.2 /);
  });

  it('what is not done in time hears 421, and leaves nothing', async () => {
    server = await startServer();
    const client = await from('127.0.0.1');
    await client.begin('anton');
    client.say('x'.repeat(500_000));
    await until(() => server.spooled().length === 1, 'a spool file');
    await server.listeners.drain(40);
    assert.match(await client.rest(), /^421 4\.3\.2 /);
    await sessions(0);
    assert.deepEqual([...server.spooled(), ...server.in('anton', 'new')], []);
  });
});

describe('time', () => {
  const minutes = 60_000;
  let time: Time;
  let peer: Socket;
  beforeEach(() => {
    time = new Time();
  });
  afterEach(() => time.restore());
  const start = async (): Promise<Client> => {
    server = await startServer({ clock: time.clock });
    server.server.once('connection', socket => (peer = socket));
    return from('127.0.0.1');
  };
  /** Time in which the server reads what was sent. */
  const reading = async (client: Client): Promise<void> => {
    const sent = client.socket.bytesWritten;
    await until(() => peer.bytesRead === sent, 'reading');
  };
  it('is five minutes for a command, however its octets drip', async () => {
    const client = await start();
    await client.ask('EHLO x');
    for (let count = 0; count < 4; count += 1) {
      time.pass(minutes);
      client.say('N');
      await reading(client);
      assert.equal(server.listeners.sessions, 1);
    }
    time.pass(minutes);
    assert.equal(await client.rest(), '421 4.4.2 Timeout, closing\r\n');
    await sessions(0);
  });

  it('begins anew with each command that is answered', async () => {
    const client = await start();
    for (let count = 0; count < 4; count += 1) {
      time.pass(4 * minutes);
      assert.match(await client.ask('NOOP'), /^250 /);
    }
    client.socket.destroy();
    await sessions(0);
  });

  it('is five minutes between two pieces of content, and an hour for a message', async () => {
    const client = await start();
    await client.begin('anton');
    for (let count = 0; count < 15; count += 1) {
      time.pass(4 * minutes);
      client.say('x');
      await reading(client);
      assert.equal(server.listeners.sessions, 1);
    }
    time.pass(minutes);
    client.say('x');
    assert.equal(await client.rest(), '421 4.4.2 Timeout, closing\r\n');
    await sessions(0);
    assert.deepEqual(server.in('anton', 'new'), []);
  });

  it('ends also for a client that never closes its side, once it has heard the last word', async () => {
    server = await startServer();
    const client = new Client(connect({ port: server.port, host: '127.0.0.1', allowHalfOpen: true }));
    await client.hear(/^220 .*\r\n/);
    time.pass(5 * minutes);
    await client.hear(/^421 .*\r\n/);
    await new Promise(resolve => void setImmediate(resolve));
    assert.equal(server.listeners.sessions, 1);
    time.pass(5000);
    await sessions(0);
  });

  it('ends at once for a client that has said QUIT, which gets its reply, whether it closes its side or not', async () => {
    server = await startServer();
    const client = new Client(connect({ port: server.port, host: '127.0.0.1', allowHalfOpen: true }));
    await client.hear(/^220 .*\r\n/);
    client.say('NOOP\r\nQUIT\r\n');
    await client.hear(/^250 .*\r\n221 2\.0\.0 Bye\r\n$/);
    await sessions(0);
  });
});
