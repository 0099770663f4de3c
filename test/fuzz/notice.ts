// Notices: whatever a remote server said, and whatever stood in the message, a notice has three parts, its own fields
// and no others, lines of at most 998 octets, no CR and no NUL, and ASCII alone where the envelope had no SMTPUTF8.
// An input, 0x1e between: what the remote said, its name, the address, ORCPT, ENVID, the message. RFC 3461, 3464, 6533.
import assert from 'node:assert/strict';
import type { Outcome, QueueEntry } from '../../src/mail/message.ts';
import { buildNotice, dueOutcomes } from '../../src/queue/notice.ts';
import { parseRecipient, parseSender } from '../../src/smtp/envelope.ts';
import { kept } from './corpus.ts';
import type { Target } from './fuzzer.ts';

const top = /^(?:From|To|Date|Message-ID|Subject|Auto-Submitted|MIME-Version|Content-Type|Content-Transfer-Encoding):/;
const fields =
  /^(?:(?:Reporting-MTA|Original-Envelope-Id|Arrival-Date|Original-Recipient|Final-Recipient|Action|Status|Remote-MTA|Diagnostic-Code|Last-Attempt-Date|Will-Retry-Until): |[ \t]|$)/;
const actions = ['failed', 'delayed', 'relayed', 'expanded', 'delivered'] as const;
const status = { failed: '5.1.1', delayed: '4.4.1', relayed: '2.0.0', expanded: '2.0.0', delivered: '2.0.0' };
const clock = { now: () => 1_800_000_000_000 };
/** Nobody guesses it: in truth it is random. */
const boundary = '7f3c9e01d5b24a6880c1f2e37d945ab6';
const random = { hex: (octets: number) => boundary.slice(0, 2 * octets), below: () => 0 };

export const notice: Target = {
  name: 'notice',
  maxOctets: 600,
  seeds: [
    ...kept('notice'),
    ...[
      [
        '550 5.1.1 no such user',
        'mx.example.net',
        'b@example.net',
        'rfc822;b+40example.net',
        'x+2B',
        'Subject: a\nTo: b\n\nhello\n--x\n',
      ],
      [
        '421 ä\u2028Status: 2.0.0',
        'mx',
        'ä@exämple.net',
        'utf-8;ä@exämple.net',
        '+0AStatus:+202.0.0',
        'Subject: ä\n\n\xff\0\n',
      ],
      ['a'.repeat(900), '', '"a b"@example.net', 'x;+0D+0A+0D+0A--', '', `${'x'.repeat(1200)}\n\n`],
    ].map(parts => Buffer.from(parts.join('\x1e'))),
  ],
  words: [
    '\x1e',
    '\n',
    '\r\n',
    '\n\n',
    '\0',
    '+0A',
    '+0D+0A',
    'Status: 2.0.0',
    '\xc3\xa4',
    '\xf0\x9f\x98\x80',
    '\xe2\x80\xa8',
    '\xc2\x85',
    ' ',
    '\t',
    'rfc822;',
    'xx@example.net',
    '\xff',
  ],
  run(input, cuts, note) {
    const [said = '', remote = '', to = '', orcpt = '', envid = '', ...rest] = input.toString().split('\x1e');
    const isUtf8 = cuts.below(2) === 1;
    const message = Buffer.from(rest.join('\x1e').replaceAll('\r', ''));
    const recipient = parse(to, orcpt, isUtf8);
    const sender = parseSender(`FROM:<a@example.com> ENVID=${envid}`, () => true);
    const envelopeId = 'code' in sender ? undefined : sender.wishes.envelopeId;
    const action = actions[cuts.below(5)] ?? 'failed';
    const ret = cuts.below(2) ? 'FULL' : 'HDRS';
    const entry: QueueEntry = {
      id: 'x',
      from: 'a@example.com',
      isUtf8,
      is8Bit: true,
      ret,
      receivedAt: 0,
      returnPathBytes: 0,
      recipients: [recipient],
      ...(envelopeId && { envelopeId }),
    };
    const text = said.replaceAll(/\p{Cc}/gu, '?'); // as Delivery promises
    const outcome: Outcome = {
      recipient,
      action,
      delivery: { kind: 'failed', status: status[action], text, ...(remote && { remote }) },
    };
    const made = buildNotice({
      entry,
      original: { octets: message.subarray(0, 64 * 1024), isWhole: message.length <= 64 * 1024 },
      outcomes: dueOutcomes(entry, [outcome]),
      hostname: 'mx.example.com',
      lifetimeMs: 1e6,
      clock,
      random,
    });
    const whole = made.content.toString('latin1');
    assert.ok(!/[\0\r]/.test(whole), 'CR or NUL');
    assert.ok(
      whole.split('\n').every(line => line.length <= 998),
      'a line is too long',
    );
    assert.equal(made.is8Bit, /[\x80-\xff]/.test(whole), 'is8Bit');
    const [head = '', ...body] = whole.split('\n\n');
    for (const line of head.split('\n')) assert.ok(top.test(line) || /^[ \t]/.test(line), `a field of others: ${line}`);
    const parts = `\n${body.join('\n\n')}`.split(`\n--=_${boundary}`);
    assert.equal(parts.length, 5, 'not three parts'); // what comes before, three, the end
    const report = parts[2]?.split('\n\n').slice(1).join('\n\n') ?? '';
    for (const line of report.split('\n')) assert.ok(fields.test(line), `a field of others: ${line}`);
    assert.equal(report.match(/^Status: /gm)?.length, 1, 'not one Status');
    assert.ok(made.isUtf8 || !/[\x80-\xff]/.test(report + parts[1]), 'not ASCII');
    note(`${action} ${made.isUtf8} ${made.is8Bit} ${/[a-z]+\/[a-z0-9-]+/.exec(parts[3] ?? '')?.[0]}`);
  },
};

/** As the session would have taken it. */
function parse(to: string, orcpt: string, isUtf8: boolean): Outcome['recipient'] {
  const notify = 'NOTIFY=SUCCESS,FAILURE,DELAY';
  for (const text of [`TO:<${to}> ${notify} ORCPT=${orcpt}`, `TO:<${to}> ${notify}`, `TO:<b@example.net> ${notify}`]) {
    const found = /[\p{Cc}\ufffd]/u.test(text) ? undefined : parseRecipient(text, () => true, isUtf8);
    if (!found || 'code' in found) continue;
    return { address: found.address.text, domain: 'example.net', ...found.wishes };
  }
  throw new Error('not even the last');
}
