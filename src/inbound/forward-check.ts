// A message that comes back to the address that has forwarded it: each forward leaves a line `Delivered-To` with the
// address, so one that is there already tells of a loop (as qmail and Postfix do it). Only mail that would be forwarded
// is looked at.
import { formatMailbox, toMailbox } from '../mail/address.ts';
import { parseAddress } from '../smtp/address.ts';
import { replies } from '../smtp/reply.ts';
import type { Check } from './checks.ts';

export const forwardCheck: Check = {
  name: 'forward',
  deadlineMs: 10_000,
  judge: ({ envelope, header }) => {
    const forwarding = envelope.recipients.filter(({ ticket }) => ticket?.found?.forwards !== undefined);
    if (forwarding.length === 0) return undefined;
    const names = new Set(forwarding.map(({ address }) => canonical(address.text)));
    return header().then(text =>
      linesOf(text).some(each => names.has(each)) ? replies.loop('Forwarded from here before') : undefined,
    );
  },
};

/** The addresses in these lines. Others spell them in angle brackets, too. */
function linesOf(header: string): readonly (string | undefined)[] {
  const lines = header.matchAll(/^delivered-to:[ \t]*<?([^>\n]*?)>?[ \t]*$/gim);
  return Array.from(lines, ([, text = '']) => canonical(Buffer.from(text, 'latin1').toString())).filter(Boolean);
}

function canonical(text: string): string | undefined {
  const address = parseAddress(text);
  const mailbox = address && toMailbox(address);
  return mailbox && formatMailbox(mailbox);
}
