// What got 250 survives: kill -9 of the whole container, again and again while the queue is being delivered.
// TEST_CRASH_MESSAGES and TEST_CRASH_KILLS make it longer: 1000 and 50 are worth a run by hand.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { eventually } from './client.ts';
import { docker, openStage } from './compose-lib.ts';
import { type Operator, type World, letter, login, marker, openWorld, operate, transact } from './peer-lib.ts';

const messages = Number(process.env['TEST_CRASH_MESSAGES'] ?? 100);
const kills = Number(process.env['TEST_CRASH_KILLS'] ?? 4);

const stage = openStage(after);
let world: World<'good'>;
let operator: Operator;
let id: string;

before(async () => {
  world = await openWorld(stage, 'good');
  const server = await world.server();
  id = server.getId();
  operator = operate(server);
});

async function crash(): Promise<void> {
  await docker('kill', '--signal', 'KILL', id);
  await docker('start', id);
  await operator.healthy();
}

test(
  'each message that got 250 arrives, however often the container is killed',
  { timeout: 170_000 + kills * 5000 },
  async t => {
    const run = marker();
    const kept: string[] = [];
    for (let round = 0; round < kills; round += 1) {
      const port = await operator.port(465);
      const share = Array.from({ length: Math.ceil(messages / kills) }, (_, index) => `${run}-${round}-${index}-`);
      // Five sessions at once; the last reply and the kill are as close as can be, and deliveries are under way.
      const sessions = await Promise.all(Array.from({ length: 5 }, () => login(port)));
      await Promise.all(
        sessions.map(async (session, lane) => {
          for (const text of share.filter((_, index) => index % sessions.length === lane)) {
            // To two domains: two attempts for each message.
            const reply = await transact(session, ['x@peer.example', 'y@good.peer.example'], letter(text));
            assert.match(reply, /^250/);
            kept.push(text);
          }
        }),
      );
      await crash();
      for (const { socket } of sessions) socket.destroy();
    }
    const counts = new Map<string, number>();
    const count = async (): Promise<number> => {
      counts.clear();
      const found = await world.peers.good.shell(
        `cd /var/mail/all/new; grep -rhoE "^(Delivered-To: .@|Subject: ${run}).*" .; true`,
      );
      for (const [, to, text] of found.matchAll(/^Delivered-To: (.)@.*\nSubject: (\S+)$/gm))
        counts.set(`${to} ${text}`, (counts.get(`${to} ${text}`) ?? 0) + 1);
      return counts.size;
    };
    await eventually('everything has arrived', async () => (await count()) === kept.length * 2, 60_000);
    await eventually('nothing waits', async () => (await operator.queue()).length === 0, 20_000);
    await count();
    const twice = [...counts.values()].reduce((sum, each) => sum + each - 1, 0);
    t.diagnostic(`${kept.length} messages to 2 recipients, ${kills} kills, ${twice} copies more than once`);
    assert.equal(kept.length, Math.ceil(messages / kills) * kills);
    // Only those whose attempt was under way at a kill come again: at most 20 for each of the two destinations.
    assert.ok(twice <= kills * 40, `${twice} copies too many`);
    assert.deepEqual(await operator.shell('ls -A /var/lib/slimsmtp/queue'), '');
  },
);

test('held mail, and what became of its recipients, survives a kill', async () => {
  const text = marker();
  const session = await login(await operator.port(465));
  const to = ['x@peer.example', `grey1-${text}@peer.example`, 'x@servfail.example'];
  assert.match(await transact(session, to, letter(text)), /^250/);
  session.socket.destroy();
  const waiting = async (): Promise<unknown[]> =>
    (await operator.queue()).flatMap(({ recipients }) => recipients.map(({ address }) => address));
  await eventually('only one is left', async () => String(await waiting()) === 'x@servfail.example', 10_000);
  await operator.slimsmtp('queue', 'hold', '--domain', 'servfail.example');
  await crash();
  const [entry, ...more] = await operator.queue();
  assert.deepEqual(more, []);
  assert.ok(entry?.isHeld);
  assert.deepEqual(await waiting(), ['x@servfail.example']);
  assert.equal((await world.peers.good.mails(text)).length, 2);
});
