// A message that kills the server while it is being sent, over and over: here the next hop does it, by SIGKILL, when it
// reads the message. After three deaths at which nothing else was in flight it is held, postmaster is told, and all
// other mail has left. Without a server it can be removed.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { dial, eventually } from '../integration/client.ts';
import { type Server, openPlace } from './server.ts';

const register = (undo: () => Promise<void>): void => void after(undo);

test('a message that kills the server is held after three deaths alone, and nothing else is lost', async t => {
  const place = await openPlace(register);
  let server: Server | undefined;
  const took = new Set<string>();
  /** The hop may read the message before the test knows its server. */
  let isKillDue = false;
  const kill = (): void => {
    isKillDue = true;
    if (server && !server.hasEnded()) server.process.kill('SIGKILL');
  };
  const hop = createServer(socket => {
    let [input, isContent] = ['', false];
    socket.on('error', () => {}).setEncoding('latin1');
    socket.write('220 hop\r\n');
    socket.on('data', (text: string) => {
      input += text;
      if (isContent && input.includes('Subject: killer')) return kill();
      for (let end; (end = input.indexOf(isContent ? '\r\n.\r\n' : '\r\n')) >= 0;) {
        const said = input.slice(0, end);
        input = input.slice(end + (isContent ? 5 : 2));
        if (isContent) took.add(/^Subject: (.*)$/m.exec(said)?.[1]?.trim() ?? '');
        isContent = !isContent && said === 'DATA';
        socket.write(isContent ? '354 go\r\n' : '250 ok\r\n');
      }
    });
  }).listen(0, '127.0.0.1');
  await new Promise(resolve => hop.on('listening', resolve));
  after(() => hop.close());
  const settings = {
    SLIM_TRUSTED_NETWORKS: '127.0.0.0/8',
    SLIM_RELAY_HOST: '127.0.0.1',
    SLIM_RELAY_PORT: String((hop.address() as AddressInfo).port),
    SLIM_RELAY_TLS: 'none',
  };
  server = await place.start(settings);
  const client = await dial(server.port);
  const subjects = ['killer', ...Array.from({ length: 9 }, (_, at) => `good${at}`)];
  const send = async (subject: string): Promise<void> => {
    for (const line of ['MAIL FROM:<sender@example.net>', 'RCPT TO:<x@elsewhere.example>', 'DATA'])
      assert.match(await client.say(line), /^[23]/);
    assert.match(await client.say(`Subject: ${subject}\r\n\r\nx\r\n.`), /^250/);
  };
  // The killer last: nothing of what got 250 may be lost.
  for (const subject of subjects.toReversed()) await send(subject);
  client.socket.destroy();
  let deaths = 0;
  for (let isAlive = false; !isAlive;) {
    const killed = await Promise.race([
      server.ended,
      new Promise<'alive'>(resolve => setTimeout(resolve, 4000, 'alive')),
    ]);
    isAlive = killed === 'alive';
    if (isAlive) break;
    deaths += 1;
    assert.ok(deaths <= 4, `${deaths} deaths`);
    isKillDue = false;
    server = await place.start(settings);
    if (isKillDue) kill();
  }
  assert.ok(deaths >= 3, `${deaths} deaths`);
  t.diagnostic(`${deaths} deaths`);
  for (const subject of subjects.slice(1)) assert.ok(took.has(subject), subject);
  const [killer, ...others] = (await place.slimsmtp('queue', 'list', '--json')).trim().split('\n');
  const { id, isHeld } = JSON.parse(killer ?? '') as { id: string; isHeld: boolean };
  assert.deepEqual([isHeld, others], [true, []]);
  assert.match(server.log(), /a message is held: the server has died three times/);
  const folder = join(place.folder, 'mail', 'default', 'new');
  await eventually('postmaster is told', async () => readdirSync(folder).length === 1, 5000);
  const notice = readFileSync(join(folder, readdirSync(folder)[0] ?? ''), 'latin1');
  assert.match(notice, new RegExp(`Return-Path: <>\\n[^]*To: postmaster[^]*${id}[^]*queue remove ${id}`));

  await server.stop();
  assert.match(await place.slimsmtp('queue', 'remove', id), /remove: 1 messages/);
  assert.deepEqual(readdirSync(join(place.folder, 'data', 'queue')), []);
});
