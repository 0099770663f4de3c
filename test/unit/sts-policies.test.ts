// The MTA-STS policies of other domains: how long they hold, when they are fetched, and what a web server may do to us.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, describe, it } from 'node:test';
import { StsPolicies, type StsOptions, fetchPolicy } from '../../src/outbound/sts-policies.ts';
import { systemClock } from '../../src/system/world.ts';
import { answerOf, noSuch, nullDns } from '../contract/null-dns.ts';
import { sleep } from './outbound.harness.ts';
import { makeChain } from './chain.harness.ts';

const text = (mode: string, age = 1000): string => `version: STSv1\nmode: ${mode}\nmx: mx.example\nmax_age: ${age}\n`;

/** A world in which everything can be changed. */
function world(t: TestContext) {
  const folder = mkdtempSync(join(tmpdir(), 'sts-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const state = {
    now: 1e12,
    id: 'a' as string | undefined,
    addresses: ['192.0.2.1'],
    policy: text('enforce') as string | Error,
    fetched: [] as string[],
    lines: [] as string[],
    file: join(folder, 'mta-sts.json'),
  };
  const note = (fields: object, line: string): void => void state.lines.push(`${line} ${JSON.stringify(fields)}`);
  const options: StsOptions = {
    clock: { now: () => state.now },
    log: { debug: note, info: note, warn: note, error: note },
    file: state.file,
    isSelf: name => name === '192.0.2.9',
    dns: nullDns({
      txt: async () => {
        if (state.id === undefined) throw noSuch('ESERVFAIL');
        return answerOf([`v=STSv1; id=${state.id}`]);
      },
      addresses: async () => answerOf(state.addresses),
    }),
    async fetch(host, addresses) {
      state.fetched.push(`${host} ${addresses.join()}`);
      await sleep(1);
      if (state.policy instanceof Error) throw state.policy;
      return state.policy;
    },
  };
  const open = () => {
    const policies = new StsPolicies(options);
    return async (domain = 'x.example') => (await policies.find(domain))?.mode;
  };
  return { state, open };
}

describe('a policy', () => {
  it('is fetched once, also for many at a time, and is there after a restart', async t => {
    const { state, open } = world(t);
    const find = open();
    assert.deepEqual(await Promise.all([find(), find(), find()]), ['enforce', 'enforce', 'enforce']);
    assert.deepEqual(state.fetched, ['mta-sts.x.example 192.0.2.1']);
    await sleep(50);
    assert.equal(await open()(), 'enforce');
    assert.equal(state.fetched.length, 1);
  });

  it('holds until it expires, whatever DNS and the web say meanwhile', async t => {
    const { state, open } = world(t);
    const find = open();
    await find();
    state.policy = new Error('no');
    for (const id of [undefined, 'b']) {
      state.id = id;
      assert.equal(await find(), 'enforce');
    }
    state.now += 999_999;
    assert.equal(await find(), 'enforce');
    state.now += 1;
    assert.equal(await find(), undefined);
  });

  it('is fetched anew for another id, and when half of its time is over', async t => {
    const { state, open } = world(t);
    const find = open();
    await find();
    [state.id, state.policy] = ['b', text('testing')];
    assert.equal(await find(), 'testing');
    state.policy = text('none');
    state.now += 499_999;
    assert.equal(await find(), 'testing');
    state.now += 1;
    assert.equal(await find(), 'none');
    assert.equal(state.fetched.length, 3);
  });

  it('that cannot be had is none, and is asked for again after five minutes', async t => {
    const { state, open } = world(t);
    const find = open();
    state.policy = '<html>';
    assert.equal(await find(), undefined);
    state.policy = text('enforce');
    state.now += 299_999;
    assert.equal(await find(), undefined);
    assert.equal(state.fetched.length, 1);
    state.now += 1;
    assert.equal(await find(), 'enforce');
  });

  it('is never fetched from ourselves, from loopback or link-local addresses', async t => {
    const { state, open } = world(t);
    state.addresses = ['127.0.0.1', '::1', '169.254.169.254', 'fe80::1', '192.0.2.9'];
    assert.equal(await open()(), undefined);
    assert.deepEqual(state.fetched, []);
    state.addresses.push('192.0.2.1');
    assert.equal(await open()(), 'enforce');
    assert.deepEqual(state.fetched, ['mta-sts.x.example 192.0.2.1']);
  });

  it('has no other domain in its way where the file is torn', async t => {
    const { state, open } = world(t);
    writeFileSync(state.file, '[["x.exa');
    assert.equal(await open()(), 'enforce');
    assert.match(state.lines.join(), /cannot be read/);
  });

  it('is one of a thousand', async t => {
    const { state, open } = world(t);
    const find = open();
    for (let at = 0; at <= 1000; at += 1) await find(`d${at}.example`);
    state.policy = text('none');
    assert.deepEqual([await find('d1.example'), await find('d0.example')], ['enforce', 'none']);
  });
});

describe('a web server', () => {
  const answer = async (
    t: TestContext,
    respond: (response: ServerResponse, request: IncomingMessage) => void,
    name = 'mta-sts.x.example',
  ) => {
    const { leaf, middle, root, key } = await makeChain(name, systemClock.now());
    const server = createServer({ cert: `${leaf}${middle}`, key }, (request, response) => respond(response, request));
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
    t.after(() => {
      server.closeAllConnections();
      server.close();
    });
    const { port } = server.address() as AddressInfo;
    return fetchPolicy('mta-sts.x.example', ['127.0.0.1'], { port, ca: root.toString(), timeoutMs: 1000 }).catch(
      String,
    );
  };
  const plain = { 'content-type': 'text/plain; charset=utf-8' };

  it('is asked for the well-known path, in the name of the domain', async t => {
    const told = await answer(t, (response, { url, headers }) =>
      response.writeHead(200, plain).end(`${url} ${headers.host}`),
    );
    assert.equal(told, '/.well-known/mta-sts.txt mta-sts.x.example');
  });

  it('that redirects, has another type, another name, no end or no time is not believed', async t => {
    assert.match(await answer(t, response => response.writeHead(301, { location: '/other' }).end()), /says 301/);
    assert.match(await answer(t, response => response.writeHead(404, plain).end('no')), /says 404/);
    assert.match(
      await answer(t, response => response.writeHead(200, { 'content-type': 'text/html' }).end('x')),
      /text\/html/,
    );
    assert.match(await answer(t, response => response.writeHead(200, plain).end('x'), 'www.x.example'), /altnames/);
    assert.match(await answer(t, response => response.writeHead(200, plain).end('x'.repeat(70_000))), /too large/);
    assert.match(await answer(t, response => response.writeHead(200, plain).write('x')), /abort|timeout/i);
    assert.match(await answer(t, () => undefined), /abort|timeout/i);
    const untrusted = fetchPolicy('mta-sts.x.example', ['127.0.0.1'], { port: 1 }).catch(String);
    assert.match(await untrusted, /ECONNREFUSED/);
  });
});
