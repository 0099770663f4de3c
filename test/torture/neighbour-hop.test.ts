// Next hops that hang, drop or talk nonsense at every step of the dialogue, all at once, and a tarpit that takes 500
// attempts: other mail, here and outward, flows meanwhile; nothing is lost, and nothing goes twice but what a hop took
// without saying so (RFC 1047).
import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import type { StartedTestContainer } from 'testcontainers';
import { dial, eventually } from '../integration/client.ts';
import { docker, openStage } from '../integration/compose-lib.ts';
import { type Operator, letter, login, marker, operate, submit, transact } from '../integration/peer-lib.ts';
import { type Neighbours, openNeighbours, takesMail } from './neighbour-lib.ts';

const steps = ['CONNECT', 'EHLO', 'STARTTLS', 'TLS', 'MAIL', 'RCPT', 'DATA', 'CONTENT', 'QUIT'];
const hop = (step: string): string => step.toLowerCase();
const stage = openStage(after);
let neighbours: Neighbours;
let server: StartedTestContainer;
let operator: Operator;

before(async () => {
  neighbours = await openNeighbours(stage, [...steps.map(hop), 'good', 'tarpit']);
  server = await neighbours.server();
  operator = operate(server);
});

beforeEach(async () => {
  for (const step of steps) neighbours.tell(hop(step), '');
  // Sessions that wait for their next message are past the first steps: for 2 s.
  await wait(2500);
});

const count = (at: string, text: string): number => neighbours.took(at).filter(subject => subject === text).length;

/** Mail for a hop that works goes there, and mail for a mailbox here is taken. */
async function othersFlow(withinMs = 5000): Promise<void> {
  const text = marker();
  const startedAt = performance.now();
  assert.match(await submit(await operator.port(465), ['x@good.example'], letter(text)), /^250/);
  await takesMail(await operator.port(25));
  await eventually(
    'other mail has gone',
    async () => count('good', text) === 1,
    withinMs - (performance.now() - startedAt),
  );
}

/** Each recipient that waits: where to, how often tried, and why it waits or that it is on its way. */
async function waiting(): Promise<Map<string, string>> {
  const all = (await operator.queue()).flatMap(({ recipients }) => recipients);
  return new Map(
    all.map(({ domain, state, status }) => [String(domain), state === 'sending' ? 'sending' : String(status)]),
  );
}

const isMatch = (found: ReadonlyMap<string, string>, wanted: (step: string) => string): boolean =>
  steps.every(step => (found.get(`${hop(step)}.example`) ?? 'gone') === wanted(step));

for (const [manner, expected] of [
  ['drop', { TLS: '4.7.4', QUIT: 'gone' }],
  ['nonsense', { TLS: '4.7.4', QUIT: 'gone' }],
  ['hang', { QUIT: 'gone' }],
] as const) {
  test(`next hops that ${manner} at each step: other mail flows, nothing is lost, nothing goes twice but after the dot`, async t => {
    const text = marker();
    for (const step of steps) neighbours.tell(hop(step), `${manner} ${step}`);
    const session = await login(await operator.port(465));
    for (const step of steps)
      assert.match(await transact(session, [`x@${hop(step)}.example`], letter(`${text}${step}`)), /^250/);
    session.socket.destroy();
    const usual = { drop: '4.4.2', nonsense: '4.5.0', hang: 'sending' }[manner];
    const wanted = (step: string): string => (expected as Record<string, string>)[step] ?? usual;
    const seen = new Map<string, string>();
    await eventually(
      'each step has shown its fault',
      async () => {
        for (const [domain, status] of await waiting())
          if (manner === 'hang' || status !== 'sending') seen.set(domain, status);
        return isMatch(seen, wanted);
      },
      30_000,
    ).catch(error => assert.fail(`${error}: ${JSON.stringify([...seen])}`));
    await othersFlow();
    for (const step of steps)
      assert.equal(count(hop(step), `${text}${step}`) > 0, ['CONTENT', 'QUIT'].includes(step), step);
    for (const step of steps) neighbours.tell(hop(step), '');
    if (manner === 'hang') {
      // It stands for the time-outs of RFC 5321, which are minutes.
      await docker('kill', '--signal', 'KILL', server.getId());
      await docker('start', server.getId());
    }
    await eventually('nothing waits', async () => (await operator.queue().catch(() => [1])).length === 0, 60_000);
    const counts = steps.map(step => [step, count(hop(step), `${text}${step}`)] as const);
    for (const [step, times] of counts)
      assert.ok(step === 'CONTENT' ? times >= 2 : times === 1, `${step}: ${times} times`);
    t.diagnostic(`${manner}: ${counts.map(([step, times]) => `${step} ${wanted(step)} ${times}×`).join(', ')}`);
  });
}

test('a hop with 100 messages hanging: other mail flows', async () => {
  neighbours.tell('mail', 'hang MAIL');
  const text = marker();
  const session = await login(await operator.port(465));
  for (let at = 0; at < 100; at += 1) assert.match(await transact(session, ['x@mail.example'], letter(text)), /^250/);
  session.socket.destroy();
  await othersFlow();
  neighbours.tell('mail', '');
  await docker('kill', '--signal', 'KILL', server.getId());
  await docker('start', server.getId());
  await eventually('nothing waits', async () => (await operator.queue().catch(() => [1])).length === 0, 60_000);
  assert.equal(count('mail', text), 100);
});

test('2,100 strangers whose domains lead to one hop that hangs ask to be told of their mail: other mail flows', async t => {
  neighbours.tell('tarpit', 'hang CONNECT');
  const stranger = await dial(await operator.port(25));
  for (let at = 0; at < 2100; at += 1) {
    const [mail, rcpt] = [`MAIL FROM:<x@d${at}.tarpit.example>`, 'RCPT TO:<someone@example.com> NOTIFY=SUCCESS'];
    for (const line of [mail, rcpt, 'DATA', 'Subject: tell me\r\n\r\n.'])
      assert.match(await stranger.say(line), /^[23]/);
  }
  stranger.socket.destroy();
  await eventually('attempts hang', async () => neighbours.met('tarpit') > 0, 30_000);
  const startedAt = performance.now();
  await othersFlow(5000);
  t.diagnostic(
    `other mail left after ${Math.round(performance.now() - startedAt)} ms; the hop met ${neighbours.met('tarpit')} connections`,
  );
});
