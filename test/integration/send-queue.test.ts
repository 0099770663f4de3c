// The operator's hand on the queue: `slimsmtp queue`, on mail for a peer that is down.
import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import { eventually } from './client.ts';
import { docker, openStage } from './compose-lib.ts';
import { type Operator, type Queued, type World, letter, marker, openWorld, operate, submit } from './peer-lib.ts';

const stage = openStage(after);
let world: World<'good' | 'down'>;
let operator: Operator;
let id: string;
/** Four messages: two senders, two domains. */
let texts: Record<'a-down' | 'b-down' | 'a-servfail' | 'b-servfail', string>;

before(async () => {
  world = await openWorld(stage, 'good', 'down');
  await world.peers.down.shell('postfix stop');
  // Nothing is tried again by itself.
  const server = await world.server({ environment: { SLIM_RETRY: '1d', SLIM_QUEUE_LIFETIME: '5d' } });
  operator = operate(server);
  id = server.getId();
});

beforeEach(async () => {
  await operator.slimsmtp('queue', 'remove', '--all');
  const port = await operator.port(465);
  texts = { 'a-down': marker(), 'b-down': marker(), 'a-servfail': marker(), 'b-servfail': marker() };
  for (const [name, text] of Object.entries(texts)) {
    const [sender, domain] = name.split('-');
    const from = `${sender}@example.com`;
    assert.match(await submit(port, [`x@${domain}.example`], letter(text, 'x\r\n', from), { from }), /^250/);
  }
  // Once a domain has shown that it is down, its other messages wait without an attempt of their own.
  const tried = async (): Promise<boolean> => (await attempts()).filter(count => count === 1).length >= 2;
  await eventually('each domain was tried', tried, 20_000);
});

const attempts = async (...selector: string[]): Promise<unknown[]> =>
  (await operator.queue(...selector)).flatMap(({ recipients }) => recipients.map(each => each['attempts']));
const envelopes = (list: readonly Queued[]): string[] =>
  list.map(({ from, recipients }) => `${from} ${recipients.map(({ address }) => address)}`).toSorted();

test('list and show tell who waits for what, and why, for people and as JSON', async () => {
  assert.deepEqual(envelopes(await operator.queue()), [
    'a@example.com x@down.example',
    'a@example.com x@servfail.example',
    'b@example.com x@down.example',
    'b@example.com x@servfail.example',
  ]);
  assert.equal((await operator.queue('--domain', 'down.example')).length, 2);
  assert.equal((await operator.queue('--sender', 'a@example.com')).length, 2);
  assert.equal((await operator.queue('--sender', 'A@Example.Com', '--domain', 'DOWN.example')).length, 1);
  assert.deepEqual(await operator.queue('--domain', 'other.example'), []);
  const [entry] = await operator.queue('--domain', 'down.example', '--sender', 'a@example.com');
  const shown = await operator.slimsmtp('queue', 'show', entry?.id ?? '');
  for (const part of [entry?.id ?? '', 'a@example.com', 'x@down.example', 'REFUSED'])
    assert.ok(shown.toUpperCase().includes(part.toUpperCase()), shown);
  assert.equal(JSON.parse(await operator.slimsmtp('queue', 'show', entry?.id ?? '', '--json')).id, entry?.id);
  assert.match(await operator.shell('slimsmtp queue show nosuchid; echo "status $?"'), /status 1/);
  assert.match(await operator.shell('slimsmtp queue nosuchverb 2>&1; echo "status $?"'), /status 64/);
  assert.match(await operator.shell('slimsmtp queue remove 2>&1; echo "status $?"'), /status 64/);
});

test('retry tries what it names, now', async () => {
  const untouched = await attempts('--domain', 'down.example');
  const own = ['--domain', 'servfail.example', '--sender', 'a@example.com'];
  const [tried] = await attempts(...own);
  await operator.slimsmtp('queue', 'retry', ...own);
  await eventually('tried again', async () => Number((await attempts(...own))[0]) === Number(tried) + 1, 40_000);
  assert.deepEqual(await attempts('--domain', 'down.example'), untouched);
});

test('held mail stays, also over a restart and a retry, until it is released; then it is delivered', async () => {
  await operator.slimsmtp('queue', 'hold', '--domain', 'down.example');
  await world.peers.down.shell('postfix start');
  await docker('restart', '--time', '10', id);
  await operator.healthy();
  const held = async (): Promise<string[]> => envelopes((await operator.queue()).filter(({ isHeld }) => isHeld));
  assert.deepEqual(await held(), ['a@example.com x@down.example', 'b@example.com x@down.example']);
  const [first] = await operator.queue('--domain', 'down.example', '--sender', 'a@example.com');
  await operator.slimsmtp('queue', 'release', first?.id ?? '');
  await operator.slimsmtp('queue', 'retry', '--domain', 'down.example');
  await eventually(
    'the released one came',
    async () => (await world.peers.down.mails(texts['a-down'])).length === 1,
    15_000,
  );
  assert.deepEqual(await held(), ['b@example.com x@down.example']);
  assert.deepEqual(await world.peers.down.mails(texts['b-down']), []);
  await operator.slimsmtp('queue', 'release', '--sender', 'b@example.com');
  await operator.slimsmtp('queue', 'retry', '--sender', 'b@example.com');
  await eventually('the other came', async () => (await world.peers.down.mails(texts['b-down'])).length === 1, 15_000);
  await world.peers.down.shell('postfix stop');
});

test('remove takes out what it names without a word to the sender, from the disk too', async () => {
  assert.match(await operator.slimsmtp('queue', 'remove', '--sender', 'a@example.com'), /2/);
  assert.deepEqual(envelopes(await operator.queue()), [
    'b@example.com x@down.example',
    'b@example.com x@servfail.example',
  ]);
  assert.match(await operator.shell('slimsmtp queue remove --sender nobody@example.com; echo "status $?"'), /status 1/);
  await operator.slimsmtp('queue', 'remove', '--all');
  assert.equal(await operator.shell('ls -A /var/lib/slimsmtp/queue'), '');
  assert.deepEqual(await operator.mails('Auto-Submitted: auto-replied'), []);
});
