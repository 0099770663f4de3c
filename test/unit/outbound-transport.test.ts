// An attempt as the queue sees it, against servers on loopback: many recipients, servers that are busy, places that are
// given and taken back, addresses that lead nowhere, and a relay that cannot be used.
import assert from 'node:assert/strict';
import { readdirSync, rmSync } from 'node:fs';
import { type Socket, connect } from 'node:net';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { Delivery } from '../../src/mail/message.ts';
import type { Place } from '../../src/mail/ports.ts';
import { nullDns } from '../contract/null-dns.ts';
import {
  type Say,
  type Server,
  type ServerOptions,
  type Visit,
  certificate,
  certifyAs,
  folder,
  on,
  quick,
  serve,
  sleep,
  start,
  words,
} from './outbound.harness.ts';

const addresses = (count: number): string => Array.from({ length: count }, (_, at) => `r${at}@x.example`).join(' ');
const kinds = (deliveries: readonly Delivery[]): Record<string, number> => {
  const groups = Map.groupBy(deliveries, ({ kind, status }) => `${kind} ${status}`);
  return Object.fromEntries(Array.from(groups, ([name, group]) => [name, group.length]));
};

/** A server that takes so many recipients of a transaction, and says this to one more. */
function taking(
  most: number,
  refusal: string,
  more: Partial<ServerOptions> = {},
): ServerOptions & { taken: string[][] } {
  const taken: string[][] = [];
  let now: string[] = [];
  return {
    taken,
    ...more,
    answer: line => {
      if (line.startsWith('MAIL')) now = [];
      if (line === 'CONTENT') taken.push(now);
      if (!line.startsWith('RCPT')) return undefined;
      if (now.length >= most) return refusal;
      now.push(/<(.*)>/.exec(line)?.[1] ?? '');
      return undefined;
    },
  };
}

describe('a thousand recipients', () => {
  const to = addresses(1000);
  const all = to.split(' ');

  for (const extensions of [['PIPELINING'], []])
    for (const [most, refusal] of [
      [50, '452 4.5.3 too many recipients'],
      [10, '552 too many'],
    ] as const)
      it(`leave at once at a server that takes ${most} (${refusal}; ${extensions.join() || 'no PIPELINING'})`, async t => {
        const startedAt = performance.now();
        const options = taking(most, refusal, { extensions });
        const server = await serve(t, options);
        assert.deepEqual(kinds(await start(t, [server]).send({ to })), { 'delivered 2.0.0': 1000 });
        assert.deepEqual(options.taken.flat().toSorted(), all.toSorted(), 'each of them once');
        assert.equal(Math.max(...options.taken.map(({ length }) => length)), most);
        assert.ok(performance.now() - startedAt < 5000);
      });

  it('go a hundred at a time where nothing is said, in one session', async t => {
    const options = taking(Infinity, '');
    const server = await serve(t, options);
    assert.deepEqual(kinds(await start(t, [server]).send({ to })), { 'delivered 2.0.0': 1000 });
    assert.deepEqual(
      options.taken.map(({ length }) => length),
      Array.from({ length: 10 }, () => 100),
    );
    assert.equal(server.visits.length, 1);
  });

  it('go as RCPTMAX and MAILMAX want it, on as many sessions as that takes', async t => {
    const options = taking(Infinity, '', { extensions: ['PIPELINING', 'LIMITS RCPTMAX=70 MAILMAX=4'] });
    const server = await serve(t, options);
    assert.deepEqual(kinds(await start(t, [server]).send({ to })), { 'delivered 2.0.0': 1000 });
    assert.ok(options.taken.every(({ length }) => length <= 70));
    assert.deepEqual(
      server.visits.map(({ messages }) => messages.length),
      [4, 4, 4, 3],
    );
    assert.deepEqual(server.visits.map(({ lines }) => lines.at(-1)).slice(0, 3), ['QUIT', 'QUIT', 'QUIT']);
  });

  it('go on with a new session where the server ends one after some messages', async t => {
    const server = await serve(t, { answer: on('MAIL', '421 4.7.0 enough', ({ messages }) => messages.length >= 3) });
    assert.deepEqual(kinds(await start(t, [server]).send({ to })), { 'delivered 2.0.0': 1000 });
    assert.equal(server.visits.length, 4);
  });

  it('wait together where the session is lost in the middle, and are not tried hundred by hundred', async t => {
    const server = await serve(t, { answer: on('CONTENT', 'drop', ({ messages }) => messages.length >= 3) });
    assert.deepEqual(kinds(await start(t, [server]).send({ to })), { 'delivered 2.0.0': 200, 'deferred 4.4.2': 800 });
    assert.equal(server.visits.length, 1);
  });

  it('are not given a new session again and again by a server that takes one and hangs up', async t => {
    const server = await serve(t, { extensions: ['LIMITS MAILMAX=1 RCPTMAX=1'] });
    let now = 0;
    const clock = { now: () => (now += 60_000) };
    const sent = kinds(await start(t, [server], { clock }).send({ to }));
    assert.deepEqual(Object.keys(sent), ['delivered 2.0.0', 'deferred 4.5.3']);
    assert.ok(server.visits.length < 60);
  });

  it('wait, without a bounce, where a server takes none because of their number', async t => {
    const server = await serve(t, { answer: on('RCPT', '550 5.5.3 too many recipients') });
    assert.deepEqual(kinds(await start(t, [server]).send({ to })), { 'deferred 4.5.3': 1000 });
    assert.equal(server.visits.length, 1);
  });

  it('of a large message get the same content each time', async t => {
    const options = taking(400, '452 4.5.3 too many');
    const server = await serve(t, options);
    const content = `Subject: x\n\n${'a line of text\n'.repeat(40_000)}`;
    const { send } = start(t, [server], { maxRecipients: 1000 });
    assert.deepEqual(kinds(await send({ to, content })), { 'delivered 2.0.0': 1000 });
    const messages = server.visits.flatMap(visit => visit.messages);
    assert.equal(messages.length, 3);
    assert.deepEqual(new Set(messages), new Set([content.replaceAll('\n', '\r\n')]));
  });
});

describe('a surprise', () => {
  const vanish = (): void => {
    for (const name of readdirSync(folder)) rmSync(join(folder, name));
  };

  it('in a later transaction does not make us forget who has the message', async t => {
    const answer = (line: string, { messages }: Visit): undefined => {
      if (line.startsWith('MAIL') && messages.length === 1) vanish();
    };
    const server = await serve(t, { answer });
    const { send } = start(t, [server], { maxRecipients: 1 });
    const sent = await send({ to: addresses(3), content: `Subject: x\n\n${'a line\n'.repeat(100_000)}` });
    assert.deepEqual(kinds(sent), { 'delivered 2.0.0': 1, 'deferred 4.3.0': 2 });
    assert.match(sent[1]?.text ?? '', /^the message cannot be read: .*ENOENT/);
  });

  it('in a later session does not either', async t => {
    const answer = (line: string): undefined => {
      if (line.startsWith('EHLO') && server.visits.length === 2) vanish();
    };
    const server: Server = await serve(t, { answer, extensions: ['LIMITS MAILMAX=1'] });
    const { send, lines } = start(t, [server], { maxRecipients: 1 });
    const sent = await send({ to: addresses(3), is8Bit: true });
    assert.deepEqual(kinds(sent), { 'delivered 2.0.0': 1, 'deferred 4.3.0': 2 });
    assert.ok(lines.some(line => line.startsWith('error')));
  });
});

describe('a server that allows fewer sessions', () => {
  for (const [verb, said, isUnreachable] of [
    ['CONNECT', '421 4.7.0 too many sessions', true],
    ['EHLO', '421 4.7.0 too many sessions', true],
    ['MAIL', '421 4.7.0 too many sessions', false],
    ['RCPT', '421 4.7.0 too many sessions', false],
    ['DATA', '421 4.7.0 too many sessions', false],
    ['CONTENT', '421 4.7.0 too many sessions', false],
    ['MAIL', '432 4.3.2 too many sessions', false],
    ['RCPT', '432 4.3.2 too many sessions', false],
    ['CONTENT', '432 4.3.2 too many sessions', false],
  ] as const)
    it(`and says ${said.slice(0, 3)} at ${verb} is busy`, async t => {
      const server = await serve(t, { answer: on(verb, said) });
      const [delivery] = await start(t, [server]).send();
      assert.deepEqual(
        [delivery?.kind, delivery?.isBusy, Boolean(delivery?.isUnreachable)],
        ['deferred', true, isUnreachable],
      );
    });

  it('is busy although its other host cannot be reached, or has no TLS', async t => {
    const busy = await serve(t, { answer: on('CONNECT', '421 4.3.2 busy') });
    const clear = await serve(t);
    const [delivery] = await start(t, [busy, 1, clear], { externalTls: 'required' }).send();
    assert.deepEqual([delivery?.isBusy, delivery?.remote], [true, 'mx1.example']);
  });

  it('still has its open session used', async t => {
    const server = await serve(t, {
      answer: line => (line === 'CONNECT' && server.visits.length > 1 ? '421 no' : undefined),
    });
    const { send } = start(t, [server]);
    for (let at = 0; at < 3; at += 1) assert.match(words(await send()), /^delivered/);
    assert.equal(server.visits.length, 1);
  });
});

describe('a place', () => {
  /** A place that can be taken back, and that notes what the attempt tells it. */
  function watched(enter: (address: string) => boolean = () => true) {
    let isEnded = false;
    const entered: string[] = [];
    let steps = 0;
    const place: Place = {
      get isEnded() {
        return isEnded;
      },
      onEnd: undefined,
      enter: address => {
        entered.push(address);
        return enter(address);
      },
      progressed: () => void (steps += 1),
    };
    const end = (): void => {
      isEnded = true;
      place.onEnd?.();
    };
    return { place, end, entered, steps: () => steps };
  }

  it('hears of each address before it is used, also of a session that is open already', async t => {
    const server = await serve(t);
    const { send } = start(t, [1, server]);
    const [first, second] = [watched(), watched()];
    await send({ place: first.place });
    await send({ place: second.place });
    assert.deepEqual([first.entered, second.entered], [['192.0.2.1', '192.0.2.2'], ['192.0.2.2']]);
    assert.ok(first.steps() >= 4, 'connected, greeting, EHLO, envelope, content');
  });

  it('that is refused means crowded, without a connection, and the open session stays', async t => {
    const server = await serve(t);
    const { send } = start(t, [server]);
    const refused = watched(() => false);
    const [crowded] = await send({ place: refused.place });
    assert.deepEqual([crowded?.kind, crowded?.isCrowded, server.visits.length], ['deferred', true, 0]);
    await send();
    assert.equal((await send({ place: refused.place }))[0]?.isCrowded, true);
    await send();
    assert.equal(server.visits.length, 1);
  });

  for (const verb of ['CONNECT', 'EHLO', 'STARTTLS', 'MAIL', 'RCPT', 'DATA', 'CONTENT'])
    it(`that is taken back while ${verb} hangs ends the attempt`, async t => {
      const server = await serve(t, { answer: on(verb, 'hang'), tls: 'starttls', extensions: [] });
      const { place, end } = watched();
      const startedAt = performance.now();
      const sent = start(t, [server, server], { externalTls: 'required' }).send({ place });
      await sleep(150);
      end();
      const [delivery] = await sent;
      assert.equal(delivery?.kind, 'deferred');
      assert.match(delivery?.text ?? '', /no progress, and other mail needed its place/);
      assert.notEqual(delivery?.status, '4.7.4', 'no word about TLS to the sender');
      assert.ok(performance.now() - startedAt < 1000);
      assert.equal(server.visits.length, 1, 'no other server is tried');
    });

  it('that is taken back while the DNS says nothing, or before, ends the attempt', async t => {
    const never = new Promise<never>(() => undefined);
    const dns = nullDns({ mx: () => never, addresses: () => never });
    const { place, end } = watched();
    const sending = start(t, [], { dns });
    const sent = sending.send({ place });
    await sleep(10);
    end();
    assert.match(words(await sent), /^deferred 4\.4\.5 - the attempt made no progress/);
    assert.match(words(await sending.send({ place })), /^deferred 4\.4\.5 - the attempt made no progress/);
  });
});

describe('addresses', () => {
  /** A socket that is connected after a while; without a port it never is. */
  const slowly = (port: number | undefined, ms: number): Socket =>
    connect({
      host: 'slow.example',
      port: port ?? 1,
      lookup: (_host, _options, done) => {
        if (port !== undefined) setTimeout(() => done(null, [{ address: '127.0.0.1', family: 4 }]), ms);
      },
    });

  it('of the relay have each its own time, and one that leads nowhere does not cost the next session anything', async t => {
    const server = await serve(t);
    const dialled: string[] = [];
    const { send, transport } = start(t, [], {
      ...quick,
      timeouts: { ...quick.timeouts, connect: 900 },
      relay: { host: 'relay.example', port: 25, tls: 'none' },
      dns: nullDns({ systemAddresses: async () => ['2001:db8::1', '192.0.2.1'] }),
      dial: ({ host }) => {
        dialled.push(host);
        return slowly(host === '192.0.2.1' ? server.port : undefined, 600);
      },
    });
    assert.match(words(await send()), /^delivered/);
    assert.deepEqual(dialled.splice(0), ['2001:db8::1', '192.0.2.1']);
    transport.close();
    assert.match(words(await send()), /^delivered/);
    assert.deepEqual(dialled, ['192.0.2.1']);
  });

  it('of the relay that are literal are not looked up; and a name that cannot be looked up waits', async t => {
    const server = await serve(t);
    const dns = nullDns();
    const relay = { host: '192.0.2.1', port: 25, tls: 'none' } as const;
    assert.match(words(await start(t, [server], { dns, relay }).send()), /^delivered/);
    const { send, lines } = start(t, [server], { dns, relay: { ...relay, host: 'relay.example' } });
    assert.match(
      words(await send()),
      /^deferred 4\.4\.3 relay\.example unreachable the address of relay\.example cannot be found/,
    );
    assert.ok(lines.some(line => line.startsWith('warn the relay cannot be used')));
  });
});

describe('a relay that cannot be used is the matter of our operator, and nothing bounces', () => {
  const relay = (server: Server, more = {}) => ({
    dial: connect,
    ca: certificate.pair.cert,
    relay: { host: 'localhost', port: server.port, tls: 'none' as const, ...more },
  });

  for (const [what, said] of [
    ['has our own name', '220 mail.example.com ESMTP'],
    ['refuses us', '554 5.7.1 not you'],
  ])
    it(`although its greeting ${what}`, async t => {
      const server = await serve(t, { answer: on('CONNECT', said as Say) });
      const { send, lines } = start(t, [], relay(server));
      const [delivery] = await send();
      assert.deepEqual([delivery?.kind, delivery?.isUnreachable], ['deferred', true]);
      assert.match(delivery?.status ?? '', /^4\./);
      assert.ok(lines.some(line => line.startsWith('warn the relay cannot be used')));
    });

  it('although its password has changed: the file is read again at once, and on an order', async t => {
    await certifyAs('localhost', t);
    let right = 'old';
    const server = await serve(t, {
      tls: 'implicit',
      extensions: ['AUTH PLAIN'],
      answer: line => {
        if (!line.startsWith('AUTH')) return undefined;
        const given = Buffer.from(line.split(' ').at(-1) ?? '', 'base64').toString();
        return given === `\0anton\0${right}` ? '235 ok' : '535 5.7.8 wrong';
      },
    });
    let file: string | Error = 'old';
    let reads = 0;
    const { send, transport } = start(t, [], {
      ...relay(server, { tls: 'implicit', user: 'anton', password: 'old' }),
      readLogin: async () => {
        reads += 1;
        if (file instanceof Error) throw file;
        return { user: 'anton', password: file };
      },
    });
    assert.match(words(await send()), /^delivered/);
    assert.equal(reads, 0);
    transport.close();
    right = 'new';
    assert.match(words(await send()), /^deferred 4\.7\.8/);
    assert.deepEqual([reads, server.visits.length], [1, 2], 'the same password is not tried again');
    file = new Error('gone');
    assert.match(words(await send()), /^deferred 4\.7\.8/);
    file = 'new';
    assert.match(words(await send()), /^delivered/);
    transport.close();
    right = file = 'newer';
    assert.equal(await transport.readLogin(), true);
    const before = server.visits.length;
    assert.match(words(await send()), /^delivered/);
    assert.equal(server.visits.length, before + 1);
  });
});
