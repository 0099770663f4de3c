// A rolling restart: SIGTERM and a new process on the same ports and folders, again and again under load, from clients
// and to a next hop. Promises shown: no DATA that ends within SLIM_DRAIN is cut; one that does not hears 421 and leaves
// nothing; every 250 is delivered, here or at the next hop. Only a message that the next hop had taken when its attempt
// was cut may come twice.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import { type Client, dial, eventually } from '../integration/client.ts';
import { type Place, type Server, openPlace } from './server.ts';

const restarts = 10;
const register = (undo: () => Promise<void>): void => void after(undo);

/** A relay that takes all, some of it slowly; how often it has seen each subject. */
async function openHop(): Promise<{ port: number; took: Map<string, number> }> {
  const took = new Map<string, number>();
  const server = createServer(socket => {
    let [input, isContent] = ['', false];
    socket.on('error', () => {}).setEncoding('latin1');
    socket.write('220 hop\r\n');
    socket.on('data', (text: string) => {
      input += text;
      for (let end; (end = input.indexOf(isContent ? '\r\n.\r\n' : '\r\n')) >= 0;) {
        const said = input.slice(0, end);
        input = input.slice(end + (isContent ? 5 : 2));
        const [, subject = ''] = /^Subject: (.*)$/m.exec(said) ?? [];
        if (isContent) took.set(subject.trim(), (took.get(subject.trim()) ?? 0) + 1);
        const reply = !isContent && said === 'DATA' ? '354 go' : '250 ok';
        setTimeout(() => socket.destroyed || socket.write(`${reply}\r\n`), isContent ? took.size % 7 : 0);
        isContent = reply.startsWith('354');
      }
    });
  }).listen(0, '127.0.0.1');
  await new Promise(resolve => server.on('listening', resolve));
  after(() => server.close());
  return { port: (server.address() as AddressInfo).port, took };
}

async function begin(port: number, to: readonly string[]): Promise<Client> {
  const client = await dial(port);
  for (const line of ['MAIL FROM:<sender@example.net>', ...to.map(each => `RCPT TO:<${each}>`), 'DATA']) {
    const reply = await client.say(line);
    if (/^[23]/.test(reply)) continue;
    client.socket.destroy();
    throw new Error(reply);
  }
  return client;
}

test(`${restarts} restarts under load: nothing that got 250 is lost, and no DATA that ends in time is cut`, async t => {
  const place: Place = await openPlace(register);
  const hop = await openHop();
  const settings = {
    SLIM_DRAIN: '3s',
    SLIM_RETRY: '1s',
    SLIM_TRUSTED_NETWORKS: '127.0.0.0/8',
    SLIM_RELAY_HOST: '127.0.0.1',
    SLIM_RELAY_PORT: String(hop.port),
    SLIM_RELAY_TLS: 'none',
  };
  let server: Server = await place.start(settings);
  const { port, submissionPort } = server;
  const kept: string[] = [];
  const [ends, cut, late] = [[] as string[], [] as string[], [] as string[]];
  const load = { isOver: false };
  const to = ['someone@example.com', 'other@example.org'];

  /** Messages as fast as they go, in one session while it lasts. */
  const lane = async (name: number): Promise<void> => {
    let session: Client | undefined;
    for (let at = 0; !load.isOver; at += 1) {
      const subject = `lane${name}-${at}-`;
      try {
        session ??= await dial(port);
        for (const line of ['MAIL FROM:<sender@example.net>', ...to.map(each => `RCPT TO:<${each}>`), 'DATA'])
          if (!/^[23]/.test(await session.say(line))) throw new Error('not now');
        // From here on a clean server lets it end: it takes no second.
        const reply = await session.say(
          `Subject: ${subject}\r\n\r\n${`${'x'.repeat(98)}\r\n`.repeat(40)}End: ${subject}\r\n.`,
        );
        if (reply.startsWith('250')) kept.push(subject);
        else cut.push(`${subject} ${reply}`);
        if (!reply.startsWith('250')) throw new Error(reply);
        await wait(5);
      } catch {
        session?.socket.destroy();
        session = undefined;
        await wait(20);
      }
    }
    session?.socket.destroy();
  };
  const lanes = [1, 2, 3, 4].map(lane);

  for (let round = 0; round < restarts; round += 1) {
    await wait(500 + Math.random() * 1000);
    const [inTime, tooLate] = [await begin(port, to), await begin(port, to)];
    const stopped = server.stop();
    const startedAt = performance.now();
    const [early, never] = [`in-time-${round}-`, `too-late-${round}-`];
    // It ends a second before SLIM_DRAIN does; the other one is still sending then.
    for (let sent = 0; sent < 10; sent += 1, await wait(200))
      for (const client of [inTime, tooLate])
        client.send(sent === 0 ? `Subject: ${client === inTime ? early : never}\r\n\r\n` : 'more\r\n');
    const reply = await inTime.say(`End: ${early}\r\n.`);
    (reply.startsWith('250') ? ends : cut).push(`${early} ${reply}`);
    if (reply.startsWith('250')) kept.push(early);
    late.push(await tooLate.say());
    await stopped;
    assert.equal(await server.ended, 0, server.log().slice(-2000));
    const ms = performance.now() - startedAt;
    assert.ok(ms < 5000, `it took ${Math.round(ms)} ms to stop`);
    server = await place.start(settings, { ports: [port, submissionPort] });
  }
  load.isOver = true;
  await Promise.all(lanes);
  assert.deepEqual(cut, [], 'a DATA that ended in time');
  for (const reply of late) assert.match(reply, /^421 4\.3\.2/);

  const counts = new Map<string, number>();
  const folder = join(place.folder, 'mail/default/new');
  for (const name of readdirSync(folder)) {
    const text = readFileSync(join(folder, name), 'latin1');
    const [, subject = ''] = /^Subject: (.*)$/m.exec(text) ?? [];
    assert.ok(text.endsWith(`\nEnd: ${subject}\n`), `${name} is whole`);
    counts.set(subject, (counts.get(subject) ?? 0) + 1);
  }
  await eventually('all is at the next hop', async () => kept.every(subject => hop.took.has(subject)), 30_000);
  await eventually('nothing waits', async () => readdirSync(join(place.folder, 'data/queue')).length === 0, 30_000);
  for (const subject of kept) assert.ok(counts.has(subject), `${subject} is lost here`);
  const [here, there] = [counts, hop.took].map(all => [...all.values()].reduce((sum, times) => sum + times - 1, 0));
  const unasked = [...counts.keys()].filter(subject => !kept.includes(subject));
  assert.deepEqual(
    unasked.filter(subject => subject.startsWith('too-late')),
    [],
  );
  t.diagnostic(
    `${restarts} restarts, ${kept.length} messages kept (${ends.length} of them begun before SIGTERM and ended 2 s after), each here and at the next hop; ` +
      `twice here ${here}, there ${there}; ${unasked.length} delivered whose reply was lost`,
  );
  assert.equal(here, 0);
  assert.equal(there, 0, 'an attempt that is under way may end');
  await server.stop();
});
