// The transport against real sockets on loopback: polite, broken and hostile servers, with and without TLS.
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { connect } from 'node:net';
import { describe, it } from 'node:test';
import { standardTimeouts } from '../../src/outbound/connection.ts';
import { makeVerifier, checkProof, serverFinal } from '../../src/sasl/scram.ts';
import { systemClock, systemRandom } from '../../src/system/world.ts';
import {
  type Server,
  type Visit,
  certificate,
  certifyAs,
  folder,
  on,
  plain,
  quick,
  serve,
  sleep,
  start,
  words,
} from '../unit/outbound.harness.ts';

describe('a message', () => {
  it('goes out in two writes, octet for octet, and the session is used again', async t => {
    const server = await serve(t);
    const { send, transport } = start(t, [server]);
    const content = 'Subject: x\n\n.\n..dots\n\x00\xe4\n';
    assert.equal(
      words(await send({ content, is8Bit: true, to: 'b@x.example c@x.example' })),
      'delivered 2.0.0 mx1.example 250 2.0.0 kept\ndelivered 2.0.0 mx1.example 250 2.0.0 kept',
    );
    const [visit] = server.visits;
    assert.deepEqual(visit?.messages, ['Subject: x\r\n\r\n..\r\n...dots\r\n\x00\xe4\r\n']);
    assert.deepEqual(visit?.reads.length, 3, JSON.stringify(visit?.reads)); // EHLO, envelope, content
    assert.equal(
      visit?.reads[1],
      'MAIL FROM:<a@example.com> SIZE=29 BODY=8BITMIME\r\nRCPT TO:<b@x.example>\r\nRCPT TO:<c@x.example>\r\nDATA\r\n',
    );
    await send();
    await send();
    assert.equal(server.visits.length, 1);
    assert.equal(visit?.reads.length, 7);
    transport.close();
    await sleep(20);
    assert.equal(visit?.lines.at(-1), 'QUIT');
  });

  it('that is forwarded has another reverse-path and lines in front, also where it is large', async t => {
    const server = await serve(t, { extensions: ['8BITMIME', 'SIZE'] });
    const forward = {
      from: 'x@example.net',
      sentAs: 'SRS0=h=tt=example.net=x@example.com',
      head: 'Delivered-To: a@b\n',
    };
    for (const content of ['Subject: x\n\nhello\n', `Subject: x\n\n${'a line\n'.repeat(50_000)}`]) {
      assert.match(words(await start(t, [server]).send({ ...forward, content })), /^delivered/);
      assert.equal(server.visits.at(-1)?.messages.at(-1), `Delivered-To: a@b\r\n${content.replaceAll('\n', '\r\n')}`);
      assert.match(server.visits.at(-1)?.lines.join('\n') ?? '', /^MAIL FROM:<SRS0=h=tt=example\.net=x@example\.com>/m);
    }
  });

  it('with a line in front that only SMTPUTF8 can carry is not sent to a server without it', async t => {
    const server = await serve(t, { extensions: ['8BITMIME'] });
    const mail = { isUtf8: true, head: 'Delivered-To: \u00e4@b\n' };
    assert.match(words(await start(t, [server]).send(mail)), /^failed 5\.6\.9/);
  });

  it('of many megabytes goes out in pieces, under back-pressure', async t => {
    const server = await serve(t, { extensions: ['8BITMIME'] });
    const content = `${'a line of text that is not too short\n.\n'.repeat(50_000)}no end`;
    assert.match(words(await start(t, [server]).send({ content })), /^delivered/);
    assert.equal(server.visits[0]?.messages[0], `${content.replaceAll('\n', '\r\n').replaceAll('\n.', '\n..')}\r\n`);
  });

  it('cannot smuggle', async t => {
    const server = await serve(t);
    for (const evil of ['\n.\n', '\r.\r', '\r\n.\r\n', '\n.\r\n', '\r.\n', '\n.\r'])
      assert.match(
        words(await start(t, [server]).send({ content: `x: y\n\nend${evil}MAIL FROM:<evil@x.example>${evil}` })),
        /^delivered/,
      );
    const visits = server.visits.filter(({ messages }) => messages.length > 0);
    assert.equal(visits.length, 6);
    for (const visit of visits) {
      assert.equal(visit.messages.length, 1);
      assert.equal(visit.reads.join('').split('\r\n.\r\n').length, 2);
      assert.doesNotMatch(visit.reads.join(''), /\r(?!\n)|(?<!\r)\n/);
    }
  });

  it('finds the next host where one does not work, and its word counts where one does', async t => {
    const busy = await serve(t, { answer: on('CONNECT', '421 4.3.2 busy') });
    const closed = await serve(t, { answer: on('CONNECT', '554 5.3.2 no') });
    const grey = await serve(t, { answer: on('RCPT TO:<later', '451 4.7.1 greylisted') });
    const spare = await serve(t);
    const { send } = start(t, [1, busy, closed, grey, spare]);
    assert.equal(
      words(await send({ to: 'good@x.example later@x.example' })),
      'delivered 2.0.0 mx4.example 250 2.0.0 kept\ndeferred 4.7.1 mx4.example 451 4.7.1 greylisted',
    );
    assert.equal(spare.visits.length, 0);
    assert.match(
      words(await start(t, [1, 1]).send()),
      /^deferred 4\.4\.1 mx2\.example unreachable connect ECONNREFUSED/,
    );
    assert.match(words(await start(t, [closed]).send()), /^failed 5\.3\.2 mx1\.example 554/);
    assert.match(words(await start(t, [closed, busy]).send()), /^deferred 4\.3\.2 mx2\.example unreachable 421/);
  });

  it('does not go to ourselves', async t => {
    const own = await serve(t, { answer: on('CONNECT', '220 mail.example.com ESMTP') });
    const other = await serve(t);
    assert.match(words(await start(t, [own, other]).send()), /^failed 5\.4\.6 mx1/);
    assert.equal(other.visits.length, 0);
    // A host that is preferred to us is only down: it may be back before the lifetime ends.
    assert.match(words(await start(t, [1, own]).send()), /^deferred 4\.4\.1 mx1\.example unreachable/);
  });

  it('takes a new session where the old one was closed while it waited', async t => {
    const server = await serve(t, { answer: on('MAIL', 'drop', ({ messages }) => messages.length > 0) });
    const { send } = start(t, [server]);
    for (let at = 0; at < 3; at += 1) assert.match(words(await send()), /^delivered/);
    assert.equal(server.visits.length, 3);
    const polite = await serve(t, {
      answer: (line, visit) =>
        line.startsWith('MAIL') && visit.messages.length > 0 ? '421 4.4.2 too long' : undefined,
    });
    const again = start(t, [polite]);
    for (let at = 0; at < 2; at += 1) assert.match(words(await again.send()), /^delivered/);
    assert.equal(polite.visits.length, 2);
    // A server that says good-bye in between, or closes.
    const parting = await serve(t);
    const third = start(t, [parting]);
    await third.send();
    for (const socket of parting.sockets) socket.end('421 4.3.2 bye\r\n');
    await sleep(20);
    assert.match(words(await third.send()), /^delivered/);
    assert.equal(parting.visits.length, 2);
  });

  it('does not take replies that nobody asked for', async t => {
    const early = await serve(t, { answer: on('DATA', '354 go\r\n250 2.0.0 kept') });
    assert.match(
      words(await start(t, [early]).send()),
      /^deferred 4\.5\.0 mx1\.example a reply came to what was not sent/,
    );
    assert.deepEqual(early.visits[0]?.messages, []);
    const twice = await serve(t, { answer: on('CONTENT', '250 2.0.0 kept\r\n250 2.0.0 kept') });
    const { send } = start(t, [twice]);
    for (let at = 0; at < 2; at += 1) assert.match(words(await send()), /^delivered/);
    assert.equal(twice.visits.length, 2);
  });

  it('has a hundred companions in a session, no more', async t => {
    const server = await serve(t);
    const { send } = start(t, [server]);
    for (let at = 0; at < 101; at += 1) await send();
    assert.deepEqual(
      server.visits.map(({ messages }) => messages.length),
      [100, 1],
    );
  });
});

describe('a broken or hostile server costs a bounded time, and no mail', { concurrency: 8 }, () => {
  for (const step of ['CONNECT', 'EHLO', 'MAIL', 'RCPT', 'DATA', 'CONTENT']) {
    it(`hanging at ${step}`, async t => {
      const startedAt = systemClock.now();
      const server = await serve(t, { answer: on(step, 'hang'), extensions: [] });
      assert.match(
        words(await start(t, [server], quick).send()),
        /^deferred 4\.4\.2 mx1\.example (?:unreachable )?the server did not answer in time/,
      );
      assert.ok(systemClock.now() - startedAt < 1500);
    });
    it(`dropping at ${step}`, async t => {
      const server = await serve(t, { answer: on(step, 'drop'), extensions: [] });
      assert.match(words(await start(t, [server], quick).send()), /^deferred 4\.4\.2 mx1/);
    });
    it(`closing with 421 at ${step}`, async t => {
      const server = await serve(t, { answer: on(step, '421 4.3.2 bye') });
      assert.match(words(await start(t, [server], quick).send()), /^deferred 4\.3\.2 mx1.* 421/);
    });
    it(`talking nonsense at ${step}`, async t => {
      for (const nonsense of [
        'HTTP/1.1 400 Bad Request',
        '999 no',
        '250-a\r\n'.repeat(200),
        `250 ${'x'.repeat(70_000)}`,
        '\0\xff',
      ]) {
        const server = await serve(t, { answer: on(step, nonsense) });
        assert.match(words(await start(t, [server], quick).send()), /^deferred 4\.5\.0 mx1/);
      }
    });
  }
});

describe('a server that goes on and on costs a bounded time, and no mail', () => {
  it('dripping', async t => {
    const startedAt = systemClock.now();
    const server = await serve(t, {
      answer: async (line, _, socket) => {
        if (!line.startsWith('MAIL')) return undefined;
        for (let at = 0; at < 100 && !socket.destroyed; at += 1) {
          socket.write('250-x\r\n');
          await sleep(50);
        }
        return 'drop';
      },
    });
    assert.match(words(await start(t, [server], quick).send()), /^deferred 4\.4\.2 .*in time/);
    assert.ok(systemClock.now() - startedAt < 1000);
  });

  it('dripping one whole reply after the other', async t => {
    const server = await serve(t, {
      extensions: [],
      answer: async line => {
        await sleep(40);
        return on('RCPT', '250 ok')(line, {} as Visit);
      },
    });
    const startedAt = systemClock.now();
    const to = Array.from({ length: 50 }, (_, at) => `r${at}@x.example`).join(' ');
    assert.match(
      words(await start(t, [server], { timeouts: { ...standardTimeouts, attempt: 500 } }).send({ to })),
      /^deferred 4\.4\.2 mx1\.example it took too long in all/,
    );
    assert.ok(systemClock.now() - startedAt < 4000);
  });

  it('flooding while nobody listens', async t => {
    const server = await serve(t, {
      answer: (line, _, socket) => {
        if (line !== 'CONTENT') return undefined;
        for (let at = 0; at < 100; at += 1) socket.write(`250 ${'x'.repeat(60_000)}\r\n`);
        return 'hang';
      },
    });
    assert.match(words(await start(t, [server], quick).send()), /^deferred 4\.5\.0/);
  });

  it('not taking the content', async t => {
    const server = await serve(t, {
      extensions: [],
      answer: (line, _, socket) => {
        if (line.startsWith('DATA')) socket.pause();
        return undefined;
      },
    });
    const content = `${'x'.repeat(99)}\n`.repeat(200_000);
    assert.match(
      words(await start(t, [server], { timeouts: { ...standardTimeouts, block: 300 } }).send({ content })),
      /^deferred 4\.4\.2 mx1\.example the server does not take the message/,
    );
  });

  it('dropping in the middle of the content', async t => {
    const server = await serve(t, {
      extensions: [],
      answer: (line, _, socket) => {
        if (!line.startsWith('DATA')) return undefined;
        setTimeout(() => socket.destroy(), 50);
        return '354 go';
      },
    });
    assert.match(
      words(await start(t, [server]).send({ content: `${'x'.repeat(99)}\n`.repeat(200_000) })),
      /^deferred 4\.4\.2/,
    );
  });
});

describe('TLS to MX hosts', () => {
  it('is used where it is offered, unverified', async t => {
    const server = await serve(t, { tls: 'starttls' });
    const [delivery] = await start(t, [server], { externalTls: 'required' }).send();
    assert.equal(delivery?.kind, 'delivered');
    assert.match(delivery?.tls ?? '', /^TLSv1\.3:/);
    assert.deepEqual(
      [server.visits[0]?.isSecure, server.visits[0]?.lines.filter(line => line.startsWith('EHLO')).length],
      [true, 2],
    );
  });

  it('is a must under required: nothing goes in clear, every host is tried', async t => {
    const without = await serve(t);
    const refusing = await serve(t, { tls: 'starttls', answer: on('STARTTLS', '454 4.7.0 no') });
    const garbage = await serve(t, { extensions: ['STARTTLS'], answer: on('STARTTLS', '220 go') });
    const broken = await serve(t, {
      extensions: ['STARTTLS'],
      answer: (line, _, socket) => {
        if (!line.startsWith('STARTTLS')) return undefined;
        socket.once('data', () => socket.write('this is no TLS\r\n'.repeat(10)));
        return '220 go';
      },
    });
    const { send } = start(t, [without, refusing, garbage, broken], { ...quick, externalTls: 'required' });
    assert.match(
      words(await send()),
      /^deferred 4\.7\.4 \S* ?no server of x\.example that was reached offers TLS, and SLIM_EXTERNAL_TLS=required forbids plain text/,
    );
    for (const { visits } of [without, refusing, garbage, broken]) {
      assert.equal(visits.length, 1);
      assert.doesNotMatch(visits[0]?.reads.join('') ?? '', /MAIL|hello/);
    }
    const good = await serve(t, { tls: 'starttls' });
    assert.match(words(await start(t, [without, good], { externalTls: 'required' }).send()), /^delivered 2\.0\.0 mx2/);
  });

  it(
    'is given up under opportunistic, on a new connection, also after a failed handshake',
    { timeout: 10_000 },
    async t => {
      const refusing = await serve(t, { tls: 'starttls', answer: on('STARTTLS', '454 4.7.0 no') });
      assert.match(words(await start(t, [refusing], plain).send()), /^delivered/);
      assert.equal(refusing.visits.length, 1);
      for (const said of ['drop', 'hang', 'garbage']) {
        const broken: Server = await serve(t, {
          extensions: ['STARTTLS'],
          answer: (line, _, socket) => {
            if (!line.startsWith('STARTTLS')) return undefined;
            socket.once('data', () =>
              said === 'drop' ? socket.destroy() : said === 'garbage' && socket.write('HTTP/1.1 400\r\n\r\n'),
            );
            return '220 go';
          },
        });
        const [delivery] = await start(t, [broken], {
          ...plain,
          timeouts: { ...standardTimeouts, handshake: 300 },
        }).send();
        assert.deepEqual([delivery?.kind, delivery?.tls, broken.visits.length], ['delivered', undefined, 2], said);
      }
    },
  );

  it('with octets injected behind STARTTLS is given up, and nothing is sent', async t => {
    for (const externalTls of ['required', 'opportunistic'] as const) {
      const server = await serve(t, { tls: 'starttls', answer: on('STARTTLS', '220 go\r\n250-evil\r\n250 SMTPUTF8') });
      assert.match(
        words(await start(t, [server], { externalTls }).send()),
        /^deferred 4\.7\.0 mx1\.example unreachable .*injection/,
      );
      assert.equal(server.visits.length, 1);
      assert.doesNotMatch(server.visits[0]?.reads.join('') ?? '', /MAIL|hello/);
    }
  });
});

describe('the relay', () => {
  const relay = (server: Server, tls: 'none' | 'starttls' | 'implicit', more = {}) => ({
    dial: connect,
    ca: certificate.pair.cert,
    relay: { host: 'localhost', port: server.port, tls, ...more },
  });
  const login = { user: 'anton', password: 'geheim' };

  it('is verified: another name, or an unknown authority, gets no password and no mail', async t => {
    for (const tls of ['starttls', 'implicit'] as const) {
      const server = await serve(t, { tls, extensions: ['AUTH PLAIN'] });
      const { send, lines } = start(t, [], relay(server, tls, login));
      assert.match(words(await send()), /^deferred 4\.7\.5 localhost unreachable .*(?:altnames|localhost)/);
      assert.ok(
        lines.some(line => line.startsWith('warn the relay cannot be used')),
        lines.join(),
      );
      assert.match(
        words(await start(t, [], { ...relay(server, tls, login), ca: undefined }).send()),
        /^deferred 4\.7\.5 localhost unreachable .*self-signed/,
      );
      for (const { reads } of server.visits) assert.doesNotMatch(reads.join(''), /AUTH|MAIL|hello/);
    }
  });

  it('takes mail by STARTTLS, by implicit TLS, and in clear where that is wanted', async t => {
    await certifyAs('localhost', t);
    for (const tls of ['starttls', 'implicit', 'none'] as const) {
      const server = await serve(t, tls === 'none' ? {} : { tls });
      const [delivery] = await start(t, [], { ...relay(server, tls), externalTls: 'required' }).send();
      assert.deepEqual(
        [delivery?.kind, delivery?.remote, delivery?.tls !== undefined],
        ['delivered', 'localhost', tls !== 'none'],
      );
    }
    const without = await serve(t);
    assert.match(
      words(await start(t, [], relay(without, 'starttls')).send()),
      /^deferred 4\.7\.5 localhost unreachable the server does not offer TLS/,
    );
  });

  it('gets the login, and a wrong one is no bounce', async t => {
    await certifyAs('localhost', t);
    const verifier = await makeVerifier('geheim', systemRandom);
    for (const mechanism of ['PLAIN', 'LOGIN', 'SCRAM-SHA-256']) {
      let [first, challenge, nonce] = ['', '', ''];
      const server = await serve(t, {
        tls: 'implicit',
        extensions: [`AUTH ${mechanism}`],
        answer: line => {
          const given = Buffer.from(line.split(' ').at(-1) ?? '', 'base64').toString();
          const ask = (text: string): string => `334 ${Buffer.from(text).toString('base64')}`;
          if (line.startsWith('AUTH PLAIN')) return given === '\0anton\0geheim' ? '235 ok' : '535 5.7.8 wrong';
          if (line === 'AUTH LOGIN') return ask('Username:');
          if (given === 'anton') return ask('Password:');
          if (given === 'geheim' || line === '') return '235 ok';
          if (given === 'falsch') return '535 5.7.8 wrong';
          if (line.startsWith('AUTH SCRAM')) {
            first = given.slice(3);
            nonce = `${first.slice(first.indexOf('r=') + 2)}x`;
            challenge = `r=${nonce},s=${verifier.salt.toString('base64')},i=${verifier.iterations}`;
            return ask(challenge);
          }
          if (!given.startsWith('c=')) return undefined;
          const [unproven = '', proof = ''] = given.split(',p=');
          const message = `${first},${challenge},${unproven}`;
          return checkProof(verifier, message, Buffer.from(proof, 'base64'))
            ? ask(serverFinal(verifier, message))
            : '535 5.7.8 wrong';
        },
      });
      assert.match(words(await start(t, [], relay(server, 'implicit', login)).send()), /^delivered/, mechanism);
      const { send, lines } = start(t, [], relay(server, 'implicit', { user: 'anton', password: 'falsch' }));
      assert.match(words(await send()), /^deferred 4\.7\.8 localhost unreachable 535 5\.7\.8 wrong/, mechanism);
      assert.ok(lines.every(line => !/falsch|geheim/.test(line)) && lines.some(line => line.startsWith('warn')));
    }
  });

  it('that wants a login which we do not have is no bounce either', async t => {
    const server = await serve(t, { answer: on('MAIL', '530 5.7.0 log in first') });
    assert.match(words(await start(t, [], relay(server, 'none')).send()), /^deferred 4\.7\.0 localhost 530/);
  });

  it('that cannot be reached is unreachable', async t => {
    const { send } = start(t, [], { dial: connect, relay: { host: 'localhost', port: 1, tls: 'none' } });
    assert.match(words(await send()), /^deferred 4\.4\.1 localhost unreachable .*ECONNREFUSED/);
  });
});

describe('what a server cannot take', () => {
  const content = 'Subject: x\nContent-Type: text/plain; charset=utf-8\n\n\xc3\xa4\n';
  it('is converted where that is lawful, else goes as it is with a word in the log, and leaves no file behind', async t => {
    const server = await serve(t, { extensions: [] });
    const { send, lines } = start(t, [server]);
    assert.match(words(await send({ content, is8Bit: true })), /^delivered/);
    assert.deepEqual(lines, []);
    assert.match(words(await send({ content: `DKIM-Signature: x\n${content}`, is8Bit: true })), /^delivered/);
    assert.match(words(await send({ content: content.replace('x', '\xe4'), is8Bit: true })), /^delivered/);
    const [converted = '', signed, header] = server.visits[0]?.messages ?? [];
    assert.match(converted, /\r\n\r\n=C3=A4\r\n$/);
    assert.equal(signed, `DKIM-Signature: x\n${content}`.replaceAll('\n', '\r\n'));
    assert.match(header ?? '', /^Subject: \xe4\r\n[^]*\r\n\r\n=C3=A4\r\n$/);
    assert.match(lines.join('\n'), /goes as it is .*signed.*\n.*goes as it is .*header/);
    assert.deepEqual(
      readdirSync(folder).filter(name => name.includes('7bit')),
      [],
    );
  });

  it('for its long lines is sent again with short ones, on the same session or a new one, unless it is signed', async t => {
    const long = `${content}${'x'.repeat(1200)}\n`;
    const isLong = (visit: Visit): boolean => /[^\n]{999}\r\n/.test(visit.messages.at(-1) ?? '');
    const refusal = '552 maximum allowed line length is 998 octets, got 1200';
    const to = 'b@x.example c@x.example';
    const polite = await serve(t, { answer: on('CONTENT', refusal, isLong) });
    const first = start(t, [polite]);
    assert.match(words(await first.send({ content: long, to, is8Bit: true })), /^delivered .*\ndelivered/);
    assert.deepEqual([polite.visits.length, polite.visits[0]?.messages.length], [1, 2]);
    assert.match(polite.visits[0]?.messages[1] ?? '', /quoted-printable\r\n\r\n=C3=A4\r\nx{75}=\r\n/);
    assert.match(first.lines.join('\n'), /sent again/);
    const rude = await serve(t, {
      answer: (line, visit, socket) => {
        if (line === 'CONTENT' && isLong(visit)) setImmediate(() => socket.destroy());
        return on('CONTENT', refusal, isLong)(line, visit);
      },
    });
    const second = start(t, [rude]);
    await second.send({ content: 'Subject: warm\n\n' });
    assert.match(words(await second.send({ content: long, to })), /^delivered .*\ndelivered/);
    const signed = `DKIM-Signature: x\n${long}`;
    assert.match(words(await start(t, [polite]).send({ content: signed, to })), /^failed 5\.0\.0 .*\nfailed/);
    const stubborn = await serve(t, { answer: on('CONTENT', refusal) });
    assert.match(words(await start(t, [stubborn]).send({ content: long })), /^failed 5\.0\.0/);
    assert.equal(stubborn.visits.flatMap(({ messages }) => messages).length, 2);
  });

  it('of UTF-8 goes where SMTPUTF8 is, or goes without it where all is ASCII', async t => {
    const utf8 = { isUtf8: true, is8Bit: true };
    const able = await serve(t, { extensions: ['8BITMIME', 'SMTPUTF8'] });
    assert.match(
      words(
        await start(t, [able]).send({
          ...utf8,
          from: 'ä@x.example',
          to: 'ö@bücher.example',
          content: content.replace('x', '\xc3\xa4'),
        }),
      ),
      /^delivered/,
    );
    const unable = await serve(t, { extensions: ['8BITMIME'] });
    const { send } = start(t, [unable]);
    assert.match(words(await send({ ...utf8, to: 'b@bücher.example', content })), /^delivered/);
    assert.match(
      words(await send({ ...utf8, to: 'ö@x.example b@x.example', content })),
      /^failed 5\.6\.7 mx1\.example .*\ndelivered/,
    );
    assert.match(words(await send({ ...utf8, content: content.replace('x', '\xc3\xa4') })), /^failed 5\.6\.9/);
    assert.ok(unable.visits[0]?.lines.includes('RCPT TO:<b@xn--bcher-kva.example>'));
  });
});

it('waits as long as RFC 5321 wants', () => {
  const minutes = (count: number): number => count * 60_000;
  const { command, data, block, end } = standardTimeouts;
  assert.deepEqual([command, data, block, end], [5, 2, 3, 10].map(minutes));
});
