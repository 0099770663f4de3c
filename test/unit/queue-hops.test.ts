// The queue with the real transport and real sockets, and next hops as the world has them: one that allows three
// sessions, one address that says nothing and to which 2,100 domains lead. Mail leaves within seconds, and nobody waits
// for those that hang.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import { systemClock } from '../../src/system/world.ts';
import { answerOf, nullDns } from '../contract/null-dns.ts';
import { NullStore } from '../contract/null-store.ts';
import { until } from '../contract/queue.ts';
import { serve, start } from './outbound.harness.ts';
import { open } from './queue.harness.ts';

const opportunistic = { externalTls: 'opportunistic' } as const;

test('60 mails leave within seconds for a hop that allows three sessions and says 421 to more', async t => {
  const seen = { most: 0, refused: 0 };
  const hop = await serve(t, {
    answer: async line => {
      if (line !== 'CONNECT') return undefined;
      const isRefused = [...hop.sockets].filter(socket => !socket.destroyed).length > 3;
      if (isRefused) seen.refused += 1;
      return isRefused ? '421 4.7.0 too many sessions from you' : undefined;
    },
  });
  const { transport } = start(t, [hop], opportunistic);
  const q = open({
    clock: systemClock,
    store: new NullStore(),
    transports: { here: transport, lmtp: transport, relay: transport, domain: transport },
  });
  for (let at = 0; at < 60; at += 1) await q.add(`m${at}`, [`x${at}@x.example`], { receivedAt: Date.now() });
  await q.queue.start();
  await until('all have left', () => q.queue.size === 0);
  const taken = hop.visits.flatMap(({ messages }) => messages).length;
  assert.equal(taken, 60, 'each once');
  assert.ok(seen.refused >= 1 && seen.refused <= 30, `${seen.refused} refusals`);
  assert.equal(q.lines.filter(({ msg }) => msg === 'mail is deferred').length, 0);
  await q.queue.stop(0);
});

test('2,100 domains that lead to one address that says nothing take 20 sessions, and other mail leaves at once', async t => {
  const silent = await serve(t, { answer: () => 'hang' });
  const good = await serve(t);
  const addresses: Record<string, string> = { 'mx.good.example': '192.0.2.2' };
  const { transport } = start(t, [silent, good], {
    ...opportunistic,
    dns: nullDns({
      mx: async domain =>
        answerOf([{ exchange: domain === 'good.example' ? 'mx.good.example' : `mx.${domain}`, priority: 0 }]),
      addresses: async host => answerOf([addresses[host] ?? '192.0.2.1']),
    }),
  });
  const q = open({
    clock: systemClock,
    store: new NullStore(),
    transports: { here: transport, lmtp: transport, relay: transport, domain: transport },
  });
  await q.queue.start();
  for (let at = 0; at < 2100; at += 1)
    await q.add(`m${at}`, [`x@d${at}.evil.example`], { from: at % 2 === 0 ? '' : 'a@b', receivedAt: Date.now() });
  await until('20 sessions hang', () => silent.sockets.size >= 20);
  await wait(200);
  await q.add('good', ['x@good.example'], { receivedAt: Date.now() });
  await until('other mail has left', () => good.visits.some(({ messages }) => messages.length === 1));
  assert.equal(silent.sockets.size, 20);
  await q.queue.stop(0);
});
