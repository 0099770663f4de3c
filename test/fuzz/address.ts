// MAIL and RCPT: what the parser takes is compared with a scanner that walks over the octets as the grammar of RFC 5321
// §4.1.2 and RFC 6531 §3.3 has it; canonical forms are stable, and file names made of any of it stay inside their
// folder. An input: one line of a client.
import assert from 'node:assert/strict';
import { isIPv4, isIPv6 } from 'node:net';
import { toMailbox } from '../../src/mail/address.ts';
import { toFileName } from '../../src/postgres/routes.ts';
import { parseAddress, splitPath } from '../../src/smtp/address.ts';
import { parseRecipient, parseSender } from '../../src/smtp/envelope.ts';
import { dialogues, kept } from './corpus.ts';
import type { Target } from './fuzzer.ts';

const isAtext = (c: string): boolean => /^[A-Za-z0-9_!#$%&'*+\-/=?^`{|}~]$/.test(c) || c > '\x7f';
const isLetter = (c: string | undefined): boolean => c !== undefined && (/^\w$/.test(c) || c > '\x7f');

/** Whether a path (without brackets and source route) is an address; its local part, unquoted. */
function scan(text: string): string | undefined {
  const octets = Array.from(text);
  let [at, local] = [0, ''];
  if (octets[0] === '"') {
    for (at = 1; octets[at] !== '"'; at += 1) {
      if (octets[at] === '\\') at += 1;
      if (at >= octets.length) return undefined;
      local += octets[at];
    }
    at += 1;
  } else {
    for (; at < octets.length && octets[at] !== '@'; at += 1) local += octets[at];
    // Dots may stand anywhere but in front.
    if (local === '' || local.startsWith('.') || !Array.from(local).every(c => c === '.' || isAtext(c)))
      return undefined;
  }
  if (octets[at] !== '@') return undefined;
  const domain = octets.slice(at + 1);
  if (domain[0] === '[') {
    const inner = domain.slice(1, -1).join('');
    const isLiteral = isIPv4(inner) || (/^IPv6:[0-9a-f:.]+$/i.test(inner) && isIPv6(inner.slice(5)));
    return domain.at(-1) === ']' && isLiteral ? local : undefined;
  }
  const labels = domain
    .join('')
    .split('.')
    .map(label => Array.from(label));
  const isGood = (label: readonly string[]): boolean =>
    label.length <= 63 && isLetter(label[0]) && isLetter(label.at(-1)) && label.every(c => c === '-' || isLetter(c));
  return labels.every(isGood) ? local : undefined;
}

function check(path: string): string {
  const address = parseAddress(path);
  const text = address?.text ?? path.replace(/^@[^@:,<>\s]+(?:,@[^@:,<>\s]+)*:/, '');
  const local = text.toLowerCase() === 'postmaster' ? text : scan(text);
  const isShort = local !== undefined && Buffer.byteLength(text) <= 254;
  assert.equal(address?.local, isShort ? local : undefined, `the scanner says otherwise of ${text}`);
  if (!address) return 'none';
  const mailbox = toMailbox(address);
  if (!mailbox) return 'no domain';
  const again = toMailbox(mailbox);
  assert.deepEqual(again, mailbox, 'its canonical form is not stable');
  assert.ok(/^[a-z0-9_.-]*$/.test(mailbox.domain) && mailbox.domain.length <= 253, mailbox.domain);
  for (const name of [toFileName(mailbox.local), toFileName(mailbox.domain)])
    assert.ok(!/[/\p{Cc}]|^\./u.test(name) && Buffer.byteLength(name) <= 255, name);
  return 'mailbox';
}

const all = (): boolean => true;
export const address: Target = {
  name: 'address',
  maxOctets: 160,
  seeds: [
    ...kept('address'),
    ...dialogues('dialogues').flatMap(lines =>
      lines.filter(({ text }) => /^(?:MAIL|RCPT)/i.test(text)).map(({ text }) => Buffer.from(text.slice(5, 500))),
    ),
  ],
  words:
    '<|>|@|"|\\|:|.|,|;|=|+|[|]| |FROM:<|TO:<|\xc3\xa4|\xef\xbc\xa0|\xe3\x80\x82|xn--|-|\xcc\x88|../|postmaster|[IPv6:::1]| SIZE=1| ORCPT=rfc822;x+40y| NOTIFY=NEVER| SMTPUTF8| RET=FULL| ENVID=x'.split(
      '|',
    ),
  run(input, _random, note) {
    const text = input.toString();
    if (/[\p{Cc}\ufffd]/u.test(text)) return; // the session refuses such lines
    const [path = text] = splitPath('FROM', text) ?? splitPath('TO', text) ?? [];
    note(check(path));
    for (const isUtf8 of [false, true]) {
      const recipient = parseRecipient(text, all, isUtf8);
      const sender = parseSender(text, all);
      note(
        `${'code' in recipient ? recipient.status : Object.keys(recipient.wishes).length} ${'code' in sender ? sender.status : sender.wishes.ret}`,
      );
      if (!('code' in recipient))
        assert.ok(isUtf8 || /^[ -~]*$/.test(recipient.address.text + recipient.wishes.originalRecipient), 'not ASCII');
      if (!('code' in sender))
        assert.ok(
          sender.wishes.isUtf8 || sender.reversePath === '' || /^[ -~]*$/.test(sender.reversePath.text),
          'not ASCII',
        );
      if (!('code' in sender))
        assert.ok(sender.reversePath === '' || sender.reversePath.domain !== '', 'a sender without domain');
    }
  },
};
