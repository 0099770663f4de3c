// What a notice says, what it never lets in, and what it costs; judged by Python's parser of mail.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, describe, it } from 'node:test';
import type { Delivery, Message, Outcome, QueueEntry, QueueRecipient } from '../../src/mail/message.ts';
import { type Notice, type NoticeOptions, buildNotice, dueOutcomes } from '../../src/queue/notice.ts';
import { createReport } from '../../src/queue/report.ts';
import { processorMs } from './processor.harness.ts';
import { queueEntry } from '../contract/queue.ts';
import { memory, octetsOf } from '../contract/storage.ts';

const folder = mkdtempSync(join(tmpdir(), 'notice-'));
after(() => rmSync(folder, { recursive: true }));

const clock = { now: () => Date.UTC(2026, 10, 24, 10) };
const random = { hex: (octets: number) => 'ab'.repeat(octets), below: () => 0 };
const text = 'Received: by us\nSubject: hello\nFrom: a@example.com\n\nthe body\n';
const reply: Delivery = { kind: 'failed', status: '5.1.1', text: '550 5.1.1 no such user', remote: 'mx.example' };

function outcome(
  action: Outcome['action'],
  recipient: Partial<QueueRecipient> = {},
  delivery: Partial<Delivery> = {},
): Outcome {
  const kind = action === 'failed' ? 'failed' : action === 'delayed' ? 'deferred' : 'delivered';
  return {
    action,
    recipient: { address: 'b@x.example', domain: 'x.example', ...recipient },
    delivery: { ...reply, kind, ...delivery },
  };
}

/** The notice to the sender of that text, or of another one; undefined where none is due. */
function build(all: readonly Outcome[], more: Partial<QueueEntry> = {}, sent = text) {
  const entry = queueEntry('q1', { receivedAt: Date.UTC(2026, 10, 24, 6), ...more });
  const outcomes = dueOutcomes(entry, all);
  const options: NoticeOptions = {
    entry,
    original: { octets: Buffer.from(sent, 'latin1').subarray(0, 64 * 1024), isWhole: sent.length <= 64 * 1024 },
    outcomes,
    hostname: 'mail.example.com',
    lifetimeMs: 5 * 86_400_000,
    clock,
    random,
  };
  return outcomes.length > 0 ? buildNotice(options) : undefined;
}

/** The notice that is put into the queue about such a message. */
async function sendNotice(message: Message, entry: Partial<QueueEntry> = {}): Promise<Notice | undefined> {
  let kept: Notice | undefined;
  const report = createReport({
    hostname: 'mail.example.com',
    lifetimeMs: 5 * 86_400_000,
    resolve: async ({ local }) => (local === 'gone' ? { kind: 'unknown' } : { kind: 'elsewhere' }),
    queue: () => ({
      prepare: async ({ isUtf8, is8Bit, returnPathBytes }, notice) => {
        kept = { content: octetsOf(notice).subarray(returnPathBytes), isUtf8, is8Bit };
        return { commit: async () => {}, abort: async () => {} };
      },
    }),
    clock,
    random,
    log: { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} },
  });
  await report(queueEntry('q1', entry), message, [outcome('failed')]);
  return kept;
}

type Parsed = { header: Record<string, string>; type: string; report: string; defects: string[]; parts: Part[] };
type Part = { type: string; encoding: string; text: string; fields: Record<string, string>[] };

const script = `
import base64, sys, json, email, email.policy
policy = email.policy.default.clone(utf8=True)
def part(p):
    is_status = p.get_content_type() == "message/delivery-status"
    inner = p.get_payload() if p.is_multipart() else []
    text = "" if is_status else p.as_bytes().decode("utf-8", "replace").split("\\n\\n", 1)[1]
    fields = [dict((k, str(v)) for k, v in b.items()) for b in inner]
    return dict(type=p.get_content_type(), encoding=p["Content-Transfer-Encoding"], text=text, fields=fields)
for line in sys.stdin:
    m = email.message_from_bytes(base64.b64decode(line), policy=policy)
    defects = [d for p in m.walk() for d in p.defects] + [d for h in m.values() for d in getattr(h, "defects", [])]
    print(json.dumps(dict(header=dict((k, str(v)) for k, v in m.items()), type=m.get_content_type(),
        report=m.get_param("report-type"), defects=[repr(d) for d in defects],
        parts=[part(p) for p in m.get_payload()])), flush=True)
`;
const python = spawn('python3', ['-c', script], { stdio: ['pipe', 'pipe', 'inherit'] });
const answers = createInterface(python.stdout)[Symbol.asyncIterator]();
after(() => python.kill());

/** The notice as Python's strict parser sees it. */
async function parse(built: Notice | undefined): Promise<Parsed & { raw: string; isUtf8: boolean; is8Bit: boolean }> {
  const { content, isUtf8, is8Bit } = built ?? assert.fail('no notice');
  for (const line of content.toString('latin1').split('\n'))
    assert.ok(line.length <= 998 && !line.includes('\r'), line);
  python.stdin.write(`${content.toString('base64')}\n`);
  const parsed = JSON.parse((await answers.next()).value as string) as Parsed;
  assert.deepEqual(parsed.defects, []);
  assert.deepEqual([parsed.type, parsed.report, parsed.parts.length], ['multipart/report', 'delivery-status', 3]);
  assert.equal(/[^\0-\x7f]/.test(content.toString('latin1')), is8Bit);
  return { ...parsed, raw: content.toString(), isUtf8, is8Bit };
}

describe('a notice', () => {
  it('says what happened, for people and for programs', async () => {
    const { header, parts, isUtf8, raw } = await parse(
      build([outcome('failed', { originalRecipient: 'rfc822;first+2Bx@x.example' })], {
        envelopeId: 'QQ+2B1',
      }),
    );
    assert.equal(isUtf8, false);
    assert.equal(header['From'], 'Mail Delivery System <MAILER-DAEMON@mail.example.com>');
    assert.equal(header['To'], 'a@example.com');
    assert.match(raw, /^To: <a@example\.com>$/m);
    assert.equal(header['Subject'], 'Your mail could not be delivered');
    assert.equal(header['Auto-Submitted'], 'auto-replied');
    assert.equal(header['Date'], 'Tue, 24 Nov 2026 10:00:00 +0000');
    assert.match(header['Message-ID'] ?? '', /^<\w+@mail\.example\.com>$/);
    assert.deepEqual(
      parts.map(({ type }) => type),
      ['text/plain', 'message/delivery-status', 'text/rfc822-headers'],
    );
    assert.match(
      parts[0]?.text ?? '',
      /could not be delivered to:\n\n {2}b@x\.example\n {4}mx\.example said: 550 5\.1\.1 no such user\n {4}Look for a mistake/,
    );
    assert.deepEqual(parts[1]?.fields, [
      {
        'Reporting-MTA': 'dns; mail.example.com',
        'Original-Envelope-Id': 'QQ+1',
        'Arrival-Date': 'Tue, 24 Nov 2026 06:00:00 +0000',
      },
      {
        'Original-Recipient': 'rfc822; first+x@x.example',
        'Final-Recipient': 'rfc822; b@x.example',
        Action: 'failed',
        Status: '5.1.1',
        'Remote-MTA': 'dns; mx.example',
        'Diagnostic-Code': 'smtp; 550 5.1.1 no such user',
        'Last-Attempt-Date': 'Tue, 24 Nov 2026 10:00:00 +0000',
      },
    ]);
    assert.equal(parts[2]?.text.trim(), 'Received: by us\nSubject: hello\nFrom: a@example.com');
  });

  it('has all outcomes, failures first', async () => {
    const later = { status: '4.4.1', text: 'connection refused', remote: undefined } as unknown as Delivery;
    const { header, parts } = await parse(
      build([
        outcome('delivered', { address: 'd@x', notify: ['SUCCESS'] }, { status: '2.0.0', text: 'ok' }),
        outcome('delayed', { address: 'l@x' }, later),
        outcome('relayed', { address: 'r@x', notify: ['SUCCESS', 'FAILURE'] }, { status: '2.0.0', text: '250 ok' }),
        outcome('expanded', { address: 'e@x', notify: ['SUCCESS'] }, { status: '2.0.0', text: 'ok' }),
        outcome('failed'),
      ]),
    );
    assert.equal(header['Subject'], 'Your mail could not be delivered');
    const fields = parts[1]?.fields.slice(1) ?? [];
    assert.deepEqual(
      fields.map(({ Action }) => Action),
      ['failed', 'delayed', 'relayed', 'expanded', 'delivered'],
    );
    assert.equal(fields[1]?.['Will-Retry-Until'], 'Sun, 29 Nov 2026 06:00:00 +0000');
    assert.equal(fields[1]?.['Diagnostic-Code'], 'X-SlimSMTP; connection refused');
    assert.equal(fields[2]?.['Diagnostic-Code'], 'smtp; 250 ok');
    assert.match(parts[0]?.text ?? '', /you need not send it again/);
    assert.match(parts[0]?.text ?? '', /It will be tried until Sun, 29 Nov 2026/);
  });

  it('is due only where NOTIFY wants it, and never for the null sender', async () => {
    const due = (action: Outcome['action'], notify?: QueueRecipient['notify'], from = 'a@b'): boolean =>
      build([outcome(action, notify && { notify })], { from }) !== undefined;
    assert.deepEqual([due('failed'), due('delayed'), due('delivered'), due('relayed')], [true, true, false, false]);
    assert.deepEqual(
      [due('failed', ['NEVER']), due('delayed', ['NEVER']), due('relayed', ['NEVER'])],
      [false, false, false],
    );
    assert.deepEqual(
      [due('failed', ['SUCCESS']), due('delayed', ['FAILURE']), due('delayed', ['DELAY'])],
      [false, false, true],
    );
    assert.deepEqual([due('failed', undefined, ''), due('expanded', ['SUCCESS'], '')], [false, false]);
    const { parts } = await parse(
      build([outcome('failed', { notify: ['NEVER'], address: 'no@x' }), outcome('failed')]),
    );
    assert.equal(parts[1]?.fields.length, 2);
  });

  it('gives back the message with RET=FULL up to 64 kB, else its header', async () => {
    const third = async (
      entry: Partial<QueueEntry>,
      message = text,
      action: Outcome['action'] = 'failed',
    ): Promise<Part> => (await parse(build([outcome(action)], entry, message))).parts[2] ?? assert.fail();
    const full = await third({ ret: 'FULL' });
    assert.equal(full.type, 'message/rfc822');
    assert.equal(full.fields[0]?.['Subject'], 'hello');
    assert.match(full.text, /the body/);
    for (const entry of [{ ret: 'HDRS' }, {}] as const) {
      const { type, text: returned } = await third(entry);
      assert.equal(type, 'text/rfc822-headers');
      assert.doesNotMatch(returned, /the body/);
    }
    assert.equal((await third({ ret: 'FULL' }, text, 'delayed')).type, 'text/rfc822-headers');
    const head = 'Subject: x\n\n';
    const limit = 64 * 1024;
    const lines = (octets: number): string =>
      head +
      'x'
        .repeat(63)
        .concat('\n')
        .repeat(1024)
        .slice(0, octets - head.length);
    assert.equal((await third({ ret: 'FULL' }, lines(limit))).type, 'message/rfc822');
    assert.equal((await third({ ret: 'FULL' }, lines(limit + 1))).type, 'text/rfc822-headers');
    // A line that no notice may have, and a header without end.
    assert.equal((await third({ ret: 'FULL' }, `${head}${'x'.repeat(999)}\n`)).type, 'text/rfc822-headers');
    assert.ok((await third({}, `Subject: ${'y'.repeat(2000)}\nX: ${'z\n '.repeat(60_000)}`)).text.length <= limit + 10);
  });

  it('has what it returns from memory or file, and does without a file that is gone', async () => {
    const path = join(folder, 'message');
    const whole = `Return-Path: <a@example.com>\n${text}`;
    writeFileSync(path, whole);
    const file = { kind: 'file', path, sizeBytes: whole.length } as const;
    for (const message of [memory(whole), file]) {
      const { parts } = await parse(await sendNotice(message, { ret: 'FULL', returnPathBytes: 29 }));
      assert.equal(parts[2]?.text.trim(), text.trim());
    }
    const gone = { kind: 'file', path: join(folder, 'gone'), sizeBytes: 50 } as const;
    const without = await parse(await sendNotice(gone, { ret: 'FULL', returnPathBytes: 29 }));
    assert.equal(without.parts[2]?.type, 'text/rfc822-headers');
    const large = memory(`${text}${'x\n'.repeat(40_000)}`);
    assert.equal((await parse(await sendNotice(large, { ret: 'FULL' }))).parts[2]?.type, 'text/rfc822-headers');
    assert.equal(await sendNotice(memory(text), { from: 'gone@example.com' }), undefined);
    assert.equal(await sendNotice(memory(text), { from: '' }), undefined);
  });

  it('costs little, whatever was sent, and however many it was for', () => {
    const many = Array.from({ length: 1000 }, (_, at) =>
      outcome('failed', { address: `b${at}@x` }, { text: `550 ${'no such user '.repeat(70)}` }),
    );
    const one = [outcome('failed')];
    const costly = (outcomes: readonly Outcome[], sent: string) => (): void => {
      const built = build(outcomes, { ret: 'FULL' }, sent);
      assert.ok(built !== undefined && built.content.length < 600_000);
    };
    const works = [
      // Some plain work on strings, as a measure of this machine.
      (): unknown =>
        '550 no such user\n'
          .repeat(40_000)
          .split('\n')
          .map(line => `${line}.`)
          .join('\n'),
      costly(one, `X: ${'y'.repeat(995)}\n`.repeat(65)),
      costly(one, 'y'.repeat(998).concat('\n').repeat(65)),
      costly(one, `X: y\n${'y\n'.repeat(32_000)}`),
      costly(one, `X: y\n\n${'y'.repeat(998).concat('\n').repeat(65)}`),
      costly(many, text),
    ];
    // By turns, and added up: the clock of the processor is coarse, and others use the machine too.
    const sums = works.map(() => 0);
    for (let round = 0; round < 20; round += 1)
      for (const [at, work] of works.entries()) {
        const before = processorMs();
        work();
        sums[at] = (sums[at] ?? 0) + processorMs() - before;
      }
    // A header of long lines took 20 times as long as the measure, a thousand recipients 14 times.
    const [measure = 0, ...costs] = sums;
    assert.ok(
      costs.every(ms => ms < 8 * measure),
      sums.map(Math.round).join(' '),
    );
  });

  it('lets nothing from outside begin a line or a field', async () => {
    const evil = 'x\r\nBcc: victim@x\n\n--=_' + 'ab'.repeat(16) + '--\0\x1b[31m\u0085';
    const original = { originalRecipient: 'rfc822;a+0D+0ABcc:+20v@x+00' };
    for (const address of ['b@x', 'gr\u00fc\u00dfe@x']) {
      const entry = { envelopeId: 'a+0AX-Evil:+20y', isUtf8: address !== 'b@x' };
      const outcomes = [outcome('failed', { address, ...original }, { text: `550 ${evil}`, remote: evil })];
      const { raw, parts } = await parse(build(outcomes, entry));
      assert.doesNotMatch(raw, /^(Bcc|X-Evil):/m);
      for (const character of '\0\x1b\r\u0085') assert.ok(!raw.includes(character));
      if (entry.isUtf8) continue; // Python does not know the parts of RFC 6533
      assert.equal(parts[1]?.fields.length, 2);
      assert.deepEqual(
        Object.keys(parts[1]?.fields[1] ?? {}).filter(name => /bcc/i.test(name)),
        [],
      );
    }
  });

  it('keeps long words of the remote to lines of 998 octets', async () => {
    for (const words of ['x'.repeat(70_000), 'many words '.repeat(7000), '\u{1f600}'.repeat(5000)])
      for (const isUtf8 of [false, true]) {
        const outcomes = [outcome('failed', { address: 'gr\u00fc\u00dfe@x' }, { text: `550 ${words}` })];
        assert.ok((await parse(build(outcomes, { isUtf8 }))).raw.length < 10_000);
      }
  });

  it('is UTF-8 where the envelope was and needs it, and plain ASCII otherwise', async () => {
    const utf8Text = 'Subject: gr\u00fc\u00dfe\n\nbody\n';
    const message = Buffer.from(utf8Text).toString('latin1');
    const global = await parse(
      build(
        [outcome('failed', { address: 'gr\u00fc\u00dfe@x.example' }, { text: '550 f\u00fcr niemanden' })],
        { isUtf8: true, is8Bit: true },
        message,
      ),
    );
    assert.deepEqual([global.isUtf8, global.is8Bit], [true, true]);
    assert.deepEqual(
      global.parts.map(({ type, encoding }) => `${type} ${encoding}`),
      ['text/plain 8bit', 'message/global-delivery-status 8bit', 'message/global-headers 8bit'],
    );
    assert.match(global.raw, /Final-Recipient: utf-8; gr\u00fc\u00dfe@x\.example/);
    assert.match(global.raw, /said: 550 f\u00fcr niemanden/);
    const full = await parse(build([outcome('failed')], { isUtf8: true, ret: 'FULL' }, message));
    assert.equal(full.parts[2]?.type, 'message/global');
    const plain = await parse(build([outcome('failed', {}, { text: '550 f\u00fcr niemanden' })], { isUtf8: true }));
    assert.deepEqual([plain.isUtf8, plain.is8Bit, plain.parts[1]?.type], [false, false, 'message/delivery-status']);
    assert.match(plain.raw, /550 f\?r niemanden/);
    // 8-bit text without SMTPUTF8: as it came.
    const latin = await parse(build([outcome('failed')], { ret: 'FULL', is8Bit: true }, 'Subject: x\n\ngr\xfc\xdfe\n'));
    assert.deepEqual([latin.isUtf8, latin.is8Bit, latin.parts[2]?.encoding], [false, true, '8bit']);
  });
});

describe('advice', () => {
  const advised = (status: string, said: string): string =>
    build([outcome('failed', {}, { status, text: said })])
      ?.content.toString()
      .replaceAll(/\s+/g, ' ') ?? '';
  const cases: readonly (readonly [status: string, text: string, words: string])[] = [
    ['5.7.26', '550 5.7.26 This mail has been blocked because the sender is unauthenticated.', 'no valid SPF or DKIM'],
    ['5.7.515', '550 5.7.515 Access denied, sending domain example.com', 'no valid SPF or DKIM'],
    ['5.7.25', '550 5.7.25 The IP address sending this message does not have a PTR record', 'shows the PTR record'],
    ['5.7.29', '550 5.7.29 This message was not sent over a TLS connection.', 'SLIM_EXTERNAL_TLS'],
    ['5.7.28', '550 5.7.28 an unusual rate of unsolicited mail', 'too much unasked mail'],
    ['5.0.0', "554 Transaction failed: Duplicate header 'DKIM-Signature'.", 'SLIM_DKIM=off'],
    ['5.7.1', '550 5.7.1 no', 'its words say why'],
    ['5.1.10', '550 5.1.10 null MX', 'takes no mail at all'],
  ];
  for (const [status, said, wanted] of cases)
    it(`for ${said}`, () => assert.ok(advised(status, said).includes(wanted), advised(status, said)));
});
