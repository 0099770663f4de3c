// What becomes of a message at a hop that does not take 8-bit content or long lines: what it decodes to, as Python's
// parser sees it, what stays as it is, and what that costs.
import assert from 'node:assert/strict';
import { isAscii as isPlain } from 'node:buffer';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import type { Delivery } from '../../src/mail/message.ts';
import { inMemory } from '../../src/mail/message.ts';
import { adapt, canShortenLines, refusesLongLines } from '../../src/outbound/adapt.ts';
import { reencode } from '../../src/outbound/reencode.ts';
import { queueEntry } from '../contract/queue.ts';
import { octetsOf } from '../contract/storage.ts';

const folder = mkdtempSync(join(tmpdir(), 'reencode-'));
after(() => rmSync(folder, { recursive: true }));

/**
 * What Python's mail parser, which is not ours, makes of messages: of each part its type, encoding or octets, and
 * defects.
 */
function parse(paths: readonly string[]): readonly string[] {
  const program = `
import email, sys, hashlib
for path in sys.argv[1:]:
    for part in email.message_from_binary_file(open(path, 'rb')).walk():
        if part.is_multipart(): said = part.get('content-transfer-encoding')
        else: said = hashlib.sha256(part.get_payload(decode=True).replace(b'\\r\\n', b'\\n')).hexdigest()
        print(part.get_content_type(), part.get_filename(), said, part.defects)
    print('====')
`;
  return execFileSync('python3', ['-S', '-c', program, ...paths])
    .toString()
    .split('====\n')
    .slice(0, -1);
}

const sevenBit = { is8BitOk: false, maxLineOctets: Infinity };
const short = { is8BitOk: true, maxLineOctets: 998 };
let files = 0;
type Converted = {
  readonly text: string;
  readonly left: string | undefined;
  readonly paths: readonly [string, string];
};

/** The converted message: the same from memory and from a file. `paths`: the message before and after. */
async function convert(text: string, limits = sevenBit, returnPathBytes = 0): Promise<Converted> {
  const paths = [join(folder, `${(files += 1)}`), join(folder, `${files}.7bit`)] as const;
  const octets = Buffer.from(text);
  writeFileSync(paths[0], octets);
  const file = { kind: 'file', path: paths[0], returnPathBytes, sizeBytes: octets.length } as const;
  const { message, left, isAscii } = await reencode(file, limits, paths[1]);
  const other = await reencode({ ...inMemory(octets), returnPathBytes }, limits, undefined);
  const converted = octetsOf(message).subarray(message.returnPathBytes);
  assert.deepEqual(octetsOf(other.message).subarray(other.message.returnPathBytes), converted);
  assert.deepEqual([other.left, other.isAscii], [left, isAscii]);
  assert.equal(message.sizeBytes, message.returnPathBytes + converted.length);
  assert.equal(existsSync(paths[1]), message !== file);
  assert.ok(!isAscii || isPlain(converted));
  return { text: converted.toString(), left, paths };
}

const text = `Grüße, ${'äöü '.repeat(60)}\n.\n=20 \ntab\t\n${'ß'.repeat(400)}\n\nFrom here  \nend`;
const utf8 = 'Content-Type: text/plain; charset=utf-8\n';
const eightBit = 'Content-Transfer-Encoding: 8bit\n';
const part = (header: string, content: string): string => `${header}\n${content}\n`;
const multi = (type: string, boundary: string, ...parts: readonly string[]): string =>
  `Content-Type: multipart/${type}; boundary="${boundary}"\n\n${parts.map(each => `--${boundary}\n${each}`).join('')}--${boundary}--\n`;

describe('8-bit mail for a server without 8BITMIME', () => {
  it('becomes quoted-printable or base64, and decodes to what it was', async () => {
    const plain = part(utf8 + eightBit, text);
    const html = part('content-type:\n text/html; charset="utf-8"\ncontent-transfer-encoding:\n\t8Bit\n', `<p>${text}`);
    const json = part(
      `Content-Type: application/json; name="x; boundary=y"\n${eightBit}Content-Disposition: attachment; filename=x.json\n`,
      '{"ä": "ü"}\n\n ',
    );
    const ascii = part('Content-Type: text/plain\n', 'as it = was  ');
    const coded = part('Content-Type: image/png\nContent-Transfer-Encoding: base64\n', 'iVBORw0K');
    const messages = [
      plain,
      part(`Subject: a\n b\n${utf8}Content-Transfer-Encoding: binary\n`, text),
      part(utf8, text),
      html,
      json,
      multi('alternative', 'a', plain, html),
      `${eightBit}${multi('mixed', '=_x', ascii, multi('related', '=_y', multi('alternative', '=_z', plain, html), coded), json)}epilogue\n`,
      multi('mixed', 'b', ascii, part('Content-Type: message/rfc822\n' + eightBit, `Subject: inner\n${plain}`), html),
      multi('mixed', 'b', part('', text), part(utf8, text)),
      multi('digest', 'd', `\nSubject: inner\n${plain}`, `\nSubject: inner\n${ascii}`),
      multi('mixed', 'b', part('Content-Type: message/rfc822\n', multi('mixed', 'c', plain, json)), plain),
      // A line that is cut before dashes must not become a delimiter.
      multi('mixed', 'b', part(utf8, `ä${'x'.repeat(69)}--b\n${'x'.repeat(75)}--b--\n${'x'.repeat(76)}--b`), plain),
    ].map(each => `Received: x\nMIME-Version: 1.0\n${each}`);
    const converted = await Promise.all(messages.map(message => convert(message)));
    for (const { text: result, left } of converted) {
      assert.equal(left, undefined);
      assert.match(result, /^Received: x\nMIME-Version: 1.0\n[\n\t -~]*$/);
      assert.match(result, /^Content-Transfer-Encoding: (?:quoted-printable|base64)$/m);
      assert.doesNotMatch(result, /8bit|binary/i);
      const lines = result.split('\n').filter(line => !/^Content-|^\t/.test(line));
      assert.ok(lines.every(line => line.length <= 76 && !/[ \t]$/.test(line)) || /as it = was {2}$/m.test(result));
    }
    const parsed = parse(converted.flatMap(({ paths }) => paths));
    assert.equal(parsed.length, 2 * messages.length);
    for (let at = 0; at < parsed.length; at += 2)
      assert.equal(parsed[at + 1], parsed[at]?.replaceAll(' 8bit ', ' 7bit '), messages[at / 2]);
    for (const same of [ascii, coded, 'epilogue\n']) assert.ok(converted[6]?.text.includes(same), same);
  });

  it('without MIME says what it is now, and leaves out what is for Maildirs alone', async () => {
    const { text: result } = await convert(`X: skip me\nSubject: x\n\nä\n`, sevenBit, 11);
    assert.equal(
      result,
      'Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\nContent-Transfer-Encoding: quoted-printable\n\n=C3=A4\n',
    );
    assert.match((await convert('\nä\n')).text, /^MIME-Version: 1\.0\n[^]*quoted-printable\n\n=C3=A4\n$/);
  });

  it('stays as it is where its octets are signed, encrypted or nowhere to be encoded', async () => {
    const signed = multi('signed', 's', part(utf8, 'ä'), part('Content-Type: application/pgp-signature\n', 'x'));
    const embedded = part('Content-Type: message/rfc822\n', `DKIM-Signature: v=1\n\nä`);
    const kept: [RegExp, string][] = [
      [/signed/, signed],
      [/signed/, multi('mixed', 'b', multi('encrypted', 'c', part('', 'ä')))],
      [/signed/, 'Content-Type: application/pkcs7-mime\n\nä\n'],
      [/signed/, 'Content-Type: application/x-pkcs7-mime\n\nä\n'],
      [/signed/, `DKIM-Signature: v=1\n${utf8}\nä\n`],
      [/signed/, `ARC-Message-Signature: i=1\n${multi('mixed', 'b', part(utf8, 'ä'))}`],
      [/signed/, multi('mixed', 'b', embedded)],
      [/header/, 'Subject: ä\n\nx\n'],
      [/around parts/, `Content-Type: multipart/mixed; boundary=b\n\nä\n--b\n\nx\n--b--\n`],
      [/base64/, 'Content-Transfer-Encoding: base64\n\nä\n'],
      [/x-uuencode/, 'Content-Transfer-Encoding: x-uuencode\n\nä\n'],
      [/may not be encoded/, multi('report', 'b', part('Content-Type: message/delivery-status\n', 'ä'))],
      [/encoded as a whole/, `Content-Transfer-Encoding: base64\n${multi('mixed', 'b', part('', 'ä'))}`],
      [/no boundary/, `Content-Type: multipart/mixed\n\n--b\n\nä\n--b--\n`],
      [/no boundary/, `Content-Type: multipart/mixed; boundary="b\n\n--b\n\nä\n--b--\n`],
      [/no field/, `From a@b\nContent-Type: text/plain\n\nä\n`],
      [/twice/, `${utf8}${utf8}\nä\n`],
      [/nearly/, multi('mixed', 'b', part(utf8, 'ä\n--bb\n'))],
      [/same/, multi('mixed', 'b', multi('mixed', 'b', part(utf8, 'ä')))],
      [/too many/, multi('mixed', 'b', ...Array<string>(1200).fill(part('', 'ä')))],
      [/too many/, `${'Content-Type: message/rfc822\n\n'.repeat(40)}ä`],
      [/too long/, multi('mixed', 'b', part(`X: ${'y\n '.repeat(100_000)}\n`, 'ä'))],
      [/too much/, `Content-Type: multipart/mixed; boundary=b\n\n--b\n\nä${'\n--'.repeat(200_000)}`],
    ];
    for (const [why, message] of kept) {
      const { text: result, left, paths } = await convert(message);
      assert.match(left ?? '', why, message.slice(0, 100));
      assert.ok(result === message, message.slice(0, 100));
      assert.ok(!existsSync(paths[1]));
    }
  });

  it('is converted where it can be, beside what stays; what holds 8-bit parts still says so', async () => {
    const signed = multi('signed', 's', part(utf8, 'ä'), part('Content-Type: application/pgp-signature\n', 'x'));
    const inner = multi('mixed', 'i', part(utf8 + eightBit, 'ü'));
    const { text: result, left } = await convert(
      `Subject: ö\n${eightBit}${multi('mixed', 'b', signed, part(utf8 + eightBit, 'ü'), eightBit + inner)}`,
    );
    assert.match(left ?? '', /header/);
    assert.ok(result.includes(signed) && result.includes('Subject: ö\n'));
    assert.deepEqual(result.match(/^Content-Transfer-Encoding: .*/gm), [
      'Content-Transfer-Encoding: 8bit',
      'Content-Transfer-Encoding: quoted-printable',
      'Content-Transfer-Encoding: 7bit',
      'Content-Transfer-Encoding: quoted-printable',
    ]);
    assert.deepEqual(result.match(/=C3=BC/g)?.length, 2);
  });
});

describe('long lines for a server that refuses them', () => {
  const long = `${'x'.repeat(999)}\n${'y'.repeat(998)}\nä`;
  it('become quoted-printable or base64, and nothing else changes', async () => {
    const fits = part(utf8 + eightBit, `${'y'.repeat(998)}\nä`);
    const message =
      eightBit +
      multi(
        'mixed',
        'b',
        fits,
        part(utf8, long),
        part('Content-Type: application/json\n', long),
        part('Content-Type: application/pdf\nContent-Transfer-Encoding: base64\n', 'QUJD'.repeat(300)),
      );
    const { text: result, left, paths } = await convert(message, short);
    assert.equal(left, undefined);
    assert.ok(result.startsWith(message.slice(0, message.indexOf('--b\n', 200))), 'another part has changed');
    assert.ok(
      Buffer.from(result)
        .toString('latin1')
        .split('\n')
        .every(line => line.length <= 998),
    );
    const [before, behind] = parse(paths);
    assert.equal(behind, before);
    assert.doesNotMatch((await convert(`Subject: x\n\n${'x'.repeat(999)}\n`, short)).text, /unknown-8bit/);
  });

  it('are sent again only where all of them can be made short', async () => {
    const can = (message: string): Promise<boolean> =>
      canShortenLines({ ...inMemory(Buffer.from(message)), returnPathBytes: 0 });
    assert.equal(await can(part(utf8, long)), true);
    assert.equal(await can(part(utf8, 'short')), false);
    assert.equal(await can(`DKIM-Signature: x\n\n${long}`), false);
    assert.equal(await can(`X: ${'x'.repeat(1000)}\n\n${long}`), false);
    assert.equal(await can(part('Content-Transfer-Encoding: quoted-printable\n', long)), false);
  });

  it('are known from what servers say', () => {
    const said = (words: string, kind: Delivery['kind'] = 'failed'): boolean =>
      refusesLongLines({ kind, status: '5.0.0', text: words });
    for (const words of [
      '552 maximum allowed line length is 998 octets, got 1200',
      '500 5.5.2 Line too long',
      '554 5.6.0 Lines longer than SMTP allows found during transmission',
      '500 Line length exceeded. See RFC 2821 #4.5.3.1.',
      '550 5.6.0 message has too long lines',
    ])
      assert.ok(said(words), words);
    assert.ok(!said('500 Line too long', 'deferred'));
    for (const words of [
      '550 5.1.1 no such user',
      '554 5.7.1 online check: no longer a customer',
      '552 message too long',
    ])
      assert.ok(!said(words), words);
  });
});

describe('a message for a hop', () => {
  const entry = queueEntry('q1', { is8Bit: true });
  const stored = { ...inMemory(Buffer.from(part(utf8, text))), returnPathBytes: 0 };
  it('is the very same where the hop takes it, and says what it is where it is not', async () => {
    const hop = { offers: new Map([['8BITMIME', '']]), areLinesShort: false };
    const same = await adapt(stored, entry, hop, undefined);
    assert.ok(same.kind === 'fit' && same.message === stored && same.is8Bit);
    const other = await adapt(stored, entry, { ...hop, offers: new Map() }, undefined);
    assert.ok(other.kind === 'fit' && other.message !== stored && !other.is8Bit);
    const signed = { ...inMemory(Buffer.from(`DKIM-Signature: x\n${part(utf8, text)}`)), returnPathBytes: 0 };
    const kept = await adapt(signed, entry, { ...hop, offers: new Map() }, undefined);
    assert.ok(kept.kind === 'fit' && kept.message === signed && kept.is8Bit);
    assert.match(kept.left ?? '', /signed/);
  });

  it('leaves no file behind where it cannot be written', async () => {
    const path = join(folder, 'there');
    writeFileSync(path, 'something else');
    const hop = { offers: new Map(), areLinesShort: false };
    await assert.rejects(adapt(stored, entry, hop, path), /EEXIST/);
    assert.ok(!readdirSync(folder).includes('there'));
  });
});

describe('converting costs', () => {
  const head = `Subject: x\n${utf8}\n`;
  const hostile: Readonly<Record<string, string>> = {
    'one line': head + '\xe4'.repeat(6e6),
    'empty lines': `${head}\xe4${'\n'.repeat(4e6)}`,
    blanks: `${head}\xe4${' '.repeat(4e6)}`,
    text: head + 'sch\xf6n, wie das geht\n'.repeat(2e5),
    'a folded field': multi('mixed', 'b', part(`X: ${'y\n '.repeat(130_000)}\n`, '\xe4')),
    'many fields': multi('mixed', 'b', part('X:\n'.repeat(40_000), '\xe4')),
    'many parameters': `Content-Type: multipart/mixed${'; x="'.repeat(25_000)}\n\n\xe4`,
    'lines of dashes': `Content-Type: multipart/mixed; boundary=b\n\n--b\n\n\xe4${'\n--'.repeat(1e6)}`,
    'dashes and blanks': `Content-Type: multipart/mixed; boundary=b\n\n--b\n\n\xe4${`\n--${' '.repeat(900)}x`.repeat(4000)}`,
    parts: multi('mixed', 'b', ...Array<string>(900).fill(part(utf8, '\xe4'))),
  };
  const path = join(folder, 'hostile');

  /** Processor time of this thread, so that it does not matter how busy the machine is. */
  const usedMs = (): number => {
    const { user, system } = process.threadCpuUsage();
    return (user + system) / 1000;
  };

  for (const [what, message] of Object.entries(hostile))
    it(`little time and memory, and no long wait for others, with ${what}`, async () => {
      writeFileSync(path, message, 'latin1');
      const before = { ms: usedMs(), bytes: process.memoryUsage().arrayBuffers };
      let [longestMs, last, mostBytes, isDone] = [0, before.ms, 0, false];
      const watch = (): void => {
        longestMs = Math.max(longestMs, usedMs() - last);
        last = usedMs();
        mostBytes = Math.max(mostBytes, process.memoryUsage().arrayBuffers - before.bytes);
        if (!isDone) setImmediate(watch);
      };
      watch();
      for (const limits of [sevenBit, short]) {
        await reencode({ kind: 'file', path, returnPathBytes: 0, sizeBytes: message.length }, limits, `${path}.7bit`);
        rmSync(`${path}.7bit`, { force: true });
      }
      isDone = true;
      const measured = { ms: usedMs() - before.ms, longestMs, mostBytes };
      // A folded field of 400 kB was 10 s in one go, 40 MB in one line 2.9 GB.
      // `mostBytes` counts what the garbage collector has not collected yet, too.
      const isCheap = measured.ms < 500 + message.length / 4000 && longestMs < 100 && mostBytes < 48e6;
      assert.ok(isCheap, JSON.stringify(measured));
    });
});
