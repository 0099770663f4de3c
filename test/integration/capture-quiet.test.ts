// Where mail is captured, nothing leaves: no connection is made and no datagram sent, DNS included. Every system call
// that could do so is watched (strace), in all processes of the server, while it takes mail of every kind and answers
// HTTP.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { createTransport } from 'nodemailer';
import { processesBelow, startCatcher } from './capture-lib.ts';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';

test('in capture mode no TCP connection and no UDP packet goes anywhere', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'capture-quiet-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const trace = join(folder, 'trace');
  const prefix = ['strace', '-f', '-qq', '-s', '64', '-e', 'trace=connect,sendto,sendmsg,sendmmsg,bind', '-o', trace];
  const settings = {
    SLIM_USERS: 'anton:secret',
    SLIM_RELAY_HOST: 'relay.example',
    DATABASE_URL: 'postgres://me:secret@db.example/mail',
    SLIM_RESOLVER: '192.0.2.53',
  };
  const catcher = await startCatcher(t, { folder, prefix, settings });
  for (const to of ['a@far.example', 'reply-451@x.test', 'data-552@x.test', 'drop@x.test', 'greylist@x.test'])
    await catcher.send(
      to,
      'From: boss@bank.example\r\nDKIM-Signature: v=1; d=bank.example; s=x\r\nSubject: x\r\n\r\nhello\r\n',
      'boss@bank.example',
    );
  const transport = createTransport({
    host: '127.0.0.1',
    port: catcher.submission,
    auth: { user: 'x@y.example', pass: 'x' },
    tls: { rejectUnauthorized: false },
  });
  const html = '<img src="http://far.example/x.png"><link rel="stylesheet" href="https://far.example/x.css">';
  await transport.sendMail({
    from: 'x@y.example',
    to: 'z@far.example',
    subject: 'x',
    html,
    dsn: { id: 'x', return: 'full', notify: ['success', 'failure'], recipient: 'x@y.example' },
  });
  transport.close();
  for (const path of [
    '/health',
    '/api/v1/messages',
    '/api/v1/message/latest',
    '/view/latest.html?embed=1&remote=1',
    '/api/v1/message/latest/link-check',
    '/api/v1/info',
  ])
    await (await fetch(catcher.url + path)).text();
  await pause(3000); // what is done later would be done by now
  const [server] = processesBelow(catcher.pid);
  process.kill(server?.pid ?? 0, 'SIGTERM');
  await catcher.ended;
  const calls = readFileSync(trace, 'utf8').split('\n');
  assert.ok(
    calls.some(call => /\bbind\(.*AF_INET/.test(call)),
    'the trace works: it shows the sockets that listen',
  );
  const outward = calls.filter(call => /\b(?:connect|sendto|sendmsg|sendmmsg)\(.*AF_INET/.test(call));
  assert.deepEqual(outward, []);
  const isDatagram = calls.filter(call => /\bbind\(.*AF_INET/.test(call));
  const ports = isDatagram.map(call => Number(/htons\((\d+)\)/.exec(call)?.[1]));
  const wanted = [catcher.smtp, catcher.submission, Number(new URL(catcher.url).port)];
  assert.deepEqual(ports.toSorted(), wanted.toSorted(), 'nothing else is bound, for UDP neither');
});
