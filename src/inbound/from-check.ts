// The check of the From field, where mail is signed: we answer for what a login writes there, so it may write only what
// it may say in MAIL FROM (SLIM_SENDER_CHECK). `strict`: each of the addresses is its own. `domain`: each is of a
// hosted domain.
// Promises: what cannot be read as one field with one list of addresses is refused, since others may read it in another
// way. Mail without From is taken. Trusted networks are not asked, as for MAIL FROM; nor are strangers, whose mail is
// not signed.
// RFC 6409 §6.1, RFC 5322 §3.6.2.
import { parseAddressList } from '../mail/address-list.ts';
import { bodyOf } from '../mail/header.ts';
import { replies } from '../smtp/reply.ts';
import type { Arrived, Check, Verdict } from './checks.ts';
import { maxFields } from './fields.ts';
import type { Peer } from './peer.ts';
import { type Policy, answerSender } from './policy.ts';

/** Each address may cost two questions to the database. */
const maxAuthors = 20;

export const fromCheck = (policy: Policy): Check => ({
  name: 'from',
  deadlineMs: 60_000,
  judge: ({ peer, fields }) => (peer.login === undefined ? undefined : judge(peer, fields, policy)),
});

async function judge(peer: Peer, fields: Arrived['fields'], policy: Policy): Promise<Verdict> {
  const found = (await fields()).fields;
  if (found.length >= maxFields) return replies.headerTooLong;
  const [from, ...others] = found.filter(({ name }) => name === 'from');
  if (from === undefined) return undefined;
  const isClear = others.length === 0 && !from.isCut;
  const authors = isClear ? parseAddressList(Buffer.from(bodyOf(from), 'latin1').toString()) : undefined;
  if (authors === undefined || authors.length === 0 || authors.length > maxAuthors) return replies.notYourFrom;
  for (const author of authors) {
    const { code, status } = await answerSender(peer, author, policy);
    if (code >= 500) return replies.notYourFrom;
    if (code >= 400) return replies.cannotTell(status ?? '4.3.0');
  }
  return undefined;
}
