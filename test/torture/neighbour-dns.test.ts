// A DNS that is silent, fails, lies, truncates, babbles, loops or is forged, for some domains at a time: their mail
// waits, and no other mail does. Nothing bounces for an outage. What DNS says itself, 'there is no such domain', is
// believed: a resolver that lies so bounces mail.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { eventually } from '../integration/client.ts';
import { docker, openStage } from '../integration/compose-lib.ts';
import { type Operator, letter, login, marker, operate, transact } from '../integration/peer-lib.ts';
import { type Neighbours, openNeighbours, takesMail } from './neighbour-lib.ts';

/** What becomes of mail: the status it waits with, `sent`, or the status with which it comes back. */
const faults = {
  silent: '4.4.3',
  servfail: '4.4.3',
  cut: '4.4.3',
  garbage: '4.4.3',
  forged: '4.4.3',
  loop: '4.4.3',
  truncated: 'sent',
  alias: 'sent',
  nxdomain: 'failed 5.1.2',
} as const;
const stage = openStage(after);
let neighbours: Neighbours;
let operator: Operator;

before(async () => {
  neighbours = await openNeighbours(stage, ['good', 'evil']);
  operator = operate(await neighbours.server({ SLIM_RETRY: '2s' }));
});

test('500 mails to domains whose ten MX hosts nobody knows: few descriptors, and other mail flows', async t => {
  const server = await neighbours.server({ SLIM_RETRY: '2s' });
  const crowded = operate(server);
  const script = 'for each in /proc/[0-9]*; do ls $each/fd 2>/dev/null | wc -l; done | sort -n | tail -1';
  const descriptors = async (): Promise<number> =>
    Number(await docker('exec', '--user', 'slim', server.getId(), 'sh', '-c', script));
  const atFirst = await descriptors();
  const session = await login(await crowded.port(465));
  for (let at = 0; at < 500; at += 1)
    assert.match(await transact(session, [`x@d${at}.dns-hosts.example`], letter('lost')), /^250/);
  let most = 0;
  for (let round = 0; round < 5; round += 1) {
    const text = marker();
    assert.match(await transact(session, ['x@good.example'], letter(text)), /^250/);
    const isGone = async (): Promise<boolean> => neighbours.took('good').filter(each => each === text).length === 1;
    const startedAt = performance.now();
    await eventually('mail whose DNS works has gone', isGone, 5000);
    t.diagnostic(
      `after ${Math.round(performance.now() - startedAt)} ms; a mailbox here: ${await takesMail(await crowded.port(25))}`,
    );
    most = Math.max(most, await descriptors());
  }
  t.diagnostic(`${most - atFirst} descriptors more`);
  assert.ok(most - atFirst < 300, `${most - atFirst} descriptors more`);
  session.socket.destroy();
});

test('each fault of the DNS keeps the mail of its domain waiting, no other, and loses nothing', async t => {
  const text = marker();
  const session = await login(await operator.port(465));
  const send = async (domain: string): Promise<void> =>
    assert.match(await transact(session, [`x@${domain}.example`], letter(`${text}${domain}`)), /^250/);
  for (const fault of Object.keys(faults)) await send(`dns-${fault}`);
  await send('good');
  const took = (domain: string): number =>
    neighbours.took('good').filter(subject => subject === `${text}${domain}`).length;
  await eventually('mail whose DNS works has gone', async () => took('good') === 1, 2000);
  t.diagnostic(`a mailbox here, meanwhile: ${await takesMail(await operator.port(25))}`);
  const outcomes = async (): Promise<Record<string, string>> => {
    const found = Object.fromEntries(
      Object.keys(faults).map(fault => [fault, took(`dns-${fault}`) === 1 ? 'sent' : 'nothing yet']),
    );
    for (const { msg, destination, status } of await operator.log()) {
      const fault = String(destination).replace(/^dns-|\.example$/g, '');
      if (msg === 'mail has failed') found[fault] = `failed ${status}`;
    }
    for (const { recipients } of await operator.queue())
      for (const { domain, status } of recipients)
        found[String(domain).replace(/^dns-|\.example$/g, '')] = String(status);
    return found;
  };
  let last: Record<string, string> = {};
  const isSo = async (): Promise<boolean> => JSON.stringify((last = await outcomes())) === JSON.stringify(faults);
  await eventually('each has its outcome', isSo, 60_000).catch(() => assert.deepEqual(last, faults));
  t.diagnostic(JSON.stringify(last));
  await send('good');
  await eventually('mail whose DNS works goes still', async () => took('good') === 2, 2000);
  neighbours.heal();
  await eventually('nothing waits', async () => (await operator.queue()).length === 0, 60_000);
  for (const [fault, outcome] of Object.entries(faults))
    assert.equal(took(`dns-${fault}`), outcome.startsWith('failed') ? 0 : 1, fault);
  assert.deepEqual(neighbours.took('evil'), [], 'a forged answer is not believed');
  session.socket.destroy();
});
