// ARC: what we forward is sealed so that the judging child finds the chain right; a chain that has failed gets no
// further set; and what is ours to sign is never sealed.
import assert from 'node:assert/strict';
import { type KeyObject, generateKeyPairSync } from 'node:crypto';
import { after, describe, it } from 'node:test';
import { readOutgoing } from '../../src/dkim/outgoing.ts';
import { recordOf } from '../../src/dkim/record.ts';
import { arcSet } from '../../src/dkim/seal.ts';
import { createSealer } from '../../src/dkim/sealer.ts';
import { inMemory } from '../../src/mail/message.ts';
import { queueEntry } from '../contract/queue.ts';
import { openJudge } from '../vectors/judging.ts';
import { processorMs } from './processor.harness.ts';

const { privateKey: key } = generateKeyPairSync('rsa', { modulusLength: 2048 });
const by = { domain: 'example.com', selector: 's1', algorithm: 'rsa', key } as const;
const zone = { 's1._domainkey.example.com': { TXT: [[recordOf('rsa', key as KeyObject)]] } };
const now = Date.UTC(2026, 10, 29);
const message = 'From: anna@example.net\nSubject: x\nDKIM-Signature: v=1; d=example.net\n\nhello\n\n';
const results = (text: string): string => `Authentication-Results: mx.example.com;\n\t${text}\n`;
const stored = (content: string) => ({ ...inMemory(Buffer.from(content, 'latin1')), returnPathBytes: 0 });

async function seal(content: string): Promise<string> {
  const read = readOutgoing(stored(content));
  if ('reason' in read) return assert.fail(read.reason);
  const what = { fields: read.fields, bodyDigest: await read.digest(), now, authservId: 'MX.example.com' };
  return arcSet(what, by);
}

describe('an ARC set', () => {
  const judge = openJudge();
  after(() => judge.close());
  const arcOf = async (content: string): Promise<string> =>
    (await judge.judge({}, Buffer.from(content, 'latin1'), zone)).arc.result;

  it('makes a chain that holds over several hops, and not over a change of the message or of what was found', async () => {
    const first = results('spf=pass smtp.mailfrom=example.net; dkim=pass header.d=example.net') + message;
    const once = (await seal(first)) + first;
    assert.match(once, /^ARC-Seal: i=1; cv=none;/);
    assert.match(
      once,
      /^ARC-Authentication-Results: i=1; MX\.example\.com;\n\tspf=pass .*; dkim=pass header\.d=example\.net$/m,
    );
    assert.match(once, /h=[^;]*dkim-signature/s);
    assert.equal(await arcOf(once), 'pass');
    const again =
      results('dkim=fail; arc=pass header.oldest-pass=0') + once.replace(/^Authentication-Results:/m, 'X-Old:');
    const twice = (await seal(again)) + again;
    assert.match(twice, /^ARC-Seal: i=2; cv=pass;/);
    assert.equal(await arcOf(twice), 'pass');
    for (const changed of [
      twice.replace('hello', 'hallo'),
      twice.replace('Subject: x', 'Subject: y'),
      twice.replace('From: anna', 'From: otto'),
      twice.replace('i=1; MX.example.com;\n\tspf=pass', 'i=1; MX.example.com;\n\tspf=fail'),
    ]) {
      assert.notEqual(changed, twice);
      assert.equal(await arcOf(changed), 'fail');
    }
  });

  it('says that a chain has failed, once', async () => {
    const broken = results('arc=pass') + message;
    const once = (await seal(broken)) + broken;
    const failed =
      results('arc=fail (signature)') + once.replace(/^Authentication-Results:/m, 'X-Old:').replace('hello', 'hallo');
    const set = await seal(failed);
    assert.match(set, /^ARC-Seal: i=2; cv=fail;/);
    assert.equal(await seal(set + failed), '');
  });

  it('is made in linear time, whatever strangers have put into the header', async () => {
    const long = 400_000;
    const evil = [
      `Authentication-Results: ${'a'.repeat(long)}`,
      `Authentication-Results:${' '.repeat(long)}x`,
      `ARC-Seal:${' '.repeat(long)}x`,
      `ARC-Seal: i=1;${' ;'.repeat(long / 2)}`,
      `ARC-Seal: ${'i='.repeat(long / 2)}`,
      `X: y${'\nARC-Seal: i=1'.repeat(long / 16)}`,
    ];
    for (const field of evil) {
      const start = processorMs();
      await seal(`${results('spf=pass')}${field}\n${message}`);
      assert.ok(processorMs() - start < 1000, field.slice(0, 40));
    }
  });

  it('is none where nothing was found out, where a chain was not verified, and where its sets make none', async () => {
    assert.equal(await seal(message), '');
    assert.equal(await seal(`Authentication-Results: other.example; spf=pass\n${message}`), '');
    const first = results('spf=pass') + message;
    const once = (await seal(first)) + first;
    assert.equal(await seal(once), '', 'our results say nothing of a chain');
    const temporary = results('arc=temperror') + once.replace(/^Authentication-Results:/m, 'X-Old:');
    assert.equal(await seal(temporary), '');
    const verified = temporary.replace('temperror', 'pass');
    for (const field of ['ARC-Seal', 'ARC-Message-Signature', 'ARC-Authentication-Results'])
      assert.equal(await seal(verified.replace(`\n${field}: i=1`, `\n${field}: i=3`)), '', field);
    assert.notEqual(await seal(verified), '');
  });
});

describe('a sealer', () => {
  const lines: string[] = [];
  const note = (fields: object, text: string): void => void lines.push(`${text} ${JSON.stringify(fields)}`);
  const log = { debug: note, info: note, warn: note, error: note };
  const open = (keys: Parameters<typeof createSealer>[0]['keys']) =>
    createSealer({ keys, domain: 'example.com', hostname: 'mx.example.com', clock: { now: () => now }, log });
  const content = stored(results('spf=pass') + message);
  const head = 'Delivered-To: a@example.com\n';

  it('seals forwards of what came from outside, and nothing else', async () => {
    const sealer = open({ signing: async () => [by] });
    assert.equal(await sealer.sign(content, queueEntry('a'), 'as it is'), '');
    assert.equal(await sealer.sign(content, queueEntry('b', { head, isOurs: true }), 'as it is'), '');
    assert.match(await sealer.sign(content, queueEntry('c', { head }), 'as it is'), /^ARC-Seal/);
  });

  it('seals a message once for each form', async () => {
    let asked = 0;
    const sealer = open({ signing: async () => ((asked += 1), [by]) });
    const once = await sealer.sign(content, queueEntry('a', { head }), 'as it is');
    assert.equal(await sealer.sign(content, queueEntry('a', { head }), 'as it is'), once);
    assert.match(await sealer.sign(content, queueEntry('a', { head }), '7bit'), /^ARC-Seal/);
    assert.equal(asked, 2);
  });

  it('lets a forward go without a seal where the key cannot be read, and says so', async () => {
    const sealer = open({ signing: () => Promise.reject(new Error('the file is gone')) });
    assert.equal(await sealer.sign(content, queueEntry('a', { head }), 'as it is'), '');
    assert.match(lines.join(), /a forward leaves without a seal \(ARC\).*the file is gone/);
  });
});
