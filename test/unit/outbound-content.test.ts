// What goes out after DATA, and what becomes of 8-bit mail where it is not taken.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { Encoder, openContent } from '../../src/outbound/content.ts';
import { toSevenBit } from '../../src/outbound/reencode.ts';
import { inMemory } from '../../src/mail/message.ts';
import { Body } from '../../src/smtp/body.ts';
import { systemRandom } from '../../src/system/world.ts';

const folder = mkdtempSync(join(tmpdir(), 'content-'));
after(() => rmSync(folder, { recursive: true }));
const file = join(folder, 'message');

function encode(pieces: readonly string[]): string {
  const encoder = new Encoder();
  const ready = pieces.map((piece, at) => encoder.encode(Buffer.from(piece, 'latin1'), at === pieces.length - 1));
  return Buffer.concat(ready).toString('latin1');
}

async function wire(octets: Buffer, skipBytes = 0): Promise<{ text: string; sizeBytes: number }> {
  writeFileSync(file, octets);
  const texts: string[] = [];
  const sizes: number[] = [];
  const parts = [octets.subarray(0, 3), octets.subarray(3)];
  for (const message of [{ kind: 'file', path: file }, inMemory(...parts)] as const) {
    const content = openContent({ ...message, skipBytes, sizeBytes: octets.length });
    const pieces: Buffer[] = [];
    for await (const piece of content.pieces) pieces.push(piece);
    texts.push(Buffer.concat(pieces).toString('latin1'));
    sizes.push(content.sizeBytes);
  }
  assert.equal(texts[0], texts[1], 'from memory as from a file');
  return { text: texts[0] ?? '', sizeBytes: sizes[0] ?? 0 };
}

describe('content', () => {
  const samples = [
    '',
    '.',
    '..',
    '.\n',
    '\n.\n',
    'a\n.\nb\n',
    '\n.\n.\n\n',
    'a',
    'a\n',
    '\r',
    'a\r.\rb',
    '\r\n.\r\n',
    'x\r.\n',
    '\r\r\n\n.',
    'a\n.\r\nMAIL\n',
    '.\r.\r',
  ];
  it('has one end, and no bare CR or LF, cut anywhere', () => {
    for (const sample of samples) {
      const expected = encode([sample]);
      assert.equal(
        expected.search(/(?:^|\r\n)\.\r\n/),
        expected.length - (expected === '.\r\n' ? 3 : 5),
        JSON.stringify(sample),
      );
      assert.doesNotMatch(expected, /\r(?!\n)|(?<!\r)\n/);
      assert.equal(encode([...sample, '']), expected, JSON.stringify(sample));
      for (let at = 0; at <= sample.length; at += 1)
        assert.equal(encode([sample.slice(0, at), sample.slice(at)]), expected);
    }
  });

  it('is, for a server, what was in the file', async () => {
    const octets = Buffer.from(
      Array.from({ length: 3000 }, () => ['.', '\n', 'a', '\0', '\xe4', '\n.'][systemRandom.below(6)]).join(''),
      'latin1',
    );
    for (const message of [
      octets,
      Buffer.concat(Array<Buffer>(200).fill(Buffer.concat([octets, Buffer.from('\n')]))),
    ]) {
      const { text, sizeBytes } = await wire(message, 2);
      const { content, rest } = new Body(true, Infinity).receive(Buffer.from(text, 'latin1'));
      const kept = message.subarray(2);
      assert.deepEqual(rest, Buffer.alloc(0));
      assert.deepEqual(content, kept.at(-1) === 10 ? kept : Buffer.concat([kept, Buffer.from('\n')]));
      const lines = kept.filter(octet => octet === 10).length + (kept.at(-1) === 10 ? 0 : 1);
      if (kept.length < 256 * 1024) assert.equal(sizeBytes, content.length + lines);
      else assert.ok(sizeBytes <= content.length + lines);
    }
  });
});

/** What Python's mail parser, which is not ours, makes of messages: of each part its type, encoding or octets, and defects. */
function parse(paths: readonly string[]): readonly string[] {
  const program = `
import email, sys, hashlib
for path in sys.argv[1:]:
    for part in email.message_from_binary_file(open(path, 'rb')).walk():
        octets = part.get('content-transfer-encoding') if part.is_multipart() else hashlib.sha256(part.get_payload(decode=True)).hexdigest()
        print(part.get_content_type(), octets, part.defects)
    print('====')
`;
  return execFileSync('python3', ['-S', '-c', program, ...paths])
    .toString()
    .split('====\n')
    .slice(0, -1);
}

let files = 0;
async function convert(text: string, skipBytes = 0): Promise<{ result: string; paths: readonly [string, string] }> {
  const paths = [join(folder, `${(files += 1)}`), join(folder, `${files}.7bit`)] as const;
  writeFileSync(paths[0], text);
  const sizeBytes = Buffer.byteLength(text);
  const result = await toSevenBit({ kind: 'file', path: paths[0], skipBytes, sizeBytes }, paths[1]);
  const other = await toSevenBit({ ...inMemory(Buffer.from(text)), skipBytes }, undefined);
  if (typeof result === 'string') assert.equal(other, result);
  if (typeof result === 'string') return { result, paths };
  const octets = readFileSync(paths[1]);
  assert.deepEqual(other, { ...inMemory(octets), skipBytes: 0 });
  assert.deepEqual({ kind: 'file', path: paths[1], skipBytes: 0, sizeBytes: octets.length }, result);
  return { result: octets.toString('latin1'), paths };
}

const text = `Grüße, ${'äöü '.repeat(60)}\n.\n=20 \ntab\t\n${'ß'.repeat(400)}\n\nFrom here  \nend`;

/** Of several parts only those change that must. */
async function mixed(): Promise<readonly string[]> {
  const head = 'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="=_b"\nContent-Transfer-Encoding: 8bit\n\n';
  const plain = '--=_b\nContent-Type: text/plain\n\nas it = was  \n';
  const coded = '--=_b\nContent-Type: image/png\nContent-Transfer-Encoding: base64\n\niVBORw0K\n';
  const eight = `--=_b\nContent-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n${text}\n`;
  const nested = `--=_b\nContent-Type: message/rfc822\n\nSubject: inner\nContent-Type: text/plain; charset=utf-8\n\n${text}\n`;
  const message = `X: skip me\n${head}preamble\n${plain}${coded}${eight}${nested}--=_b--\nepilogue\n`;
  const { result, paths } = await convert(message, 11);
  assert.match(result, /^MIME-Version/);
  assert.match(result, /^[\n\r\t -~]*$/);
  for (const same of [plain, coded, 'preamble\n', '--=_b--\nepilogue\n']) assert.ok(result.includes(same), same);
  return paths;
}

describe('8-bit mail for a server without 8BITMIME', () => {
  it('becomes quoted-printable, and decodes to what it was', async () => {
    const paths: string[] = [];
    for (const encoding of ['Content-Transfer-Encoding: 8bit\n', '', 'Content-Transfer-Encoding: binary\n']) {
      const converted = await convert(
        `Received: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n${encoding}Subject: a\n b\n\n${text}\n`,
      );
      paths.push(...converted.paths);
      const { result } = converted;
      assert.match(result, /^[\n\r\t -~]*$/);
      assert.match(result, /^Received: x\nMIME-Version: 1.0\nContent-Type: text\/plain; charset=utf-8\n/);
      assert.match(result, /\nContent-Transfer-Encoding: quoted-printable\n/);
      assert.match(result, /\nSubject: a\n b\n/);
      assert.ok(result.split('\n').every(line => line.length <= 78));
    }
    paths.push(...(await mixed()));
    const parsed = parse(paths);
    assert.equal(parsed.length, 8);
    for (let at = 0; at < parsed.length; at += 2)
      assert.equal(parsed[at + 1], parsed[at]?.replace('/mixed 8bit ', '/mixed 7bit '));
  });

  it('without MIME says what it is now', async () => {
    const { result } = await convert(`Subject: x\n\nä\n`);
    assert.equal(
      result,
      'Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\nContent-Transfer-Encoding: quoted-printable\n\n=C3=A4\n',
    );
  });

  it('is left alone where its octets are signed, encrypted or nowhere to be encoded', async () => {
    const refused: [RegExp, string][] = [
      [/signed/, `Content-Type: multipart/signed; boundary=b\n\n--b\n\nä\n--b--\n`],
      [
        /signed/,
        `Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: multipart/encrypted; boundary=c\n\n--c\n\nä\n--c--\n--b--\n`,
      ],
      [/signed/, `Content-Type: application/pkcs7-mime\n\nä\n`],
      [/signed/, `Content-Type: application/x-pkcs7-mime\n\nä\n`],
      [/signed/, `DKIM-Signature: v=1\n\nä\n`],
      [/header/, `Subject: ä\n\nx\n`],
      [/nowhere|none may/, `Content-Type: multipart/mixed; boundary=b\n\nä\n--b\n\nx\n--b--\n`],
      [/none may/, `Content-Transfer-Encoding: base64\n\nä\n`],
      [
        /none may/,
        `Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: message/rfc822\nContent-Disposition: attachment\n\nSubject: x\n\nä\n--b--\n`,
      ],
      [/too large/, `Content-Type: multipart/mixed; boundary=b\n\n${'--b\n\nä\n'.repeat(1200)}--b--\n`],
    ];
    for (const [why, message] of refused) assert.match((await convert(message)).result, why, message.slice(0, 100));
  });
});
