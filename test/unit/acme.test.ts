// The certificate from an authority: when one is due, how often is asked, what is kept, and what port 80 answers. The
// authority is a double here; the real protocol: test/integration/acme.test.ts.
import assert from 'node:assert/strict';
import { X509Certificate, createPrivateKey, createPublicKey } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as wait } from 'node:timers/promises';
import { type TestContext, describe, it } from 'node:test';
import { Challenges } from '../../src/acme/challenges.ts';
import { order, waitingTime } from '../../src/acme/order.ts';
import { type RenewalOptions, Renewals, isDue, readCertified } from '../../src/acme/renewals.ts';
import { AskLater, describeTrouble, keepTrouble, readTrouble } from '../../src/acme/trouble.ts';
import { systemRandom as random } from '../../src/system/world.ts';
import { createCertificate } from '../../src/tls/certificates.ts';

const day = 86_400_000;
const start = Date.UTC(2026, 10, 1);
/** Valid from the day before for ten years. */
const made = await createCertificate({ hostname: 'localhost', clock: { now: () => start }, random });

it('a certificate is due at two thirds of its time, where there is none, and where a name is missing', () => {
  const names = ['localhost'];
  assert.equal(isDue(undefined, names, start), true);
  assert.equal(isDue(made.cert, names, start), false);
  assert.equal(isDue(made.cert, [...names, 'other.example.com'], start), true);
  const twoThirds = start - day + (3653 * day * 2) / 3;
  assert.equal(isDue(made.cert, names, twoThirds - 60_000), false);
  assert.equal(isDue(made.cert, names, twoThirds + 60_000), true);
});

/** A port of loopback that is free now. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise(resolve => server.once('listening', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise(resolve => server.close(resolve));
  return port;
}

describe('the web server for challenges', () => {
  const open = async (t: TestContext): Promise<{ port: number; challenges: Challenges }> => {
    const port = await freePort();
    const challenges = await Challenges.open({ host: '127.0.0.1', port });
    t.after(() => challenges.close());
    challenges.answers.set('token-1', 'token-1.thumb');
    return { port, challenges };
  };
  const say = async (port: number, request: string): Promise<string> => {
    const socket = connect(port, '127.0.0.1');
    socket.write(request);
    return text(socket.setEncoding('latin1'));
  };
  const path = '/.well-known/acme-challenge/token-1';

  it('answers for a challenge that is under way', async t => {
    const { port } = await open(t);
    const answer = await say(port, `GET ${path} HTTP/1.1\r\nHost: mail.example.com\r\n\r\n`);
    assert.match(answer, /^HTTP\/1\.1 200 OK\r\n[^]*Content-Length: 13\r\n[^]*\r\n\r\ntoken-1\.thumb$/);
  });

  it('answers 404 for everything else', async t => {
    const { port } = await open(t);
    for (const first of [
      `GET ${path}x HTTP/1.1`,
      `POST ${path} HTTP/1.1`,
      'GET / HTTP/1.1',
      `GET ${path}/../x HTTP/1.1`,
      '\0',
    ])
      assert.match(await say(port, `${first}\r\n\r\n`), /^HTTP\/1\.1 404 /, first);
  });

  it('reads 4 KiB, and no more', async t => {
    const { port } = await open(t);
    assert.match(await say(port, `GET ${path} HTTP/1.1\r\nX: ${'x'.repeat(100_000)}`), /^HTTP\/1\.1 200 /);
  });
});

async function openRenewals(t: TestContext, ask: RenewalOptions['ask'], more: Partial<RenewalOptions> = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'acme-'));
  const selfSigned = join(folder, 'self-signed.pem');
  writeFileSync(selfSigned, `${made.cert}\n${made.key}`);
  const lines: string[] = [];
  const note = (fields: object, message: string): void => void lines.push(`${message} ${JSON.stringify(fields)}`);
  const clock = { at: start, now: () => clock.at };
  const common = { directoryUrl: 'https://acme.example', email: 'a@example.com', names: ['localhost'] };
  const news: number[] = [];
  const renewals = new Renewals({
    ...common,
    socket: { host: '127.0.0.1', port: await freePort() },
    folder,
    selfSigned,
    onNew: () => void news.push(clock.at),
    clock,
    random,
    log: { debug: note, info: note, warn: note, error: note },
    lookMs: 5,
    ...(ask && { ask }),
    ...more,
  });
  t.after(() => {
    renewals.stop();
    rmSync(folder, { recursive: true });
  });
  await renewals.start();
  return { folder, lines, clock, news };
}
const until = async (isSo: () => boolean): Promise<void> => {
  for (let tries = 0; !isSo(); tries += 1) {
    assert.ok(tries < 1000, 'it does not happen');
    await wait(5);
  }
};

describe('renewals', () => {
  it('keep a certificate for the key of the self-signed one, and ask for no other while it lasts', async t => {
    let asked = 0;
    const { folder, news } = await openRenewals(t, async () => {
      asked += 1;
      return made.cert;
    });
    await until(() => news.length === 1);
    const { cert, key } = readCertified(folder) ?? assert.fail();
    assert.equal(cert, made.cert);
    assert.ok(createPublicKey(createPrivateKey(key)).equals(new X509Certificate(made.cert).publicKey));
    await wait(50);
    assert.equal(asked, 1);
  });

  it('ask three times an hour at most, also after a restart, and say why it fails', async t => {
    let asked = 0;
    const ask = async (): Promise<string> => {
      asked += 1;
      throw new Error('too many certificates already issued');
    };
    const { folder, lines, clock } = await openRenewals(t, ask);
    await until(() => asked === 3);
    await wait(50);
    assert.equal(asked, 3);
    assert.ok(lines.some(line => /^no certificate came.*too many certificates already issued/.test(line)));
    assert.ok(lines.some(line => line.startsWith('a name does not lead to port 80')));
    await openRenewals(t, ask, { folder, clock });
    await wait(50);
    assert.equal(asked, 3, 'another process asks no more either');
    clock.at += 3_600_001;
    await until(() => asked === 6);
  });

  it('refuse a certificate for another key', async t => {
    const other = await createCertificate({ hostname: 'localhost', clock: { now: () => start }, random });
    const { folder, lines, news } = await openRenewals(t, async () => other.cert);
    await until(() => lines.some(line => line.includes('the certificate is for another key')));
    assert.deepEqual([readCertified(folder), news], [undefined, []]);
    assert.ok(readFileSync(join(folder, 'key.pem'), 'utf8').includes('PRIVATE KEY'));
  });

  it('do without where the port is taken', async t => {
    const server = createServer().listen(0, '127.0.0.1');
    await new Promise(resolve => server.once('listening', resolve));
    t.after(() => server.close());
    const { port } = server.address() as AddressInfo;
    const { lines } = await openRenewals(t, undefined, { socket: { host: '127.0.0.1', port } });
    assert.match(lines.join(), /^no certificate can be asked for: SLIM_ACME_HTTP cannot be had/);
  });
});

it('an authority that refuses is told in its own words', async t => {
  const server = createServer((_request, response) => {
    response.writeHead(403, { 'content-type': 'application/problem+json' });
    response.end(JSON.stringify({ type: 'urn:ietf:params:acme:error:unauthorized', detail: 'not you', status: 403 }));
  }).listen(0, '127.0.0.1');
  await new Promise(resolve => server.once('listening', resolve));
  t.after(() => server.close());
  const challenges = await Challenges.open({ host: '127.0.0.1', port: await freePort() });
  t.after(() => challenges.close());
  const { port } = server.address() as AddressInfo;
  const asked = { email: 'a@example.com', names: ['a.example'], accountKey: made.key, key: made.key };
  await assert.rejects(order({ ...asked, directoryUrl: `http://127.0.0.1:${port}/` }, challenges));
  const startedAt = Date.now();
  await assert.rejects(
    order({ ...asked, directoryUrl: `http://127.0.0.1:${await freePort()}/` }, challenges),
    /ECONNREFUSED/,
  );
  assert.ok(Date.now() - startedAt < 15_000, 'one that is not there is given up soon');
});

it('an authority that talks nonsense is an error at once', async t => {
  const challenges = await Challenges.open({ host: '127.0.0.1', port: await freePort() });
  t.after(() => challenges.close());
  const cases: readonly (readonly [number, string])[] = [
    [200, '<html>hello</html>'],
    [200, '{}'],
    [200, '{"newNonce":5,"newAccount":"x","newOrder":[]}'],
    [500, 'oops'],
    [301, ''],
    [429, 'no time is told'],
  ];
  for (const [status, body] of cases) {
    const server = createServer((_request, response) => {
      response.writeHead(status, {
        Location: '/',
        'Content-Type': body.startsWith('{') ? 'application/json' : 'text/html',
      });
      response.end(body);
    }).listen(0, '127.0.0.1');
    await new Promise(resolve => server.once('listening', resolve));
    const directoryUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
    const asked = { email: 'a@example.com', names: ['a.example'], accountKey: made.key, key: made.key, directoryUrl };
    await assert.rejects(order(asked, challenges), (error: unknown) => !(error instanceof AskLater), body);
    server.closeAllConnections();
    server.close();
  }
});

describe('an authority that wants to be asked later', () => {
  const problem = { type: 'urn:ietf:params:acme:error:rateLimited', detail: 'too many certificates (5)', status: 429 };
  /** An authority that says 429 to whoever asks for `path`, with that Retry-After; what it was asked for. */
  async function limited(t: TestContext, path: string, retryAfter: string) {
    const asked: string[] = [];
    const server = createServer((request, response) => {
      const { url = '', headers } = request;
      asked.push(url);
      request.resume();
      response.setHeader('Replay-Nonce', `nonce${asked.length}`);
      if (url === path) {
        response.writeHead(429, { 'Retry-After': retryAfter, 'Content-Type': 'application/problem+json' });
        response.end(JSON.stringify(problem));
        return;
      }
      const at = (name: string): string => `http://${headers.host}/${name}`;
      const directory = { newNonce: at('nonce'), newAccount: at('account'), newOrder: at('order') };
      const head = { 'Content-Type': 'application/json', Location: at('account/1') };
      response.writeHead(url === '/account' ? 201 : 200, head).end(JSON.stringify(url === '/dir' ? directory : {}));
    }).listen(0, '127.0.0.1');
    await new Promise(resolve => server.once('listening', resolve));
    t.after(() => server.close());
    return { asked, directoryUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}/dir` };
  }

  for (const path of ['/dir', '/order'])
    it(`ends the order at once: 429 for ${path}`, async t => {
      const { asked, directoryUrl } = await limited(t, path, '3600');
      const challenges = await Challenges.open({ host: '127.0.0.1', port: await freePort() });
      t.after(() => challenges.close());
      const names = ['a.example'];
      const wanted = { email: 'a@example.com', names, accountKey: made.key, key: made.key, directoryUrl };
      await assert.rejects(order(wanted, challenges), (error: unknown) => {
        assert.ok(error instanceof AskLater);
        assert.deepEqual([error.message, error.afterMs], ['too many certificates (5)', 3_600_000]);
        return true;
      });
      await wait(100);
      assert.equal(asked.filter(each => each === path).length, 1);
    });

  it('is not asked before, the old certificate serves on, and the log says it once', async t => {
    const { asked, directoryUrl } = await limited(t, '/order', '7200');
    const due = { at: start + 3650 * day, now: () => due.at };
    const folder = mkdtempSync(join(tmpdir(), 'acme-'));
    writeFileSync(join(folder, 'cert.pem'), made.cert);
    const first = await openRenewals(t, undefined, { directoryUrl, folder, clock: due });
    await until(() => asked.includes('/order'));
    const orders = (): number => asked.filter(each => each === '/order').length;
    const told = (lines: readonly string[]): readonly string[] =>
      lines.filter(line => line.startsWith('no certificate came from the authority'));
    await until(() => told(first.lines).length > 0);
    await wait(100);
    assert.equal(orders(), 1, 'it has looked many times since');
    assert.equal(told(first.lines).length, 1);
    assert.match(told(first.lines).join(), /too many certificates \(5\).*"until":"2036-10-29T02:00:00.000Z"/);
    assert.deepEqual([readFileSync(join(folder, 'cert.pem'), 'utf8'), first.news], [made.cert, []]);
    const second = await openRenewals(t, undefined, { directoryUrl, folder, clock: due });
    await wait(100);
    assert.deepEqual([orders(), told(second.lines)], [1, []], 'another process asks no sooner');
    due.at += 7_199_000;
    await wait(100);
    assert.equal(orders(), 1);
    due.at += 2000;
    await until(() => orders() > 1);
  });

  it('is not waited for where another authority is asked, or for other names', async t => {
    const folder = mkdtempSync(join(tmpdir(), 'acme-'));
    t.after(() => rmSync(folder, { recursive: true }));
    const asked = { directoryUrl: 'https://acme.example', names: ['a.example', 'b.example'] };
    assert.equal(readTrouble(folder, asked, start), undefined);
    await keepTrouble(folder, asked, new AskLater('too many', 60_000), start);
    const kept = readTrouble(folder, asked, start) ?? assert.fail();
    assert.equal(
      describeTrouble(kept),
      'the authority is not asked for a certificate before 2026-11-01T00:01:00.000Z: too many',
    );
    assert.equal(readTrouble(folder, { ...asked, directoryUrl: 'https://other.example' }, start), undefined);
    assert.equal(readTrouble(folder, { ...asked, names: ['a.example'] }, start), undefined);
    const later = readTrouble(folder, asked, start + 60_000) ?? assert.fail();
    assert.equal(describeTrouble(later), 'no certificate came from the authority: too many');
    writeFileSync(join(folder, 'trouble.json'), '{"rea');
    assert.equal(readTrouble(folder, asked, start), undefined);
  });

  it('is waited for a week at most, also where the clock was wrong', async t => {
    const folder = mkdtempSync(join(tmpdir(), 'acme-'));
    t.after(() => rmSync(folder, { recursive: true }));
    const asked = { directoryUrl: 'https://acme.example', names: ['a.example'] };
    const { until: end } = await keepTrouble(folder, asked, new AskLater('x', 365 * day), start);
    assert.equal(end, start + 7 * day);
    assert.equal(readTrouble(folder, asked, start - day)?.until, undefined);
  });

  it('says so in seconds or by a date', () => {
    const date = new Date(start + 5000).toUTCString();
    const cases: readonly (readonly [number, unknown, number | undefined])[] = [
      [429, '120', 120_000],
      [503, '120', 120_000],
      [429, date, 5000],
      [429, new Date(start - 5000).toUTCString(), undefined],
      [429, '0', undefined],
      [429, 'soon', undefined],
      [429, undefined, undefined],
      [500, '120', undefined],
      [200, '3', undefined],
    ];
    for (const [status, retryAfter, ms] of cases)
      assert.equal(
        waitingTime(status, { 'retry-after': retryAfter, date: new Date(start).toUTCString() }),
        ms,
        `${retryAfter}`,
      );
  });
});
