// Certificates that have expired, of the real server: our own is served on, with a warning, since most senders encrypt
// without a look at it; that of a relay keeps the mail waiting, and no mail bounces for it. A renewal ends both,
// without a restart of ours.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import type { AddressInfo } from 'node:net';
import { connect as connectTls, createServer as createTlsServer } from 'node:tls';
import { createCertificate } from '../../src/tls/certificates.ts';
import { systemClock, systemRandom as random } from '../../src/system/world.ts';
import { deliver, dial, eventually } from '../integration/client.ts';
import { openPlace } from './server.ts';

const register = (undo: () => Promise<void>): void => void after(undo);
/** Made so long ago that its ten years have gone by. */
const make = (hostname: string, yearsAgo: number) =>
  createCertificate({ hostname, clock: { now: () => systemClock.now() - yearsAgo * 366 * 86_400_000 }, random });

test('an expired certificate of ours is warned about and served; mail goes on; a renewed one is taken up', async () => {
  const place = await openPlace(register);
  const [cert, key] = ['cert', 'key'].map(name => join(place.folder, name)) as [string, string];
  const install = async (yearsAgo: number): Promise<string> => {
    const pair = await make('mx.example.com', yearsAgo);
    writeFileSync(cert, pair.cert);
    writeFileSync(key, pair.key);
    return pair.cert;
  };
  const expired = await install(11);
  const server = await place.start({ SLIM_TLS_CERT_FILE: cert, SLIM_TLS_KEY_FILE: key });
  /**
   * Sends a message after STARTTLS, trusting `ca` alone (unset: anyone); the reply, or what is wrong with the
   * certificate.
   */
  const send = async (ca?: string): Promise<string> => {
    const client = await dial(server.port);
    assert.match(await client.say('STARTTLS'), /^220 /);
    client.socket.removeAllListeners('data');
    const secure = connectTls({
      socket: client.socket,
      servername: 'mx.example.com',
      ca,
      rejectUnauthorized: ca !== undefined,
    });
    const commands = ['EHLO client.example.net', 'MAIL FROM:<a@example.net>', 'RCPT TO:<b@example.com>', 'DATA'];
    secure.write([...commands, 'Subject: over TLS', '', '.', ''].join('\r\n'));
    let said = '';
    const outcome = await new Promise<string>(resolve => {
      secure.on('error', (error: NodeJS.ErrnoException) => resolve(String(error.code)));
      secure.on('close', () => resolve(`closed after ${said}`));
      secure.setEncoding('latin1').on('data', text => {
        if (/^250 2\.0\.0 /m.test((said += String(text)))) resolve('250 2.0.0');
      });
    });
    secure.destroy();
    return outcome;
  };
  assert.equal(await send(), '250 2.0.0');
  assert.equal(await send(expired), 'CERT_HAS_EXPIRED');
  assert.match(await deliver(server.port, ['b@example.com'], 'Subject: in clear\r\n\r\n'), /^250 2\.0\.0 /);
  const valid = await install(0);
  server.process.kill('SIGHUP');
  await eventually('the new one is served', async () => (await send(valid)) === '250 2.0.0', 10_000);
  const warnings = (): number =>
    server
      .log()
      .split('\n')
      .filter(line => line.includes('"level":"warn"') && /expired/.test(line)).length;
  await eventually('a warning that it has expired', async () => warnings() === 1, 5000);
});

test('a relay whose certificate has expired: the mail waits, nobody gets a notice, and it goes when there is a new one', async () => {
  const place = await openPlace(register);
  const [expired, valid] = [await make('localhost', 11), await make('localhost', 0)];
  const authorities = join(place.folder, 'authorities');
  writeFileSync(authorities, `${expired.cert}\n${valid.cert}`);
  let took = 0;
  const relay = createTlsServer({ ...expired }, socket => {
    let isContent = false;
    socket.on('error', () => {}).setEncoding('latin1');
    socket.write('220 relay\r\n');
    socket.on('data', text => {
      for (const line of text.toString().split('\r\n').slice(0, -1)) {
        const isEnd = isContent && line === '.';
        if (isContent && !isEnd) continue;
        isContent = line === 'DATA';
        if (isEnd) took += 1;
        socket.write(isContent ? '354 go\r\n' : '250 ok\r\n');
      }
    });
  }).listen(0, '127.0.0.1');
  after(() => relay.close());
  await new Promise(resolve => relay.on('listening', resolve));
  const server = await place.start({
    NODE_EXTRA_CA_CERTS: authorities,
    SLIM_RELAY_HOST: 'localhost',
    SLIM_RELAY_PORT: String((relay.address() as AddressInfo).port),
    SLIM_RELAY_TLS: 'implicit',
    SLIM_TRUSTED_NETWORKS: '127.0.0.0/8',
    SLIM_RETRY: '1s',
  });
  assert.match(await deliver(server.port, ['x@elsewhere.example'], 'Subject: x\r\n\r\n'), /^250 2\.0\.0 /);
  await eventually('it was tried twice', async () => server.log().split('certificate has expired').length > 2, 20_000);
  assert.match(await deliver(server.port, ['someone@example.com'], 'Subject: other mail\r\n\r\n'), /^250 2\.0\.0 /);
  assert.equal(took, 0);
  assert.doesNotMatch(server.log(), /mail has failed/);
  relay.setSecureContext({ ...valid });
  await eventually('it has gone', async () => took === 1, 20_000);
});
