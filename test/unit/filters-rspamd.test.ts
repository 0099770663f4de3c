// Rspamd (SLIM_RSPAMD) as an HTTP server that says what a test wants: what each action means, what it is told, and that
// mail goes on whatever it does.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { type IncomingHttpHeaders, type IncomingMessage, type ServerResponse, createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, describe, it } from 'node:test';
import { type Verdict, openRspamd } from '../../src/filters/rspamd.ts';
import { inMemory } from '../../src/mail/message.ts';
import { Gatherer } from '../../src/system/gather.ts';
import { nullDns } from '../contract/null-dns.ts';
import { until } from '../contract/queue.ts';

type Asked = { readonly url: string | undefined; readonly headers: IncomingHttpHeaders; readonly body: string };
type Say = string | ((response: ServerResponse, request: IncomingMessage) => void);

async function start(t: TestContext, say: Say, deadlineMs?: number) {
  const asked: Asked[] = [];
  let met = 0;
  const server = createServer((request, response) => {
    met += 1;
    if (typeof say === 'function') return say(response, request);
    const pieces: Buffer[] = [];
    request.on('data', (piece: Buffer) => pieces.push(piece));
    request.on('end', () => {
      asked.push({ url: request.url, headers: request.headers, body: Buffer.concat(pieces).toString('latin1') });
      response.end(say);
    });
  });
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const lines: string[] = [];
  const note = (fields: Record<string, unknown>, text: string) => void lines.push(`${text} ${JSON.stringify(fields)}`);
  const rspamd = openRspamd({
    server: { host: 'rspamd', port: (server.address() as AddressInfo).port },
    hostname: 'mail.example.com',
    dns: nullDns({ systemAddresses: async () => ['127.0.0.1'] }),
    gatherer: new Gatherer({ debug: note, info: note, warn: note, error: note }),
    ...(deadlineMs !== undefined && { deadlineMs }),
  });
  const content = (text: string) => ({ message: inMemory(Buffer.from(`head\n${text}`, 'latin1')), start: 5 });
  const facts = {
    client: '192.0.2.1',
    helo: 'client.example.net',
    from: 'a@example.net',
    recipients: ['anton@example.com'],
  };
  const ask = (text = 'Subject: x\n\nx\n', more: Partial<typeof facts> = {}) =>
    rspamd({ ...facts, ...more }, content(text));
  return { rspamd, facts, ask, asked, lines, server, met: () => met };
}
/** It goes on without a line, and that is counted. */
const isUnjudged = (verdict: Verdict): boolean =>
  verdict !== undefined && 'lines' in verdict && verdict.lines === '' && verdict.isUnjudged === true;
const action = (name: string): string => JSON.stringify({ action: name, score: 7.5, required_score: 15, symbols: {} });

describe('an action', () => {
  const cases: Readonly<Record<string, string>> = {
    'no action': 'taken',
    greylist: '451 4.7.1',
    'soft reject': '451 4.7.1',
    'add header': 'junk X-Spam: Yes\n, or 550 5.7.1',
    'rewrite subject': 'junk X-Spam: Yes\n, or 550 5.7.1',
    reject: '550 5.7.1',
  };
  for (const [name, expected] of Object.entries(cases))
    it(`${name}: ${expected.trim()}`, async t => {
      const verdict = await (await start(t, action(name))).ask();
      const said = (): string => {
        if (verdict === undefined) return 'taken';
        if ('code' in verdict) return `${verdict.code} ${verdict.status}`;
        return `junk ${verdict.lines}, or ${verdict.junk?.code} ${verdict.junk?.status}`;
      };
      assert.equal(said(), expected);
      if (verdict) assert.equal(verdict.why, `Rspamd says ${name} (7.5 of 15)`);
    });
});

describe('what it is told', () => {
  it('is the message as it came, and its envelope', async t => {
    const { ask, asked } = await start(t, action('no action'));
    await ask('Subject: gr\xfc\xdfe\n\nx\n', {
      recipients: ['anton@example.com', 'b\u00fcro@example.com'],
      helo: 'd\u00e9',
    });
    const [{ url, headers, body } = assert.fail()] = asked;
    assert.equal(url, '/checkv2');
    assert.equal(body, 'Subject: gr\xfc\xdfe\n\nx\n');
    assert.deepEqual(
      [headers['ip'], headers['from'], headers['mta-name'], headers['content-length']],
      ['192.0.2.1', '<a@example.net>', 'mail.example.com', '18'],
    );
    assert.equal(Buffer.from(String(headers['helo']), 'latin1').toString(), 'd\u00e9');
    assert.equal(
      Buffer.from(String(headers['rcpt']), 'latin1').toString(),
      '<anton@example.com>, <b\u00fcro@example.com>',
    );
  });

  it('is no address that says nothing, and no more than 100 recipients', async t => {
    const { rspamd, facts, asked } = await start(t, action('no action'));
    const recipients = Array.from({ length: 1000 }, (_, at) => `u${at}@example.com`);
    await rspamd(
      { ...facts, client: undefined, from: '', recipients },
      { message: inMemory(Buffer.from('x\n')), start: 0 },
    );
    assert.equal(asked[0]?.headers['ip'], undefined);
    assert.equal(asked[0]?.headers['from'], '<>');
    assert.equal(String(asked[0]?.headers['rcpt']).split(',').length, 100);
  });

  it('is a large message, from its file', async t => {
    const folder = mkdtempSync(join(tmpdir(), 'rspamd-'));
    t.after(() => rmSync(folder, { recursive: true }));
    const path = join(folder, 'm');
    const text = `Subject: x\n\n${'y'.repeat(79)}\n`.padEnd(3_000_000, 'z');
    writeFileSync(path, `head\n${text}`);
    const { rspamd, facts, asked } = await start(t, action('reject'));
    const verdict = await rspamd(facts, { message: { kind: 'file', path, sizeBytes: text.length + 5 }, start: 5 });
    assert.ok(verdict && 'code' in verdict);
    assert.ok(asked[0]?.body === text);
  });
});

describe('mail goes on, and the log says so once a minute, where Rspamd', () => {
  const troubles: Readonly<Record<string, Say>> = {
    'hangs before it answers': () => {},
    'hangs in its answer': response => void response.write('{"action":'),
    'closes the connection': (_response, request) => void request.socket.destroy(),
    'says 500': response => void response.writeHead(500).end(action('reject')),
    'says no JSON': 'reject',
    'says null': 'null',
    'says no action': '{"score":99}',
    'says an action that is none': action('explode'),
    'says too much': `{"action":"reject","x":"${'y'.repeat(300_000)}"}`,
  };
  for (const [what, say] of Object.entries(troubles))
    it(what, async t => {
      const { ask, lines } = await start(t, say, 500);
      assert.ok(isUnjudged(await ask()) && isUnjudged(await ask()));
      assert.equal(lines.filter(line => line.startsWith('Rspamd has not judged a message: it goes on')).length, 1);
    });

  it('is not there', async t => {
    const { ask, server, lines } = await start(t, action('reject'));
    await new Promise(resolve => server.close(resolve));
    assert.ok(isUnjudged(await ask()));
    assert.match(lines.join(), /ECONNREFUSED/);
  });

  it('cannot be found', async t => {
    const lines: string[] = [];
    const note = (fields: Record<string, unknown>, text: string) =>
      void lines.push(`${text} ${JSON.stringify(fields)}`);
    const gatherer = new Gatherer({ debug: note, info: note, warn: note, error: note });
    const rspamd = openRspamd({ server: { host: 'gone', port: 1 }, hostname: 'h', dns: nullDns(), gatherer });
    const facts = { client: undefined, helo: '', from: '', recipients: [] };
    assert.ok(isUnjudged(await rspamd(facts, { message: inMemory(Buffer.from('x\n')), start: 0 })));
    assert.equal(lines.length, 1);
    void t;
  });

  it('has 20 messages and hangs: no others are with it, 500 wait, and who comes then goes on at once', async t => {
    const { ask, met } = await start(t, () => {}, 4500);
    const waiting = Array.from({ length: 520 }, () => ask());
    await until('20 are with it', () => met() === 20);
    const startedAt = performance.now();
    assert.ok(isUnjudged(await ask()));
    assert.ok(performance.now() - startedAt < 500);
    assert.equal(met(), 20);
    assert.ok((await Promise.all(waiting)).every(isUnjudged));
  });
});
