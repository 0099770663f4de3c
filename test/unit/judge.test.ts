// The judging child, a real one, with the DNS of each test: results and limits. The public vectors run here
// too where VECTORS names their folder (CONTRIBUTING.md).
import assert from 'node:assert/strict';
import { createHash, generateKeyPairSync, sign } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import type { Judgement, MailFacts } from '../../src/mail/judgement.ts';
import { openJudge } from '../vectors/judging.ts';
import { runVectors } from '../vectors/run.ts';
import type { Zone } from '../vectors/zone.ts';

const { privateKey, publicKey } = generateKeyPairSync('ed25519');
const key = publicKey.export({ type: 'spki', format: 'der' }).subarray(-32).toString('base64');

/** A message of that author, signed as that domain (relaxed/relaxed, From alone). */
function signed(domain: string, from = 'a@example.com', selector = 's'): string {
  const body = 'hello\n';
  const bodyHash = createHash('sha256').update('hello\r\n').digest('base64');
  const tags = `v=1; a=ed25519-sha256; c=relaxed/relaxed; d=${domain}; s=${selector}; h=from; bh=${bodyHash}; b=`;
  const input = `from:${from}\r\ndkim-signature:${tags}`;
  const signature = sign(null, createHash('sha256').update(input).digest(), privateKey).toString('base64');
  return `DKIM-Signature: ${tags}${signature}\nFrom: ${from}\n\n${body}`;
}

const txt = (...texts: string[]) => ({ TXT: texts.map(text => [text]) });
const keyOf = (domain: string, selector = 's') => ({
  [`${selector}._domainkey.${domain}`]: txt(`v=DKIM1; k=ed25519; p=${key}`),
});
const rejects: Zone = { '_dmarc.example.com': txt('v=DMARC1; p=reject') };
const forged = 'From: a@example.com\nSubject: x\n\nhello\n';

let judge: ReturnType<typeof openJudge>;
const ask = (message: string, zone: Zone, facts: Partial<MailFacts> = {}): Promise<Judgement> =>
  judge.judge({ client: '192.0.2.1', from: 'a@example.net', ...facts }, Buffer.from(message, 'latin1'), zone);
const dmarcOf = async (...asked: Parameters<typeof ask>): Promise<string> => (await ask(...asked)).dmarc.result;

describe('the judging child', () => {
  before(() => (judge = openJudge()));
  after(() => judge.close());

  it('judges SPF, and gives the words of RFC 8601', async () => {
    const found = await ask(forged, { 'example.net': txt('v=spf1 ip4:192.0.2.1 -all') });
    assert.deepEqual(found.spf, { result: 'pass', domain: 'example.net' });
    assert.match(found.results[0] ?? '', /^spf=pass \(.*\) smtp\.mailfrom=example\.net$/);
    assert.deepEqual(found.results.slice(1), ['dkim=none (message not signed)', 'dmarc=none header.from=example.com']);
  });

  it('takes a MAIL FROM domain with an underscore, also in macros and in HELO', async () => {
    const zone = { '_a.b_c.example.net': txt('v=spf1 exists:%{d} -all') };
    const found = { ...zone, '_a.b_c.example.net': { ...zone['_a.b_c.example.net'], A: ['127.0.0.2'] } };
    const { spf, results } = await ask(forged, found, { from: 'x_y@_a.b_c.example.net' });
    assert.deepEqual(spf, { result: 'pass', domain: '_a.b_c.example.net' });
    assert.match(results[0] ?? '', /smtp\.mailfrom=_a\.b_c\.example\.net$/);
    const bounce = await ask(forged, found, { from: '', helo: '_a.b_c.example.net' });
    assert.equal(bounce.spf?.result, 'pass');
  });

  it('takes a signature that is right, and no other', async () => {
    const good = await ask(signed('example.com'), { ...keyOf('example.com'), ...rejects });
    assert.equal(good.dkim[0]?.result, 'pass');
    assert.equal(good.dmarc.result, 'pass');
    const changed = await ask(signed('example.com').replace('hello', 'hallo'), { ...keyOf('example.com'), ...rejects });
    assert.equal(changed.dkim[0]?.result, 'fail');
    assert.deepEqual([changed.dmarc.result, changed.dmarc.policy], ['fail', 'reject']);
  });

  it('walks up the tree for DMARC, and gives the policy', async () => {
    const zone: Zone = { '_dmarc.example.com': txt('v=DMARC1; p=none; sp=quarantine') };
    const { dmarc } = await ask('From: a@mail.example.com\n\n', zone);
    assert.deepEqual(dmarc, { domain: 'mail.example.com', policy: 'quarantine', result: 'fail' });
  });

  it('cannot tell DMARC while an identity of the author’s own domain cannot be verified', async () => {
    assert.equal(
      await dmarcOf(signed('example.com'), { ...rejects, 's._domainkey.example.com': 'TIMEOUT' }),
      'temperror',
    );
    const spf: Zone = { ...rejects, 'example.com': 'SERVFAIL' };
    assert.equal(await dmarcOf(forged, spf, { from: 'a@example.com' }), 'temperror');
    assert.equal(await dmarcOf(forged, { '_dmarc.example.com': 'TIMEOUT' }), 'temperror');
  });

  it('lets no domain of a forger, and no impossible name, stand in the way of DMARC', async () => {
    const slow: Zone = { ...rejects, 'example.net': 'TIMEOUT', 's._domainkey.example.net': 'TIMEOUT' };
    assert.equal(await dmarcOf(signed('example.net'), slow), 'fail');
    assert.equal(await dmarcOf(signed('example.com', 'a@example.com', 'x'.repeat(64)), rejects), 'fail');
    const greedy = txt(`v=spf1 ${Array.from({ length: 10 }, (_, i) => `mx:m${i}.example.net`).join(' ')} -all`);
    const many = Object.fromEntries(
      Array.from({ length: 10 }, (_, i) => [
        `m${i}.example.net`,
        { MX: Array.from({ length: 10 }, (_each, n) => ({ priority: n, exchange: `h${i}-${n}.example.net` })) },
      ]),
    );
    const { spf, dmarc } = await ask(forged, { ...rejects, 'example.net': greedy, ...many });
    assert.deepEqual([spf?.result, dmarc.result], ['permerror', 'fail']);
  });

  it('looks up every author where there are several', async () => {
    for (const from of ['From: a@example.org, b@example.com\n\n', 'From: a@example.org\nFrom: a@example.com\n\n']) {
      const { dmarc } = await ask(from, rejects);
      assert.deepEqual([dmarc.result, dmarc.policy, dmarc.hasSeveralAuthors], ['permerror', 'reject', true]);
    }
    const { dmarc } = await ask('From: a@example.org, b@example.net\n\n', rejects);
    assert.deepEqual([dmarc.policy, dmarc.hasSeveralAuthors], ['none', true]);
    assert.equal((await ask('From: a@example.com, b@example.com\n\n', rejects)).dmarc.result, 'fail');
  });

  it('judges no SPF where the address of the client says nothing, and DMARC by signatures alone', async () => {
    const facts = { client: undefined };
    const found = await ask(forged, { ...rejects, 'example.net': txt('v=spf1 -all') }, facts);
    assert.equal(found.spf, undefined);
    assert.equal(found.dmarc.result, 'none');
    assert.match(
      found.results.at(-1) ?? '',
      /^dmarc=none \(the address of the client says nothing, .*\) header\.from=/,
    );
    assert.equal(await dmarcOf(signed('example.com'), { ...rejects, ...keyOf('example.com') }, facts), 'pass');
  });

  it('verifies ten signatures of a thousand', async () => {
    const field = `DKIM-Signature: v=1; a=rsa-sha256; d=example.net; s=s; h=from; bh=x; b=x\n`;
    const { dkim } = await ask(`${field.repeat(700)}From: a@example.com\n\n`, rejects);
    assert.equal(dkim.length, 10);
  });

  it('does not parse a header of many lines, whose parsing is quadratic, but for its author', async () => {
    const started = performance.now();
    const header = signed('example.com').replace('From:', `X: ${'y\n '.repeat(20_000)}\nFrom:`);
    const found = await ask(header, { ...rejects, ...keyOf('example.com') });
    assert.deepEqual([found.dkim, found.dmarc.result], [[], 'fail']);
    assert.match(found.results[1] ?? '', /^dkim=permerror/);
    const authors = `From: ${'<a@b.example>,\n '.repeat(1000)}a@example.com\n\n`;
    assert.equal((await ask(authors, rejects)).dmarc.hasSeveralAuthors, true);
    assert.ok(performance.now() - started < 1000);
  });

  it('gives plain ASCII, one line, whatever strangers have written', async () => {
    const { results } = await ask(`From: "x\xfc" <a@ex\xe4mple.com>\n\n`, {}, { from: 'a"(;\r\n)@example.net' });
    for (const result of results) assert.match(result, /^[ -~]+$/);
  });
});

const { VECTORS } = process.env;
describe('the public vectors', () => {
  const skip = VECTORS === undefined && 'VECTORS names no folder';
  it('come out as they should', { skip }, async () => {
    const lines: string[] = [];
    assert.equal(await runVectors(VECTORS ?? '', line => lines.push(line)), 0, lines.join('\n'));
  });
});
