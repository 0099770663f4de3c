// Sessions and messages over real sockets: what lies in the Maildirs, what is left when clients vanish, and what a
// session that nobody reads may cost.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { chmodSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { afterEach, describe, it } from 'node:test';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { createTransport } from 'nodemailer';
import { CannotTell, type Storage } from '../../src/mail/ports.ts';
import type { Route } from '../../src/mail/message.ts';
import { Spool } from '../../src/inbound/spool.ts';
import { Client, type Running, startServer, until } from './inbound.harness.ts';

let server: Running;
afterEach(() => server.stop());
const start = async (options: Parameters<typeof startServer>[0] = {}): Promise<Client> => {
  server = await startServer(options);
  return Client.to(server);
};
const bye = async (client: Client): Promise<void> => {
  await client.ask('QUIT');
  await until(() => server.listeners.sessions === 0, 'the end of the session');
};

describe('a message', () => {
  it('sent by a real client lies in the Maildir, octet for octet below its trace lines', async () => {
    server = await startServer();
    const transport = createTransport({ host: '127.0.0.1', port: server.port, ignoreTLS: true });
    const raw = 'Subject: h\xe9llo\r\n\r\n.dot\r\n..two\r\n' + 'x'.repeat(3000) + '\r\n\r\n';
    const envelope = { from: 'me@example.net', to: ['anton@example.com', 'berta@example.com'] };
    await transport.sendMail({ envelope, raw: Buffer.from(raw, 'latin1') });
    transport.close();
    for (const name of ['anton', 'berta']) assert.deepEqual(server.mail(name), [raw.replaceAll('\r\n', '\n')]);
  });

  it('has a trace that names the only recipient, and no one when there are several', async () => {
    const client = await start();
    await client.begin('anton');
    await client.ask('\r\nhello\r\n.');
    await client.begin('berta', 'carla');
    await client.ask('\r\nhello\r\n.');
    const [one = ''] = server.files('anton');
    assert.match(
      one,
      /^Return-Path: <me@example\.net>\nReceived: from client\.example\.net \(\[127\.0\.0\.1\]\)\n\tby mx\.example\.com with ESMTP\n\tid \w+\n\tfor <anton@example\.com>; \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d \+0000\n\nhello\n$/,
    );
    assert.doesNotMatch(server.files('berta')[0] ?? '', /for </);
    await bye(client);
  });

  it('is stored once for recipients that lead to the same Maildir', async () => {
    const same: Route[] = [];
    const client = await start({ resolve: async () => ({ kind: 'local', routes: same }) });
    same.push(server.route('social'), server.route('anton'));
    await client.begin('facebook', 'twitter');
    assert.match(await client.ask('hello\r\n.'), /^250 /);
    assert.deepEqual([server.mail('social').length, server.mail('anton').length], [1, 1]);
    await bye(client);
  });

  for (const size of [100, 400_000])
    it(`of ${size} octets says in each copy which addresses led to it, and shares one file where it need not`, async () => {
      const client = await start({
        resolve: async ({ local }) => {
          if (local === 'sales')
            return { kind: 'local', routes: [server.route('anton'), server.route('berta')], via: 'shared' };
          if (local === 'anton' || local === 'dora' || local === 'emil')
            return { kind: 'local', routes: [server.route(local)] };
          return { kind: 'local', routes: [server.route('default')], via: 'catch-all' };
        },
      });
      await client.begin('sales', 'secret', 'dora', 'emil', 'anton');
      assert.match(await client.ask(`${'x'.repeat(size)}\r\n.`), /^250 2\.0\.0 Delivered/);
      const heads = ['anton', 'berta', 'default', 'dora', 'emil'].map(name => {
        const [file = ''] = server.files(name);
        assert.ok(file.endsWith(`+0000\n${'x'.repeat(size)}\n`), name);
        const [, head] = /^Return-Path: <me@example\.net>\n((?:Delivered-To: .*\n)*)Received: /.exec(file) ?? [];
        return head;
      });
      assert.deepEqual(heads, [
        'Delivered-To: sales@example.com\nDelivered-To: anton@example.com\n',
        'Delivered-To: sales@example.com\n',
        'Delivered-To: secret@example.com\n',
        '',
        '',
      ]);
      const inodes = ['dora', 'emil'].map(name => {
        const [file = ''] = server.in(name, 'new');
        return statSync(join(server.folder, 'mail', name, 'new', file)).ino;
      });
      assert.equal(inodes[0], inodes[1]);
      // The reply goes out before the file is removed.
      await until(() => server.spooled().length === 0, 'an empty spool');
      await bye(client);
    });

  it('that is big, and for a catch-all, is written once: straight into its Maildir', async () => {
    const client = await start({
      resolve: async () => ({ kind: 'local', routes: [server.route('default')], via: 'catch-all' }),
    });
    await client.begin('warmup');
    assert.match(await client.ask('x\r\n.'), /^250/);
    await client.begin('whoever');
    client.say(`${'x'.repeat(600_000)}\r\n`);
    while (server.in('default', 'tmp').length === 0) await new Promise(resolve => setTimeout(resolve, 5));
    const [spooled = ''] = server.in('default', 'tmp');
    const { ino } = statSync(join(server.folder, 'mail', 'default', 'tmp', spooled));
    assert.match(await client.ask('.'), /^250 2\.0\.0 Delivered/);
    const inodes = server
      .in('default', 'new')
      .map(name => statSync(join(server.folder, 'mail', 'default', 'new', name)).ino);
    assert.ok(inodes.includes(ino), 'the same file');
    assert.ok(
      server.files('default').some(file => /^Return-Path: <.*>\nDelivered-To: whoever@example\.com\n/.test(file)),
    );
    await bye(client);
  });

  it('that is big goes through a file, and leaves none behind', async () => {
    const client = await start();
    const line = `${'x'.repeat(78)}\r\n`;
    await client.begin('anton');
    client.say(line.repeat(20_000));
    await until(() => server.spooled().length === 1, 'a spool file');
    assert.match(await client.ask('.'), /^250 /);
    await client.begin('anton');
    client.say(line.repeat(20_000));
    await until(() => server.in('anton', 'tmp').length === 1, 'a spool file in the Maildir that exists now');
    assert.match(await client.ask('.'), /^250 /);
    const wanted = `${'x'.repeat(78)}\n`.repeat(20_000);
    assert.ok(server.mail('anton').length === 2 && server.mail('anton').every(text => text === wanted));
    // The reply goes out before the file is removed.
    await until(() => [...server.spooled(), ...server.in('anton', 'tmp')].length === 0, 'no files left behind');
    await bye(client);
  });

  it('that is refused for its size leaves nothing, and the session goes on', async () => {
    const client = await start({ maxSizeBytes: 400_000 });
    await client.begin('anton');
    client.say(`${'x'.repeat(78)}\r\n`.repeat(10_000));
    assert.match(await client.ask('.'), /^552 5\.3\.4 /);
    assert.deepEqual([...server.spooled(), ...server.in('anton', 'new'), ...server.in('anton', 'tmp')], []);
    await client.begin('anton');
    assert.match(await client.ask('small\r\n.'), /^250 /);
    assert.deepEqual(server.mail('anton'), ['small\n']);
    await bye(client);
  });

  it('with more than 100 Received lines is refused as a loop, small or big; with 100 it is not', async () => {
    const client = await start();
    for (const body of ['\r\nhello', `\r\n${'x'.repeat(400_000)}`]) {
      await client.begin('anton');
      assert.match(await client.ask(`${'Received: by x\r\n'.repeat(101)}${body}\r\n.`), /^554 5\.4\.6 /);
      await client.begin('anton');
      assert.match(
        await client.ask(`${'received: by x\r\n'.repeat(100)}\r\nReceived: in the body${body}\r\n.`),
        /^250 /,
      );
    }
    assert.equal(server.mail('anton').length, 2);
    await bye(client);
  });

  it('whose recipient leads nowhere is never acknowledged', async () => {
    const client = await start({ resolve: async () => ({ kind: 'local', routes: [] }) });
    client.say('EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<anton@example.com>\r\nDATA\r\n');
    assert.match(await client.hear(/^554 .*\r\n/m), /^451 4\.3\.0 /m);
    await bye(client);
  });

  it('that could be kept nowhere is refused for now, whatever RCPT has said', async () => {
    const routes: Route[] = [{ kind: 'maildir', path: '/nowhere', root: '/nowhere' }];
    const client = await start({ resolve: async () => ({ kind: 'local', routes }) });
    client.say('EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<anton@example.com>\r\n');
    await client.hear(/^250 2\.1\.5 .*\r\n/m);
    routes.pop();
    assert.match(await client.ask('DATA'), /^451 4\.3\.0 /m);
    await bye(client);
  });
});

describe('the messages in memory', () => {
  it('are bounded all together, and what is released makes room', async () => {
    server = await startServer(); // for its folder
    const head = { returnPath: 'Return-Path: <>\n', trace: 'trace\n' };
    const make = (name: string): Spool => new Spool(() => join(server.folder, 'spool', name), head);
    const piece = (): Buffer => Buffer.alloc(200 * 1024);
    const first = Array.from({ length: 100 }, (_, count) => make(`first${count}`));
    const writes = first.map(spool => spool.write(piece()));
    await Promise.all(writes);
    assert.deepEqual(
      [0, 80, 81, 99].map(index => writes[index] !== undefined),
      [false, false, true, true],
    );
    assert.equal(server.spooled().length, 19);
    for (const spool of first) await spool.release();
    assert.deepEqual(server.spooled(), []);
    const second = make('second');
    assert.equal(second.write(piece()), undefined);
    await second.release();
  });
});

describe('a session', () => {
  it('keeps the recipients of pipelined transactions apart, also after RSET', async () => {
    const client = await start();
    const mail = (name: string): string => `MAIL FROM:<>\r\nRCPT TO:<${name}@example.com>\r\n`;
    client.say('EHLO x\r\n');
    await client.hear(/^250 .*\r\n/m);
    const chunk = (text: string): string => `BDAT ${text.length} LAST\r\n${text}`;
    client.say(
      `${mail('anton')}${chunk('for anton\r\n')}${mail('nobody')}RSET\r\n${mail('berta')}${chunk('for berta\r\n')}QUIT\r\n`,
    );
    await client.rest();
    assert.deepEqual(
      [server.mail('anton'), server.mail('berta'), server.mail('nobody')],
      [['for anton\n'], ['for berta\n'], []],
    );
  });

  it('leaves nothing of a message when its client vanishes in the middle, small or big', async () => {
    for (const size of [1000, 1_000_000]) {
      const client = await start();
      await client.begin('anton');
      client.say('x'.repeat(size));
      await until(() => size < 1_000_000 || server.spooled().length === 1, 'a spool file');
      client.socket.resetAndDestroy();
      await until(() => server.listeners.sessions === 0, 'the end of the session');
      assert.deepEqual([...server.spooled(), ...server.in('anton', 'new'), ...server.in('anton', 'tmp')], []);
      assert.equal(server.messageLines()[0]?.text, 'message not taken');
      if (size === 1000) await server.stop();
    }
  });

  it('is over only when the message that its client did not wait for is stored', async () => {
    const { promise: slow, resolve: go } = Promise.withResolvers<void>();
    const account: Storage = { prepare: async () => ({ commit: () => slow, abort: async () => {} }) };
    const route: Route = { kind: 'account', account: 'anton', folder: 'Maildir' };
    const client = await start({ account, resolve: async () => ({ kind: 'local', routes: [route] }) });
    await client.begin('anton');
    client.say('hello\r\n.\r\n');
    client.socket.end();
    await new Promise(resolve => void setTimeout(resolve, 50));
    assert.equal(server.listeners.sessions, 1);
    go();
    await until(() => server.listeners.sessions === 0, 'the end of the session');
    assert.equal(server.messageLines()[0]?.text, 'message delivered');
  });

  it('answers all that a client has sent before it closed its side', async () => {
    const client = await start({
      resolve: async ({ local }) => {
        await new Promise(resolve => void setTimeout(resolve, 20));
        return { kind: 'local', routes: [server.route(local)] };
      },
    });
    client.socket.allowHalfOpen = true;
    client.say('HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<anton@example.com>\r\nDATA\r\nhello\r\n.\r\nNOOP\r\n');
    client.socket.end();
    assert.match(await client.rest(), /^(?:250 .*\r\n){3}354 .*\r\n(?:250 .*\r\n){2}$/);
    assert.deepEqual(server.mail('anton'), ['hello\n']);
    await until(() => server.listeners.sessions === 0, 'the end of the session');
    assert.equal(server.sessionLines()[0]?.['end'], 'client closed');
  });

  /** A client that reads nothing, and has sent empty chunks until no buffer between the two takes any more replies. */
  const startDeaf = async (): Promise<{ client: Client; peer: Socket; isRead: () => boolean }> => {
    server = await startServer();
    const accepted = once(server.server, 'connection') as Promise<[Socket]>;
    const client = await Client.to(server);
    client.say('EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<anton@example.com>\r\n');
    await client.hear(/^250 2\.1\.5 .*\r\n/m);
    const [peer] = await accepted;
    const isRead = (): boolean => peer.bytesRead === client.socket.bytesWritten;
    client.socket.pause();
    for (; peer.writableLength === 0; await new Promise(resolve => void setTimeout(resolve, 20)))
      client.say('BDAT 0\r\n'.repeat(20_000));
    return { client, peer, isRead };
  };

  it('answers what came while its client did not read', async () => {
    const { client } = await startDeaf();
    client.say('QUIT\r\n');
    client.socket.resume();
    assert.ok((await client.rest()).endsWith('\r\n221 2.0.0 Bye\r\n'));
  });

  it('ends in peace when a client that does not read asks for TLS and leaves', async () => {
    const { client } = await startDeaf();
    client.say('EHLO x\r\nSTARTTLS\r\n');
    client.socket.resetAndDestroy();
    await until(() => server.listeners.sessions === 0, 'the end of the session');
    assert.equal(server.sessionLines().length, 1);
  });

  it('takes no more than it can answer from a client that does not read', async () => {
    const { client, peer, isRead } = await startDeaf();
    for (let sent = 0; sent < 200; sent += 1) client.say('BDAT 0\r\n'.repeat(20_000));
    await new Promise(resolve => void setTimeout(resolve, 100));
    assert.ok(!isRead() && peer.writableLength < 2_000_000, `${peer.writableLength} octets wait to be read`);
    client.socket.resetAndDestroy();
    await until(() => server.listeners.sessions === 0, 'the end of the session');
  });

  it('says 451 to every recipient, known or not, while the resolver cannot tell', async () => {
    const client = await start({ resolve: () => Promise.reject(new CannotTell('database down', { status: '4.4.3' })) });
    assert.match(await client.ask('EHLO x'), /^250 /);
    assert.match(await client.ask('MAIL FROM:<>'), /^250 /);
    assert.match(await client.ask('RCPT TO:<anton@example.com>'), /^451 4\.4\.3 /);
    assert.match(await client.ask('RCPT TO:<nobody@example.com>'), /^451 4\.4\.3 /);
    assert.match(await client.ask('DATA'), /^554 /);
    await bye(client);
  });

  it('says 550 to unknown mailboxes and to strangers, and counts them in its line', async () => {
    const client = await start({
      resolve: async ({ domain }) => ({ kind: domain === 'example.com' ? 'unknown' : 'elsewhere' }),
    });
    await client.ask('EHLO x');
    await client.ask('MAIL FROM:<>');
    assert.match(await client.ask('RCPT TO:<nobody@example.com>'), /^550 5\.1\.1 /);
    assert.match(await client.ask('RCPT TO:<a@example.org>'), /^550 5\.7\.1 /);
    assert.match(await client.ask('RCPT TO:<a@[127.0.0.1]>'), /^550 5\.7\.1 /);
    await bye(client);
    assert.equal(server.sessionLines()[0]?.['refused'], 3);
  });

  for (const [code, status] of [
    ['EIO', '451 4.3.0'],
    ['ENOSPC', '452 4.3.1'],
  ] as const)
    it(`says ${status} when the storage fails with ${code}, delivers nothing anywhere, and goes on`, async () => {
      const account: Storage = { prepare: () => Promise.reject(Object.assign(new Error('disk'), { code })) };
      const client = await start({
        account,
        resolve: async ({ local }) => ({
          kind: 'local',
          routes: local === 'broken' ? [{ kind: 'account', account: 'x', folder: 'Maildir' }] : [server.route(local)],
        }),
      });
      await client.begin('anton', 'broken');
      assert.ok((await client.ask('hello\r\n.')).startsWith(status));
      assert.deepEqual([...server.in('anton', 'new'), ...server.in('anton', 'tmp')], []);
      await client.begin('anton');
      assert.match(await client.ask('again\r\n.'), /^250 /);
      assert.deepEqual(server.mail('anton'), ['again\n']);
      await bye(client);
    });

  it('says 451 when the spool cannot be written, reads the message to its end, and goes on', async () => {
    const client = await start();
    const spool = join(server.folder, 'spool');
    rmSync(spool, { recursive: true });
    writeFileSync(spool, 'not a folder');
    await client.begin('anton');
    client.say(`${'x'.repeat(78)}\r\n`.repeat(10_000));
    assert.match(await client.ask('MAIL FROM:<this is content>\r\n.'), /^451 4\.3\.0 /);
    assert.match(await client.ask('NOOP'), /^250 /);
    chmodSync(spool, 0o600);
    await bye(client);
  });
});
