// What becomes of mail from outside once it is judged (SLIM_VERIFY). Pure.
// Promises: what cannot be told now never refuses a message for good and never puts it into `.Junk`; neither does SPF
// alone.
// RFC 9989 §5 (DMARC), RFC 7372 (5.7.26).
import type { Judgement } from '../mail/judgement.ts';
import { type Reply, replies } from '../smtp/reply.ts';

export type VerifyMode = 'on' | 'strict' | 'tag' | 'off';

/** What is known besides: whether the client's address says nothing, and whether a mailing list has sent it. */
export type Circumstances = Readonly<{ mode: VerifyMode; isNameless: boolean; hasListId: boolean }>;
/** Where it goes, or the reply that refuses it; and why, for people. */
type Fate = Readonly<{ to: 'mailbox' | 'junk' | Reply; why: string }>;

export function fateOf({ spf, dkim, arc, dmarc }: Judgement, circumstances: Circumstances): Fate {
  const { mode, isNameless, hasListId } = circumstances;
  const { result, policy, domain = 'the domain of its author' } = dmarc;
  if (mode === 'tag' || mode === 'off') return { to: 'mailbox', why: `SLIM_VERIFY=${mode} refuses nothing` };
  if (isNameless)
    return { to: 'mailbox', why: 'the address of the client may stand for anyone, so nothing is refused' };
  if (dmarc.hasSeveralAuthors && policy !== 'none')
    return {
      to: replies.severalAuthors,
      why: `it has several authors, and one of their domains publishes p=${policy}`,
    };
  if (result === 'temperror')
    return mode === 'strict' && policy === 'reject'
      ? { to: replies.judgeLater, why: `it cannot be told now, and ${domain} publishes p=reject` }
      : { to: 'mailbox', why: 'DMARC cannot be told now' };
  if (result !== 'fail') return { to: 'mailbox', why: `DMARC is ${result}` };
  if (policy === 'none') return { to: 'mailbox', why: `DMARC fails, and ${domain} publishes p=none` };
  if (policy === 'quarantine') return { to: 'junk', why: `DMARC fails, and ${domain} publishes p=quarantine` };
  const refused = { to: replies.notTheAuthors, why: `DMARC fails, and ${domain} publishes p=reject` };
  if (mode === 'strict') return refused;
  const voucher = [
    spf?.result === 'pass' && `SPF passes for ${spf.domain}`,
    ...dkim.map(each => each.result === 'pass' && `a signature of ${each.domain} is right`),
    arc.result === 'pass' && `the ARC chain of ${arc.domain ?? 'its sealers'} is right`,
    hasListId && 'it names a mailing list',
  ].find(Boolean);
  if (voucher) return { to: 'junk', why: `${refused.why}, but ${voucher}` };
  // Something might vouch for it that cannot be looked up now: then it is not refused for good.
  const isOpen = [spf?.result, arc.result, ...dkim.map(each => each.result)].includes('temperror');
  return isOpen ? { to: 'junk', why: `${refused.why}, but not all of it can be told now` } : refused;
}
