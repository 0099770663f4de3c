// Questions to a name server of the test, on loopback: what its answers mean, and what it costs when it says nothing.
import assert from 'node:assert/strict';
import { createSocket } from 'node:dgram';
import { mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, describe, it } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { findTargets } from '../../src/outbound/mx.ts';
import { openDns } from '../../src/system/dns.ts';
import { systemRandom as random } from '../../src/system/world.ts';

const types: Readonly<Record<number, string>> = { 1: 'A', 15: 'MX', 16: 'TXT', 28: 'AAAA' };
type Server = { readonly address: string; readonly asked: string[]; readonly ports: Set<number> };

/** By the first label of the name: `silent` gets no answer, `alias` leads to a name that has nothing, `loop` to itself, `none` is not there. */
async function serve(t: TestContext): Promise<Server> {
  const asked: string[] = [];
  const ports = new Set<number>();
  const socket = createSocket({ type: 'udp4', recvBufferSize: 4_000_000 });
  socket.on('message', (question, { port, address }) => {
    let at = 12;
    const labels: string[] = [];
    for (let length = 0; (length = question[at] ?? 0) > 0; at += 1 + length)
      labels.push(question.toString('latin1', at + 1, at + 1 + length));
    const type = types[question.readUInt16BE(at + 1)] ?? '?';
    asked.push(`${labels.join('.')} ${type}`);
    ports.add(port);
    const [first = ''] = labels;
    if (first === 'silent') return;
    const answer = Buffer.from(question.subarray(0, at + 5));
    answer.writeUInt16BE(first === 'none' ? 0x8183 : 0x8180, 2);
    answer.writeUInt16BE(0, 8);
    answer.writeUInt16BE(0, 10);
    const record = (kind: number, data: Buffer): Buffer =>
      Buffer.concat([Buffer.from([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, data.length]), data]);
    const records: Buffer[] = [];
    // A pointer to the name in the question, or to what follows its first label.
    if (first === 'loop') records.push(record(5, Buffer.from([0xc0, 12])));
    if (first === 'alias') records.push(record(5, Buffer.from(`\x05empty\xc0${String.fromCharCode(18)}`, 'latin1')));
    if (first === 'host' && type === 'TXT') records.push(record(16, Buffer.from('\x09one text,\x0c two strings')));
    if (first === 'host' && type === 'A') records.push(record(1, Buffer.from([192, 0, 2, 1])));
    if (first === 'text' && type === 'TXT') records.push(record(16, Buffer.from('\x03v=1\x02 x')));
    answer.writeUInt16BE(records.length, 6);
    socket.send(Buffer.concat([answer, ...records]), port, address);
  });
  await new Promise<void>(resolve => socket.bind(0, '127.0.0.1', resolve));
  t.after(() => socket.close());
  return { address: `127.0.0.1:${socket.address().port}`, asked, ports };
}

const code = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => 'an answer',
    (error: NodeJS.ErrnoException) => error.code,
  );
const descriptors = (): number => readdirSync('/proc/self/fd').length;

describe('answers of the DNS', () => {
  it('are addresses, or an error that says which kind of no it is', async t => {
    const { address } = await serve(t);
    const dns = openDns({ servers: [address] });
    assert.deepEqual((await dns.addresses('host.example')).records, ['192.0.2.1']);
    assert.equal(await code(dns.addresses('none.example')), 'ENOTFOUND');
    assert.equal(await code(dns.addresses('empty.example')), 'ENODATA');
    assert.deepEqual(await dns.records('text.example', 'TXT'), [['v=1', ' x']]);
    assert.equal(await code(dns.records('none.example', 'TXT')), 'ENOTFOUND');
    assert.equal(await code(dns.mx('alias.example')), 'ENODATA');
    assert.deepEqual((await dns.txt('host.example')).records, ['one text, two strings']);
    assert.equal(await code(dns.txt('empty.example')), 'ENODATA');
  });

  it('with an alias that leads to a name without addresses are a no (5.4.4), and not an outage', async t => {
    const { address } = await serve(t);
    const dns = openDns({ servers: [address] });
    assert.equal(await code(dns.addresses('alias.example')), 'ENODATA');
    const found = await findTargets('alias.example', { dns, random, isSelf: () => false }).next();
    assert.deepEqual(found.value, {
      kind: 'failed',
      status: '5.4.4',
      text: 'no mail server of alias.example has an address',
    });
  });

  it('with aliases that go round in a circle tell nothing: that mail waits', async t => {
    const { address, asked } = await serve(t);
    const dns = openDns({ servers: [address] });
    assert.equal(await code(dns.addresses('loop.example')), 'ELOOP');
    assert.ok(asked.length < 40);
    const found = await findTargets('loop.example', { dns, random, isSelf: () => false }).next();
    assert.match(JSON.stringify(found.value), /deferred.*4\.4\.3/);
  });

  it('come from the name servers that the configuration names now', async t => {
    const folder = mkdtempSync(join(tmpdir(), 'dns-'));
    t.after(() => rmSync(folder, { recursive: true }));
    const configuration = join(folder, 'resolv.conf');
    const [one, other] = [await serve(t), await serve(t)];
    // Node's Resolver reads /etc/resolv.conf and no other file: which server is asked is told by the list, which is read with it.
    const servers = [one.address];
    writeFileSync(configuration, 'nameserver 192.0.2.1\n');
    const dns = openDns({ configuration, servers });
    await dns.addresses('host.example');
    servers[0] = other.address;
    await dns.addresses('host.example');
    assert.equal(other.asked.length, 0);
    utimesSync(configuration, 1, 1);
    await dns.addresses('host.example');
    assert.equal(other.asked.length, 2);
  });
});

describe('a name server that says nothing', () => {
  it('costs few descriptors, and holds up no other question for long', async t => {
    const { address, ports } = await serve(t);
    const patience = { timeout: 300, tries: 2, maxTimeout: 300 };
    const dns = openDns({ servers: [address], patience, deadlineMs: 4000 });
    const before = descriptors();
    // As many as there can be attempts, each with a host of its own.
    const silent = Array.from({ length: 1000 }, (_, at) => code(dns.addresses(`silent.x${at}.example`)));
    await pause(20);
    const startedAt = performance.now();
    assert.deepEqual((await dns.addresses('host.example')).records, ['192.0.2.1']);
    assert.ok(performance.now() - startedAt < 3500, `${performance.now() - startedAt} ms`);
    assert.ok(descriptors() - before < 100, `${descriptors() - before} descriptors`);
    assert.ok(ports.size >= 20, 'the port changes, so that nobody can guess it');
    assert.deepEqual(new Set(await Promise.all(silent)), new Set(['ETIMEOUT']));
    assert.ok(performance.now() - startedAt < 4500, 'no question takes longer than the deadline');
    assert.ok(descriptors() - before < 100);
  });

  it('is asked for a host of the hosts file once at a time', async () => {
    const dns = openDns();
    const [one, other] = [dns.systemAddresses('localhost'), dns.systemAddresses('localhost')];
    assert.equal(one, other);
    assert.ok((await one).every(address => ['127.0.0.1', '::1'].includes(address)));
  });
});
