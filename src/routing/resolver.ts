// Decides where a recipient's mail goes: asks the directories in their fixed order and keeps the first answer.
// Promises: 'unknown' only after every directory was asked and answered; an outage of one (CannotTell) ends the
// question, so that it never falls through to the catch-all. Never looks at the sender, never touches a disk.
// RFC 5321 §3.6.2, §4.5.1 (postmaster); RFC 5233 (subaddresses).
import type { Directory, Domains, Explain, Resolution, Resolve, ReturnPaths } from '../mail/ports.ts';
import { type Mailbox, formatMailbox, toMailbox } from '../mail/address.ts';
import { followForwards } from './follow.ts';

type ResolverOptions = {
  readonly directories: readonly Directory[]; // in the order in which they are asked; the last may know everything
  readonly domains: Domains;
  readonly subaddress: string; // what separates a mailbox from its subaddress; '' is none
  readonly returnPaths?: ReturnPaths; // where bounces of forwarded mail come to addresses of ours
  readonly mainDomain: string; // the domain of the bare `<postmaster>`: the first of SLIM_DOMAINS
};

/** `explain` gets the reasons, a line each. */
export function createResolver(options: ResolverOptions): Resolve {
  const { returnPaths, mainDomain } = options;
  const decide = createDecision(options);
  return async (given, explain, written) => {
    const mailbox = given.domain === '' ? (toMailbox({ local: given.local, domain: mainDomain }) ?? given) : given;
    const back = returnPaths?.wayBack({ local: written ?? mailbox.local, domain: mailbox.domain });
    const found = back === undefined ? await decide(mailbox, explain) : foundBack(back, mailbox, explain);
    if (found.kind !== 'local' || found.forwards === undefined) return found;
    return { kind: 'local', ...(await followForwards(mailbox, found, decide, explain)) };
  };
}

/** Of an address for bounces to mail that was forwarded. One that is forged is nobody's, and no catch-all gets it. */
function foundBack(
  back: NonNullable<ReturnType<ReturnPaths['wayBack']>>,
  mailbox: Mailbox,
  explain?: Explain,
): Resolution {
  if (back === 'forged or old') {
    explain?.(`SRS: ${formatMailbox(mailbox)} was not made here, or is too old`);
    return { kind: 'unknown' };
  }
  explain?.(`SRS: ${formatMailbox(mailbox)} takes bounces, with the null reverse-path, for ${back.address}`);
  return { kind: 'local', routes: [], forwards: [back], isForBounces: true };
}

/** Without following forwards. It waits only for those that have to ask somebody: settings answer at once. */
function createDecision({ directories, domains, subaddress }: ResolverOptions) {
  return async (whole: Mailbox, explain?: Explain): Promise<Resolution> => {
    const { local, domain } = whole;
    const hosted = domains.hosts(domain);
    if (!(hosted instanceof Promise ? await hosted : hosted)) {
      explain?.(`${domain} is not hosted here: mail for it would have to be relayed`);
      return { kind: 'elsewhere' };
    }
    explain?.(`${domain} is hosted here`);
    // A local part that begins with the separator has no base: `+shop@` is nobody's.
    const end = subaddress === '' ? -1 : local.indexOf(subaddress);
    const base = end > 0 ? toMailbox({ local: local.slice(0, end), domain }) : undefined;
    for (const directory of directories)
      for (const mailbox of base === undefined ? [whole] : [whole, base]) {
        const answer = directory.lookup(mailbox, explain);
        const found = answer instanceof Promise ? await answer : answer;
        // An address with a subaddress is not the mailbox's own.
        if (found !== undefined) return { kind: 'local', ...(mailbox === base && { via: 'alias' }), ...found };
        explain?.(`${directory.name}: no entry for ${formatMailbox(mailbox)}`);
      }
    return { kind: 'unknown' };
  };
}
