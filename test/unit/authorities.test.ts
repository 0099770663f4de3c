// NODE_EXTRA_CA_CERTS out of .env: authorities that are added while the process runs, and what is said when they cannot
// be.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { connect, createServer, getCACertificates } from 'node:tls';
import type { Log } from '../../src/system/log.ts';
import { systemClock as clock, systemRandom as random } from '../../src/system/world.ts';
import { trustAuthorities } from '../../src/tls/authorities.ts';
import { createCertificate } from '../../src/tls/certificates.ts';

const folder = mkdtempSync(join(tmpdir(), 'authorities-'));
after(() => rmSync(folder, { recursive: true }));
const lines: { readonly fields: Record<string, unknown>; readonly text: string }[] = [];
const note = (fields: Record<string, unknown>, text: string): void => void lines.push({ fields, text });
const log: Log = { debug: note, info: note, warn: note, error: note };

test('a server whose authority is added is trusted from then on; what others trust stays', async () => {
  const pair = await createCertificate({ hostname: 'relay.example', clock, random });
  const server = createServer(pair, socket => socket.end()).listen(0, '127.0.0.1');
  after(() => server.close());
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const reach = async (): Promise<string> => {
    const socket = connect({ port, host: '127.0.0.1', servername: 'relay.example' });
    const [result] = await Promise.race([
      once(socket, 'secureConnect').then(() => ['trusted']),
      once(socket, 'error').then(([error]) => [(error as NodeJS.ErrnoException).code ?? '']),
    ]).catch((error: NodeJS.ErrnoException) => [error.code ?? '']);
    socket.destroy();
    return result ?? '';
  };
  assert.notEqual(await reach(), 'trusted');
  const file = join(folder, 'ca.pem');
  writeFileSync(file, `its owner says:\n${pair.cert}`);
  trustAuthorities({ file, isNodes: false }, log);
  assert.equal(await reach(), 'trusted');
  assert.deepEqual(lines, []);
});

test('a file that cannot be used is named', () => {
  writeFileSync(join(folder, 'empty.pem'), 'nothing\n');
  writeFileSync(join(folder, 'broken.pem'), '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n');
  for (const [name, why] of [
    ['gone.pem', /ENOENT/],
    ['empty.pem', /it holds no certificate/],
    ['broken.pem', /./],
  ] as const) {
    lines.length = 0;
    trustAuthorities({ file: join(folder, name), isNodes: false }, log);
    const [line, ...more] = lines;
    assert.deepEqual(more, []);
    assert.equal(line?.text, 'NODE_EXTRA_CA_CERTS cannot be used: its authorities are not trusted');
    assert.equal(line.fields['file'], join(folder, name));
    assert.match(String(line.fields['error']), why);
  }
});

test('what Node has read itself is looked at, and not added again', () => {
  lines.length = 0;
  const before = getCACertificates('default');
  trustAuthorities({ file: join(folder, 'ca.pem'), isNodes: true }, log);
  assert.equal(lines.length, 0);
  assert.deepEqual(getCACertificates('default'), before);
  trustAuthorities({ file: join(folder, 'gone.pem'), isNodes: true }, log);
  assert.match(String(lines[0]?.fields['error']), /ENOENT/);
});
