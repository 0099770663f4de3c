// The certificate from an authority: when one is due, how often is asked, what is kept, and what port 80 answers. The authority is a
// double here; the real protocol: test/integration/acme.test.ts.
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
import { order } from '../../src/acme/order.ts';
import { type RenewalOptions, Renewals, isDue, readCertified } from '../../src/acme/renewals.ts';
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

describe('renewals', () => {
  async function open(t: TestContext, ask: RenewalOptions['ask'], more: Partial<RenewalOptions> = {}) {
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

  it('keep a certificate for the key of the self-signed one, and ask for no other while it lasts', async t => {
    let asked = 0;
    const { folder, news } = await open(t, async () => {
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
    const { folder, lines, clock } = await open(t, ask);
    await until(() => asked === 3);
    await wait(50);
    assert.equal(asked, 3);
    assert.ok(lines.some(line => /^no certificate came.*too many certificates already issued/.test(line)));
    assert.ok(lines.some(line => line.startsWith('a name does not lead to port 80')));
    await open(t, ask, { folder, clock });
    await wait(50);
    assert.equal(asked, 3, 'another process asks no more either');
    clock.at += 3_600_001;
    await until(() => asked === 6);
  });

  it('refuse a certificate for another key', async t => {
    const other = await createCertificate({ hostname: 'localhost', clock: { now: () => start }, random });
    const { folder, lines, news } = await open(t, async () => other.cert);
    await until(() => lines.some(line => line.includes('the certificate is for another key')));
    assert.deepEqual([readCertified(folder), news], [undefined, []]);
    assert.ok(readFileSync(join(folder, 'key.pem'), 'utf8').includes('PRIVATE KEY'));
  });

  it('do without where the port is taken', async t => {
    const server = createServer().listen(0, '127.0.0.1');
    await new Promise(resolve => server.once('listening', resolve));
    t.after(() => server.close());
    const { port } = server.address() as AddressInfo;
    const { lines } = await open(t, undefined, { socket: { host: '127.0.0.1', port } });
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
  await assert.rejects(order({ ...asked, directoryUrl: `http://127.0.0.1:${await freePort()}/` }, challenges));
  assert.ok(Date.now() - startedAt < 15_000, 'one that is not there is given up soon');
});
