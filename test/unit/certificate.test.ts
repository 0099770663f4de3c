// The certificate, seen by real TLS clients on loopback: what is served, what is refused, what a renewal changes.
import assert from 'node:assert/strict';
import { KeyObject, X509Certificate, webcrypto } from 'node:crypto';
import { mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { TestContext } from 'node:test';
import { TLSSocket, connect } from 'node:tls';
import type { ConnectionOptions } from 'node:tls';
import { Certificates, createCertificate } from '../../src/tls/certificates.ts';
import type { Pair } from '../../src/tls/certificates.ts';
import { systemClock, systemRandom } from '../../src/system/world.ts';

const folder = mkdtempSync(join(tmpdir(), 'certificate-'));
after(() => rmSync(folder, { recursive: true }));

const make = (hostname: string, now = systemClock.now()): Promise<Pair> =>
  createCertificate({ hostname, clock: { now: () => now }, random: systemRandom });

/** An RSA pair such as public authorities give out: the file holds the leaf and the intermediate; the root is apart. */
async function makeChain(): Promise<{ pair: Pair; root: string }> {
  const x509 = await import('@peculiar/x509');
  const algorithm = {
    name: 'RSASSA-PKCS1-v1_5',
    hash: 'SHA-256',
    publicExponent: new Uint8Array([1, 0, 1]),
    modulusLength: 2048,
  };
  const names = ['root', 'middle', 'rsa.example'];
  const keys = await Promise.all(names.map(() => webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])));
  const pems = await Promise.all(
    names.map(async (name, index) => {
      const [own, issuer] = [keys[index], keys[Math.max(index - 1, 0)]];
      assert.ok(own && issuer);
      const certificate = await x509.X509CertificateGenerator.create({
        subject: `CN=${name}`,
        issuer: `CN=${names[Math.max(index - 1, 0)]}`,
        publicKey: own.publicKey,
        signingKey: issuer.privateKey,
        signingAlgorithm: algorithm,
        notAfter: new Date(systemClock.now() + 86_400_000),
        extensions: [
          new x509.BasicConstraintsExtension(index < 2, undefined, true),
          new x509.SubjectAlternativeNameExtension([{ type: 'dns', value: name }]),
        ],
      });
      return certificate.toString('pem');
    }),
  );
  const [root = '', middle = '', leaf = ''] = pems;
  assert.ok(keys[2]);
  const key = KeyObject.from(keys[2].privateKey).export({ type: 'pkcs8', format: 'pem' }).toString();
  return { pair: { cert: `${leaf}\n${middle}`, key }, root };
}

let first: Pair;
let second: Pair;
let chain: { pair: Pair; root: string };
before(async () => {
  first = await make('first.example');
  second = await make('second.example');
  chain = await makeChain();
});

type Opened = { certificates: Certificates; lines: string[]; set: (pair: Pair | undefined) => void; port: number };

/** A TLS server whose sockets are wrapped one by one, as ours are; it echoes. `lines`: what was logged, as text. */
async function serve(
  t: TestContext,
  pair: Pair | undefined,
  more: {
    isConfigured?: boolean;
    folder?: string;
    hostname?: string;
    minVersion?: 'TLSv1.2' | 'TLSv1.3';
    kind?: 'smtp' | 'submission' | 'submissions';
  } = {},
): Promise<Opened> {
  const lines: string[] = [];
  const note =
    (level: string) =>
    (fields: Record<string, unknown>, message: string): void => {
      lines.push(`${level} ${message} ${JSON.stringify(fields)}`);
    };
  let current = pair;
  const certificates = await Certificates.open({
    readPair:
      more.isConfigured === false
        ? undefined
        : () => (current === undefined ? Promise.reject(new Error('no such file')) : Promise.resolve(current)),
    hostname: more.hostname ?? 'mail.example.com',
    folder: more.folder ?? mkdtempSync(join(folder, 'own-')),
    minVersion: more.minVersion ?? 'TLSv1.2',
    clock: systemClock,
    random: systemRandom,
    log: { debug: note('debug'), info: note('info'), warn: note('warn'), error: note('error') },
  });
  const server = createServer(socket => {
    const secureContext = certificates.contextFor(more.kind ?? 'submission');
    const secure = new TLSSocket(socket, { isServer: true, secureContext });
    secure.on('error', () => socket.destroy());
    secure.on('data', data => secure.write(data));
  });
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  t.after(() => server.close());
  const { port } = server.address() as AddressInfo;
  return { certificates, lines, port, set: next => (current = next) };
}

async function shake(t: TestContext, port: number, options: ConnectionOptions = {}): Promise<TLSSocket> {
  const socket = connect({ port, host: '127.0.0.1', rejectUnauthorized: false, servername: 'x.example', ...options });
  t.after(() => socket.destroy());
  await new Promise<void>((resolve, reject) => socket.once('secureConnect', resolve).once('error', reject));
  return socket;
}

async function echo(socket: TLSSocket, text: string): Promise<string> {
  const answer = new Promise<string>(resolve => socket.once('data', data => resolve(data.toString())));
  socket.write(text);
  return answer;
}

const nameOf = (socket: TLSSocket): string => String(socket.getPeerCertificate().subject.CN);

test('a client that trusts the made certificate verifies the name, and ECDSA P-256 is what it sees', async t => {
  const { port } = await serve(t, first);
  const socket = await shake(t, port, { rejectUnauthorized: true, ca: first.cert, servername: 'first.example' });
  assert.equal(socket.authorized, true);
  assert.equal(socket.getPeerCertificate().asn1Curve, 'prime256v1');
  const years = (new X509Certificate(first.cert).validToDate.getTime() - systemClock.now()) / 31_557_600_000;
  assert.ok(years > 9.9 && years < 10.1, `${years} years`);
});

test('a renewed pair serves the next handshake while an old session goes on', async t => {
  const { port, set, certificates, lines } = await serve(t, first);
  const old = await shake(t, port);
  assert.equal(nameOf(old), 'first.example');
  set(second);
  await certificates.check();
  assert.equal(nameOf(await shake(t, port)), 'second.example');
  assert.equal(await echo(old, 'still here'), 'still here');
  const context = certificates.contextFor('submission');
  await certificates.check();
  assert.equal(certificates.contextFor('submission'), context, 'the same content makes no new context');
  assert.equal(lines.filter(line => line.includes('taken up')).length, 2);
});

test('a renewed pair is found by itself within a minute', async t => {
  t.mock.timers.enable({ apis: ['setInterval'] });
  const { set, certificates } = await serve(t, first);
  const context = certificates.contextFor('submission');
  set(second);
  t.mock.timers.tick(60_000);
  await new Promise(resolve => setImmediate(resolve));
  assert.notEqual(certificates.contextFor('submission'), context);
});

test('a pair that does not fit, or is no PEM, is ignored and logged once, and a good one heals it', async t => {
  const { port, set, certificates, lines } = await serve(t, first);
  const broken = [
    { cert: second.cert, key: first.key },
    { cert: chain.pair.cert, key: first.key },
    { cert: 'half a fi', key: second.key },
    undefined,
  ];
  for (const pair of broken) {
    lines.length = 0;
    set(pair);
    await certificates.check();
    await certificates.check();
    assert.equal(lines.length, 1, lines.join('\n'));
    assert.match(lines[0] ?? '', /^warn the configured certificate cannot be used/);
    assert.doesNotMatch(lines[0] ?? '', /PRIVATE KEY/);
    assert.equal(nameOf(await shake(t, port)), 'first.example');
  }
  set(second);
  await certificates.check();
  assert.equal(nameOf(await shake(t, port)), 'second.example');
});

test('a pair that is missing at the start is stood in for by a self-signed one until it comes', async t => {
  const { port, set, certificates, lines } = await serve(t, undefined);
  assert.equal(nameOf(await shake(t, port)), 'mail.example.com');
  assert.equal(lines.filter(line => line.startsWith('warn')).length, 2, lines.join('\n'));
  set(first);
  await certificates.check();
  assert.equal(nameOf(await shake(t, port)), 'first.example');
  set(undefined);
  await certificates.check();
  assert.equal(nameOf(await shake(t, port)), 'first.example', 'a pair that went away again is still served');
});

test('the self-signed pair is kept for the owner alone, used again, and made anew when damaged, expired or for another name', async t => {
  const own = mkdtempSync(join(folder, 'kept-'));
  const open = async (hostname = 'mail.example.com'): Promise<string> => {
    await serve(t, undefined, { isConfigured: false, folder: own, hostname });
    assert.deepEqual(readdirSync(own), ['self-signed.pem']);
    assert.equal(statSync(join(own, 'self-signed.pem')).mode & 0o777, 0o600);
    return readFileSync(join(own, 'self-signed.pem'), 'utf8');
  };
  const made = await open();
  assert.equal(await open(), made);
  const other = await open('other.example.com');
  assert.notEqual(other, made);
  writeFileSync(join(own, 'self-signed.pem'), other.slice(0, 300));
  assert.notEqual(await open('other.example.com'), other);
  const expired = await make('other.example.com', systemClock.now() - 11 * 31_557_600_000);
  writeFileSync(join(own, 'self-signed.pem'), `${expired.cert}\n${expired.key}`);
  assert.ok(!(await open('other.example.com')).startsWith(expired.cert));
});

test('a name longer than a common name may be still makes a certificate for that name', async () => {
  const hostname = `${'long-label.'.repeat(8)}example.com`;
  const certificate = new X509Certificate((await make(hostname)).cert);
  assert.equal(certificate.checkHost(hostname), hostname);
  assert.equal(certificate.subject, 'CN=SlimSMTP');
});

test('TLS 1.1 is refused, TLS 1.2 and 1.3 are served; with minVersion 1.3 so is 1.2', async t => {
  const { port } = await serve(t, first);
  const old: ConnectionOptions = { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'ALL:@SECLEVEL=0' };
  await assert.rejects(shake(t, port, old), /protocol version|unsupported protocol|ALERT_PROTOCOL_VERSION/i);
  assert.equal((await shake(t, port, { maxVersion: 'TLSv1.2' })).getProtocol(), 'TLSv1.2');
  assert.equal((await shake(t, port)).getProtocol(), 'TLSv1.3');
  const strict = await serve(t, first, { minVersion: 'TLSv1.3' });
  await assert.rejects(shake(t, strict.port, { maxVersion: 'TLSv1.2' }), /protocol version/i);
});

test('a file with a chain is served whole: a client that knows only the root verifies it', async t => {
  const { port } = await serve(t, chain.pair);
  const options = { rejectUnauthorized: true, ca: chain.root, servername: 'rsa.example' };
  assert.equal((await shake(t, port, options)).authorized, true);
});

const cbc = ['AES128-SHA', 'AES256-SHA', 'AES128-SHA256', 'AES256-SHA384'];
const withoutForwardSecrecy = ['AES128-GCM-SHA256', 'AES256-SHA256', 'AES128-SHA', 'DHE-RSA-AES128-GCM-SHA256'];
const tls12 = (ciphers: string): ConnectionOptions => ({ maxVersion: 'TLSv1.2', ciphers });

for (const kind of ['submission', 'submissions'] as const)
  test(`key exchange without forward secrecy, and CBC, are refused on ${kind} although the RSA key could do them`, async t => {
    const { port } = await serve(t, chain.pair, { kind });
    for (const ciphers of [...withoutForwardSecrecy, ...cbc.map(suite => `ECDHE-RSA-${suite}`)])
      await assert.rejects(shake(t, port, tls12(ciphers)), /handshake failure/i, ciphers);
    const good = await shake(t, port, tls12('AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384'));
    assert.equal(good.getCipher().name, 'ECDHE-RSA-AES256-GCM-SHA384');
  });

test('smtp sockets take CBC too where it has forward secrecy, with RSA and ECDSA, but prefer AEAD', async t => {
  for (const [pair, kind] of [
    [chain.pair, 'RSA'],
    [first, 'ECDSA'],
  ] as const) {
    const { port } = await serve(t, pair, { kind: 'smtp' });
    for (const suite of cbc) {
      const socket = await shake(t, port, tls12(`ECDHE-${kind}-${suite}`));
      assert.equal(socket.getCipher().name, `ECDHE-${kind}-${suite}`);
    }
    for (const ciphers of withoutForwardSecrecy)
      await assert.rejects(shake(t, port, tls12(ciphers)), /handshake failure/i, ciphers);
    const both = await shake(t, port, tls12(`ECDHE-${kind}-AES128-SHA:ECDHE-${kind}-AES128-GCM-SHA256`));
    assert.equal(both.getCipher().name, `ECDHE-${kind}-AES128-GCM-SHA256`);
  }
});

test('a chain in another order is put in order, and that is told; the same for a variable with \\n in it', async t => {
  const [leaf = '', middle = ''] = chain.pair.cert.match(/-----BEGIN[^-]+-----[^-]+-----END[^-]+-----/g) ?? [];
  const options = { rejectUnauthorized: true, ca: chain.root, servername: 'rsa.example' };
  const { key } = chain.pair;
  const written = (pem: string): string => pem.replaceAll('\n', '\\n');
  for (const [cert, isTold] of [
    [`${middle}\n${leaf}\n`, true],
    [`${chain.root}\n${middle}\n${leaf}\n`, true],
    [`${leaf}\n${middle}\n${chain.root}`, false],
  ] as const)
    for (const pair of [
      { cert, key },
      { cert: written(cert), key: written(key) },
    ]) {
      const { port, lines } = await serve(t, pair);
      assert.equal((await shake(t, port, options)).authorized, true);
      assert.equal(
        lines.some(line => line.includes('in another order')),
        isTold,
      );
    }
});
