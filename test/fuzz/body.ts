// The body decoder against one that looks for the end in the whole and splits it; then the way back: what any content
// becomes on its way out (dots, line ends, the final dot) is, for a session, that content, and ends once.
// An input: an octet that chooses DATA or BDAT and the limit, then octets. RFC 5321 §4.1.1.4 and §4.5.2, RFC 3030, RFC
// 1870 §5.
import assert from 'node:assert/strict';
import { Encoder } from '../../src/outbound/content.ts';
import { Body } from '../../src/smtp/body.ts';
import { dialogues, kept, octetsOf } from './corpus.ts';
import { type Target, cut } from './fuzzer.ts';

type Outcome = readonly [content: string, rest: string | undefined, defect: string | undefined];

function decode(pieces: readonly Buffer[], isDotted: boolean, maxSizeBytes: number): Outcome {
  const body = new Body(isDotted, maxSizeBytes);
  let content = '';
  for (const [at, piece] of pieces.entries()) {
    const got = body.receive(piece);
    assert.ok(body.defect === undefined || got.content.length === 0, 'content of a refused message');
    content += got.content.toString('latin1');
    if (got.rest === undefined) continue;
    const rest = got.rest.toString('latin1') + Buffer.concat(pieces.slice(at + 1)).toString('latin1');
    return [body.defect ? '' : content, rest, body.defect];
  }
  if (!isDotted) content += body.finish().toString('latin1');
  return [body.defect ? '' : content, undefined, body.defect];
}

/** The same, with all of it here. */
function plainly(text: string, isDotted: boolean, maxSizeBytes: number): Outcome {
  const end = isDotted ? `\r\n${text}`.indexOf('\r\n.\r\n') : -1;
  const lines = (end < 0 ? text : text.slice(0, end)).split('\r\n');
  let content = lines.map(line => (isDotted && line.startsWith('.') ? line.slice(1) : line)).join('\r\n');
  const isTooBig = content.length > maxSizeBytes;
  const defect = lines.some(line => /[\r\n]/.test(line)) ? 'malformed' : isTooBig ? 'too big' : undefined;
  if (!isDotted && content !== '' && !content.endsWith('\r\n')) content += '\r\n';
  return [defect ? '' : content.replaceAll('\r\n', '\n'), end < 0 ? undefined : text.slice(end + 3), defect];
}

const words = [
  '\r\n',
  '.',
  '..',
  '\r\n.\r\n',
  '\n.\r\n',
  '\r\n.\n',
  '\r.\r',
  '\n',
  '\r',
  '\r\r\n',
  '.\r\n',
  '\0',
  '\xff',
  '. ',
  'x',
];

export const body: Target = {
  name: 'body',
  maxOctets: 64,
  words,
  seeds: [
    ...kept('body'),
    ...dialogues('dialogues').map(lines =>
      Buffer.concat([Buffer.from([2]), ...lines.filter(({ mark }) => mark[0] === 'C').map(octetsOf)]).subarray(0, 2048),
    ),
  ],
  run(input, random, note) {
    const [how = 0] = input;
    const [isDotted, limit] = [how % 2 === 0, how % 4 < 2 ? 20 : 1e6];
    const octets = input.subarray(1);
    const expected = plainly(octets.toString('latin1'), isDotted, limit);
    const [content, rest, defect] = decode(cut(octets, random), isDotted, limit);
    if (rest === undefined && isDotted) {
      // Its end has not come: what is known so far of a good one has no last line yet, and the limit may be told later.
      assert.ok(
        defect !== undefined || expected[0].startsWith(content) || expected[2] !== undefined,
        'other content so far',
      );
      assert.ok(
        defect !== 'malformed' || expected[2] === 'malformed' || octets.at(-1) === 13,
        'a good one is malformed',
      );
    } else assert.deepEqual([content, rest, defect], expected);
    note(`${isDotted} ${defect} ${rest === undefined} ${rest === ''}`);
    send(octets, cut(octets, random), note);
  },
};

function send(octets: Buffer, pieces: readonly Buffer[], note: (feature: string) => void): void {
  const encoder = new Encoder();
  const wire = Buffer.concat([...pieces.map(piece => encoder.encode(piece)), encoder.encode(Buffer.alloc(0), true)]);
  const text = wire.toString('latin1');
  assert.equal(`\r\n${text}`.indexOf('\r\n.\r\n'), text.length - 3, 'not one end');
  assert.ok(!/\r(?!\n)|(?<!\r)\n/.test(text), 'a bare CR or LF goes out');
  const stored = octets.toString('latin1').replaceAll(/\r\n?/g, '\n');
  const whole = stored === '' || stored.endsWith('\n') ? stored : `${stored}\n`;
  assert.equal(plainly(text, true, Infinity)[0], whole, 'other content arrives');
  assert.equal(encoder.sizeBytes, whole.length + (whole.match(/\n/g)?.length ?? 0), 'another SIZE');
  note(`dots ${Math.min(3, text.length - whole.length)}`);
}
