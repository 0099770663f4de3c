// The processes beside the one that talks to strangers: the steward, its PAM child; and that one as the steward's
// neighbour. Each is killed, or stopped so that it hangs, under load. What got 250 is there, once and whole; what needs
// the missing one is 4xx; other mail flows.
import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import type { StartedTestContainer } from 'testcontainers';
import { type Client, dial, eventually } from '../integration/client.ts';
import { docker, openStage } from '../integration/compose-lib.ts';
import { type Operator, marker, operate } from '../integration/peer-lib.ts';
import { takesMail } from './neighbour-lib.ts';

const stage = openStage(after);
let server: StartedTestContainer;
let operator: Operator;
const homes = { anton: '/home/anton/Maildir', fixed: '/var/mail/fixed' };

before(async () => {
  const environment = {
    SLIM_ACCOUNTS: 'anton:secret',
    SLIM_STORAGES: 'fixed@example.com=/var/mail/fixed,@PAM',
    SLIM_USERS: '@PAM',
    SLIM_RETRY: '1s',
    SLIM_MAX_SESSIONS_PER_CLIENT: '0',
  };
  server = await stage.server({ environment });
  operator = operate(server);
  await docker('update', '--restart', 'unless-stopped', server.getId());
});

beforeEach(() => eventually('it answers', () => answers(), 30_000));

const answers = async (): Promise<boolean> =>
  dial(await operator.port(25)).then(
    async ({ say, socket }) => {
      const said = await say('NOOP');
      socket.destroy();
      return said.startsWith('250');
    },
    () => false,
  );

/** Sends a signal to a process of the container: as its own user, since root there may not signal others. */
async function signal(verb: 'network' | 'pam', name: 'KILL' | 'STOP'): Promise<void> {
  // In brackets, so that it does not find the shell that looks for it.
  const script = `for p in /proc/[0-9]*; do grep -qa "[s]limsmtp.mjs.${verb}" $p/cmdline && kill -${name} \${p#/proc/} && echo done; done; true`;
  const user = verb === 'network' ? '525:525' : '0:0';
  assert.equal(await docker('exec', '-u', user, server.getId(), 'sh', '-c', script), 'done\n');
}

/** The steward is the container's first process, which no signal from inside can kill. */
async function signalSteward(name: NodeJS.Signals): Promise<void> {
  process.kill(Number(await docker('inspect', '-f', '{{.State.Pid}}', server.getId())), name);
}

async function begin(to: readonly string[]): Promise<Client> {
  const client = await dial(await operator.port(25));
  for (const line of ['MAIL FROM:<a@example.net>', ...to.map(each => `RCPT TO:<${each}@example.com>`), 'DATA'])
    assert.match(await client.say(line), /^[23]/);
  return client;
}

/** How often each subject with this text is in a Maildir, and whether all of them are whole. */
async function found(home: string, text: string): Promise<Map<string, number>> {
  const script = `cd ${home}/new && grep -rhE '^(Subject|End): ${text}' . || true`;
  const lines = (await operator.shell(script)).split('\n').filter(Boolean);
  const counts = new Map<string, number>();
  for (const line of lines) counts.set(line, (counts.get(line) ?? 0) + 1);
  for (const [line, times] of counts)
    if (line.startsWith('Subject')) assert.equal(counts.get(line.replace('Subject', 'End')), times, `${line} is whole`);
  return new Map([...counts].filter(([line]) => line.startsWith('Subject')));
}

for (const [who, kill] of [
  ['network process', () => signal('network', 'KILL')],
  ['steward', () => signalSteward('SIGKILL')],
] as const) {
  test(`the ${who} is killed five times under load: what got 250 is there, once, and it is back by itself`, async t => {
    const text = marker();
    const [kept, unsure] = [[] as string[], [] as string[]];
    const load = { isOver: false, port: await operator.port(25) };
    const lane = async (name: number): Promise<void> => {
      let session: Client | undefined;
      for (let at = 0; !load.isOver; at += 1) {
        const subject = `${text}-${name}-${at}-`;
        try {
          session ??= await dial(load.port);
          const lines = [
            'MAIL FROM:<a@example.net>',
            'RCPT TO:<anton@example.com>',
            'RCPT TO:<fixed@example.com>',
            'DATA',
          ];
          for (const line of lines) if (!/^[23]/.test(await session.say(line))) throw new Error('not now');
          unsure.push(subject);
          const reply = await session.say(
            `Subject: ${subject}\r\n\r\n${`${'x'.repeat(98)}\r\n`.repeat(40)}End: ${subject}\r\n.`,
          );
          if (!reply.startsWith('250')) throw new Error(reply);
          kept.push(subject);
        } catch {
          session?.socket.destroy();
          session = undefined;
          await wait(100);
          load.port = await operator.port(25).catch(() => load.port);
        }
      }
      session?.socket.destroy();
    };
    const lanes = [1, 2, 3, 4].map(lane);
    const outages: number[] = [];
    for (let kills = 0; kills < 5; kills += 1) {
      const enough = kept.length + 20;
      await eventually('mail flows', async () => kept.length >= enough, 30_000);
      await wait(Math.random() * 200);
      await kill();
      const startedAt = performance.now();
      const atKill = kept.length;
      await eventually('it is back', async () => kept.length > atKill + 8, 30_000);
      outages.push(Math.round(performance.now() - startedAt));
    }
    load.isOver = true;
    await Promise.all(lanes);
    await eventually('nothing waits', async () => (await operator.queue()).length === 0, 30_000);
    let [twice, unasked] = [0, 0];
    for (const home of Object.values(homes)) {
      const there = await found(home, text);
      for (const subject of kept) assert.ok(there.has(`Subject: ${subject}`), `${subject} in ${home}`);
      twice += [...there.values()].reduce((sum, times) => sum + times - 1, 0);
      unasked += [...there.keys()].filter(line => !kept.includes(line.slice('Subject: '.length))).length;
    }
    t.diagnostic(
      `${who}: ${kept.length} messages kept of ${unsure.length} sent, to 2 Maildirs each; ${unasked} copies of what got no answer, ${twice} twice; back after ${outages.join(', ')} ms`,
    );
    // What is delivered by the queue may come twice where a kill falls between delivery and record.
    assert.ok(twice <= 5 * 4, `${twice} copies too many`);
  });
}

test('the PAM child hangs, then dies, during a login: 454, other mail flows meanwhile, and the next login is answered', async () => {
  const logIn = async (): Promise<string> => {
    const { say, socket } = await dial(await operator.port(465), '127.0.0.1', true);
    const reply = await say(`AUTH PLAIN ${Buffer.from('\0anton\0secret').toString('base64')}`);
    socket.destroy();
    return reply;
  };
  assert.match(await logIn(), /^235 /);
  await signal('pam', 'STOP');
  const waiting = logIn();
  const port = await operator.port(25);
  assert.equal(await Promise.race([waiting, wait(500, 'it waits')]), 'it waits');
  for (const to of ['anton', 'fixed']) await takesMail(port, `${to}@example.com`);
  await signal('pam', 'KILL');
  assert.match(await waiting, /^454 4\.7\.0 /);
  assert.match(await logIn(), /^235 /);
});

test('the steward hangs: 451 after 10 s for accounts, after 60 s in DATA; nothing is lost, and nothing comes twice', async () => {
  const [alone, both] = [marker(), marker()];
  const [one, two] = [await begin(['anton']), await begin(['anton', 'fixed'])];
  await signalSteward('SIGSTOP');
  try {
    const end = (client: Client, text: string) => client.say(`Subject: ${text}\r\n\r\nEnd: ${text}\r\n.`);
    const replies = [end(one, alone), end(two, both)];
    const { say, socket } = await dial(await operator.port(25));
    await say('MAIL FROM:<a@example.net>');
    const startedAt = performance.now();
    // Whether there is such an account, nobody can tell.
    for (const to of ['anton', 'nobody']) assert.match(await say(`RCPT TO:<${to}@example.com>`), /^451 4\.3\.0/);
    assert.ok(performance.now() - startedAt < 22_000);
    socket.destroy();
    assert.match((await replies[0]) ?? '', /^451 4\.3\.0/);
    assert.match((await replies[1]) ?? '', /^250 2\.0\.0 Queued/);
    assert.equal((await found(homes.fixed, both)).size, 1);
  } finally {
    await signalSteward('SIGCONT');
  }
  await eventually('nothing waits', async () => (await operator.queue()).length === 0, 90_000);
  assert.deepEqual([...(await found(homes.anton, both)).values()], [1]);
  assert.deepEqual([...(await found(homes.anton, alone)).values()], [], 'what got 451 was taken back');
  for (const { socket } of [one, two]) socket.destroy();
});

test('the steward hangs: mail that needs no root flows', async () => {
  const port = await operator.port(25);
  await takesMail(port, 'fixed@example.com');
  await signalSteward('SIGSTOP');
  try {
    // Longer than any answer of the steward is remembered.
    for (let seconds = 0; seconds < 12; seconds += 1) {
      await takesMail(port, 'fixed@example.com');
      await wait(1000);
    }
  } finally {
    await signalSteward('SIGCONT');
  }
});
