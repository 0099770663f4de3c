// A message signed by the server is verified by a second implementation of RFC 6376, which is written here as the RFC
// says it: on the octets that went out, whole, with regular expressions. (Others verify it too:
// test/integration/dkim.test.ts.)
import assert from 'node:assert/strict';
import { type KeyObject, createHash, generateKeyPairSync, verify } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { RelaxedBody, relaxedField } from '../../src/dkim/canonical.ts';
import { fieldsToSign, type SigningKey } from '../../src/dkim/signature.ts';
import { createSigner } from '../../src/dkim/signer.ts';
import { fieldsOf } from '../../src/mail/header.ts';
import { type Message, inMemory } from '../../src/mail/message.ts';
import { CannotTell } from '../../src/mail/ports.ts';
import { openContent } from '../../src/outbound/content.ts';
import type { Log } from '../../src/system/log.ts';
import { processorMs } from './processor.harness.ts';

const folder = mkdtempSync(join(tmpdir(), 'dkim-'));
after(() => rmSync(folder, { recursive: true }));
const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });
const ed25519 = generateKeyPairSync('ed25519');
const publicKeys: Readonly<Record<string, KeyObject>> = { r1: rsa.publicKey, e1: ed25519.publicKey };
const signingKeys = (domain: string): readonly SigningKey[] => [
  { domain, selector: 'r1', algorithm: 'rsa', key: rsa.privateKey },
  { domain, selector: 'e1', algorithm: 'ed25519', key: ed25519.privateKey },
];
const lines: string[] = [];
const note = (fields: Record<string, unknown>, text: string): void =>
  void lines.push(`${text}: ${fields['reason'] ?? ''}`);
const log: Log = { debug: note, info: note, warn: note, error: note };
const hosted = new Set(['example.com']);
type Options = Partial<Parameters<typeof createSigner>[0]>;
const signerWith = (more: Options = {}) =>
  createSigner({
    keys: { signing: async domain => signingKeys(domain) },
    domains: { hosts: async domain => hosted.has(domain) },
    clock: { now: () => 1_700_000_000_000 },
    log,
    ...more,
  });
const entry = (id: string) =>
  ({
    id,
    from: '',
    isUtf8: false,
    is8Bit: false,
    receivedAt: 0,
    returnPathBytes: 0,
    isOurs: true,
    recipients: [],
  }) as const;

let count = 0;
/** What goes out for a content with LF line ends, as the receiver has it. */
async function sent(content: Buffer, kind: Message['kind'] = 'memory'): Promise<Buffer> {
  const path = join(folder, `m${(count += 1)}`);
  if (kind === 'file') writeFileSync(path, content);
  const message: Message = kind === 'file' ? { kind, path, sizeBytes: content.length } : inMemory(...piecesOf(content));
  const stored = { ...message, returnPathBytes: 0 };
  const front = await signerWith().sign(stored, entry(`m${count}`), 'as it is');
  const pieces: Buffer[] = [];
  for await (const piece of openContent(stored, front).pieces) pieces.push(piece);
  const wire = Buffer.concat(pieces).toString('latin1');
  assert.ok(wire.endsWith('\r\n.\r\n') || wire === '.\r\n');
  return Buffer.from(wire.slice(0, -3).replaceAll(/^\./gm, ''), 'latin1');
}
const piecesOf = (content: Buffer): Buffer[] =>
  Array.from({ length: Math.ceil(content.length / 5000) }, (_, at) =>
    Buffer.from(content.subarray(at * 5000, at * 5000 + 5000)),
  );

/** The verdict on each signature: RFC 6376 §3.4.2, §3.4.4, §3.7, RFC 8463 §3. */
function verifyAll(message: Buffer): readonly string[] {
  const text = message.toString('latin1');
  const end = text.indexOf('\r\n\r\n');
  const fields = text.slice(0, end).split(/\r\n(?![ \t])/);
  const bodyLines = text
    .slice(end + 4)
    .split('\r\n')
    .map(line => line.replaceAll(/[ \t]+/g, ' ').replace(/ $/, ''));
  while (bodyLines.at(-1) === '') bodyLines.pop();
  const body = bodyLines.join('\r\n');
  const bodyHash = createHash('sha256')
    .update(body === '' ? '' : `${body}\r\n`, 'latin1')
    .digest('base64');
  const relax = (field: string): string => {
    const [name = '', ...value] = field.split(':');
    return `${name.trim().toLowerCase()}:${value
      .join(':')
      .replaceAll('\r\n', '')
      .replaceAll(/[ \t]+/g, ' ')
      .replaceAll(/^ | $/g, '')}`;
  };
  return fields
    .filter(field => /^dkim-signature:/i.test(field))
    .map(field => {
      const tags = new Map(
        field
          .slice(15)
          .replaceAll(/\s+/g, '')
          .split(';')
          .map(tag => [tag.split('=')[0] ?? '', tag.slice(tag.indexOf('=') + 1)]),
      );
      if (tags.get('bh') !== bodyHash) return `${tags.get('s')} body`;
      const left = [...fields];
      const covered = (tags.get('h') ?? '').split(':').flatMap(name => {
        const at = left.findLastIndex(each => each.split(':', 1).join().trim().toLowerCase() === name);
        return at < 0 ? [] : left.splice(at, 1);
      });
      const own = relax(field.replace(/(\bb=)[^;]*$/s, '$1'));
      const data = Buffer.from(`${covered.map(each => `${relax(each)}\r\n`).join('')}${own}`, 'latin1');
      const isRsa = tags.get('a') === 'rsa-sha256';
      const key = publicKeys[tags.get('s') ?? ''] as KeyObject;
      const signature = Buffer.from(tags.get('b') ?? '', 'base64');
      const digest = createHash('sha256').update(data).digest();
      const isGood = verify(isRsa ? 'sha256' : null, isRsa ? data : digest, key, signature);
      return `${tags.get('s')} ${tags.get('d')} ${isGood ? 'pass' : 'fail'}`;
    });
}
const passes = ['r1 example.com pass', 'e1 example.com pass'];
const header = 'From: Anton <anton@example.com>\nTo: b@example.net\nSubject: x\n';

describe('a signed message is verified', () => {
  const bodies: Readonly<Record<string, string>> = {
    'that is plain': 'hello\n',
    'without a body': '',
    'with a body of empty lines': '\n\n \n\t\n',
    'with empty lines in front, within and behind': '\n\n a \n\n\n\tb\t\tc  \n\n\n',
    'with dots at the start of lines': '.\n..\n.a\n',
    'with 8-bit octets, among them 0xA0 and 0x85': 'gr\xfc\xdfe \xa0 \x85\n\xa0\n',
    'whose last line has no end': 'a\n b ',
    'with long lines': `${'x '.repeat(3000)}\n`.repeat(20),
    'with a bare CR, which goes out as a line end': 'a\rb \r\r\nc\r',
    'of blanks alone': '     ',
  };
  for (const [what, body] of Object.entries(bodies))
    for (const kind of ['memory', 'file'] as const)
      it(`${what}, ${kind}`, async () => {
        assert.deepEqual(verifyAll(await sent(Buffer.from(`${header}\n${body}`, 'latin1'), kind)), passes);
      });

  it('without an empty line behind its header', async () => {
    const message = await sent(Buffer.from(header));
    assert.deepEqual(verifyAll(Buffer.concat([message, Buffer.from('\r\n')])), passes);
  });

  it('of 10 MB, with blanks and empty lines across the pieces in which it is read', async () => {
    const body = Buffer.alloc(10_000_000, '\n \n\tword  word\n\n'.repeat(777));
    body.fill('\n', 1_000_000, 2_000_000); // more line ends in a row than a piece has octets
    assert.deepEqual(verifyAll(await sent(Buffer.concat([Buffer.from(`${header}\n`), body]), 'file')), passes);
  });

  it('with folded, repeated, odd and non-ASCII fields', async () => {
    const odd = `From :  "A\xfc"\n\t<anton@example.com>\nSUBJECT:\n  a \n  b\t\nCc:\nto: b@example.net\nTo: c@example.net\nList-Id: x\nContent-Weird: \xa0y\xa0\nno field\nX-Y: z\n`;
    const message = await sent(Buffer.from(`${odd}\nhello\n`, 'latin1'));
    assert.deepEqual(verifyAll(message), passes);
  });

  it('and not, once a word of it was changed, or a field was added that a reader would show', async () => {
    const message = (await sent(Buffer.from(`${header}\nhello\n`))).toString('latin1');
    const verdict = (changed: string): string => verifyAll(Buffer.from(changed, 'latin1')).join();
    assert.match(verdict(message.replace('hello', 'hallo')), /^r1 body,e1 body$/);
    assert.match(verdict(message.replace('Subject: x', 'Subject: y')), /fail,.*fail$/);
    for (const added of ['From: b@example.net', 'Reply-To: b@example.net', 'Content-Type: text/html', 'Cc: x@y'])
      for (const changed of [`${added}\r\n${message}`, message.replace('\r\n\r\n', `\r\n${added}\r\n\r\n`)])
        assert.match(verdict(changed), /fail,.*fail$/, added);
    assert.match(verdict(message.replace('hello', ' hello')), /body/);
    // What may happen on the way.
    const onTheWay = `Received: x\r\n${message.replace('Subject: x', 'subject:   x ').replace('hello', 'hello \t')}\r\n`;
    assert.equal(verdict(onTheWay), passes.join());
  });
});

describe('canonicalisation', () => {
  it('gives the same digest in pieces of any size', () => {
    const body = Buffer.from(' a \r\n\n\n b\t c \n\r\r\n.\n\n \n', 'latin1');
    const digest = (size: number): string => {
      const relaxed = new RelaxedBody();
      for (let at = 0; at < body.length; at += size) relaxed.update(body.subarray(at, at + size));
      return relaxed.digest();
    };
    for (let size = 1; size < body.length; size += 1) assert.equal(digest(size), digest(body.length));
  });

  it('is linear for fields of blanks and folds', () => {
    const start = processorMs();
    relaxedField(`Subject: ${' \n\t'.repeat(100_000)}x${' '.repeat(200_000)}`);
    assert.ok(processorMs() - start < 500);
  });

  it('keeps octets that only look like blanks', () => {
    assert.equal(relaxedField('Subject : \xa0 x \xa0\t'), 'subject:\xa0 x \xa0');
    assert.equal(relaxedField('Subject:'), 'subject:');
    assert.equal(relaxedField('Subject: '), 'subject:');
  });
});

describe('the fields that are signed', () => {
  const names = (text: string): string =>
    fieldsToSign(fieldsOf(text))
      .map(({ name, field }) => (field ? name : `-${name}`))
      .join(' ');

  it('are what a reader sees, once more than they are there, and those of lists; never what changes on the way', () => {
    assert.equal(
      names('Received: x\nReturn-Path: y\nBcc: z\nFrom: a\nX-A: b\nList-Unsubscribe: c\nContent-Language: d'),
      'from -from -to -cc -subject -date -message-id -reply-to -mime-version -content-type -content-transfer-encoding ' +
        '-content-disposition list-unsubscribe content-language -content-language',
    );
  });
});

describe('who signs', () => {
  const signed = async (from: string, more: Options = {}): Promise<string> => {
    lines.length = 0;
    const stored = { ...inMemory(Buffer.from(`${from}\nSubject: x\n\nhello\n`)), returnPathBytes: 0 };
    const front = await signerWith(more).sign(stored, entry('m'), '');
    return /\bd=([^;]+)/.exec(front)?.[1] ?? lines.join();
  };

  it('the domain of From, or the nearest above it that is hosted', async () => {
    assert.equal(await signed('From: a@EXAMPLE.com'), 'example.com');
    assert.equal(await signed('From: MAILER-DAEMON@mail.example.com'), 'example.com');
    assert.equal(await signed('From: a@deep.mail.example.com, b@example.net'), 'example.com');
  });

  it('nobody where it cannot be said who is the author, and the log says why', async () => {
    const unsigned = 'a message of ours leaves unsigned';
    assert.equal(await signed('To: a@example.com'), `${unsigned}: it has no From`);
    assert.equal(await signed('From: a@example.com\nFrom: b@example.com'), `${unsigned}: it has several From fields`);
    assert.equal(await signed('From: somebody'), `${unsigned}: its From cannot be read`);
    assert.equal(await signed('From: a@example.net'), `${unsigned}: example.net is not hosted here`);
    assert.equal(await signed('From: a@badexample.com'), `${unsigned}: badexample.com is not hosted here`);
    assert.equal(
      await signed(`From: a@example.com\n${'To: b\n'.repeat(501)}`),
      `${unsigned}: its header has too many fields`,
    );
    assert.equal(await signed(`From: a@example.com\nX: ${'x'.repeat(600_000)}`), `${unsigned}: its header has no end`);
  });

  it('nobody for mail that is not ours, which is not even read', async () => {
    const { isOurs, ...theirs } = entry('m');
    const gone = { kind: 'file', path: '/nonexistent', sizeBytes: 1, returnPathBytes: 0 } as const;
    assert.equal(await signerWith().sign(gone, theirs, ''), '');
    assert.ok(isOurs);
  });

  it('mail waits where a key or the domains cannot be read now, and is tried anew', async () => {
    let isBroken = true;
    const keys = {
      signing: async (domain: string) => {
        if (isBroken) throw new CannotTell('the key of example.com cannot be read', { status: '4.7.5' });
        return signingKeys(domain);
      },
    };
    const stored = { ...inMemory(Buffer.from(`${header}\nhello\n`)), returnPathBytes: 0 };
    const signer = signerWith({ keys });
    await assert.rejects(signer.sign(stored, entry('m'), ''), { name: 'CannotTell', status: '4.7.5' });
    isBroken = false;
    assert.match(await signer.sign(stored, entry('m'), ''), /^DKIM-Signature: /);
    const domains = { hosts: () => Promise.reject(new CannotTell('the database has not answered')) };
    await assert.rejects(signerWith({ domains }).sign(stored, entry('m'), ''), { name: 'CannotTell' });
  });

  it('a message is read and signed once for each form', async () => {
    let times = 0;
    const keys = { signing: async (domain: string) => ((times += 1), signingKeys(domain)) };
    const signer = signerWith({ keys });
    const stored = { ...inMemory(Buffer.from(`${header}\nhello\n`)), returnPathBytes: 0 };
    const both = await Promise.all([signer.sign(stored, entry('m'), 'a'), signer.sign(stored, entry('m'), 'a')]);
    assert.equal(both[0], both[1]);
    assert.equal(times, 1);
    await signer.sign(stored, entry('m'), 'b');
    assert.equal(times, 2);
  });

  it('no line of a signature is longer than 78 characters', async () => {
    const stored = { ...inMemory(Buffer.from(`${header}\nhello\n`)), returnPathBytes: 0 };
    for (const line of (await signerWith().sign(stored, entry('m'), '')).split('\n'))
      assert.ok(line.length <= 78, line);
  });
});
