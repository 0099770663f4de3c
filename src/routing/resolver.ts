// Decides where a recipient's mail goes: asks the directories in their fixed order and keeps the first answer.
// Promises: 'unknown' only after every directory was asked and answered; an outage of one (CannotTell) ends the
// question, so that it never falls through to the catch-all. Never looks at the sender, never touches a disk.
// RFC 5321 §3.6.2, §4.5.1 (postmaster); RFC 5233 (subaddresses).
import { toMailbox } from '../mail.ts';
import type { Directory, Domains, Explain, Mailbox, Route } from '../mail.ts';

/** What becomes of a recipient. `by` names the directory that knew it; `elsewhere` is a domain that is not ours. */
export type Resolution =
  | { readonly kind: 'local'; readonly routes: readonly Route[]; readonly by: string }
  | { readonly kind: 'unknown' }
  | { readonly kind: 'elsewhere' };

export type Resolver = {
  /** Throws CannotTell, from whichever source could not answer. `explain` gets the reasons, a line each. */
  resolve(address: Mailbox, explain?: Explain): Promise<Resolution>;
};

export type ResolverOptions = {
  /** In the order in which they are asked; the last may know everything. */
  readonly directories: readonly Directory[];
  readonly domains: Domains;
  /** What separates a mailbox from its subaddress; '' is none. */
  readonly subaddress: string;
  /** The domain of the bare `<postmaster>`: the first of SLIM_DOMAINS. */
  readonly mainDomain: string;
};

export function createResolver(options: ResolverOptions): Resolver {
  return {
    async resolve(address, explain = () => {}) {
      let mailbox = address;
      if (address.domain === '') {
        mailbox = withParts(address.local, options.mainDomain);
        explain(`<${address.local}> without a domain is ${show(mailbox)}`);
      }
      if (!(await options.domains.hosts(mailbox.domain))) {
        explain(`${mailbox.domain} is not hosted here: mail for it would have to be relayed`);
        return { kind: 'elsewhere' };
      }
      explain(`${mailbox.domain} is hosted here`);
      const candidates = [mailbox, ...withoutSubaddress(mailbox, options.subaddress)];
      for (const directory of options.directories) {
        for (const candidate of candidates) {
          const routes = await directory.lookup(candidate, explain);
          if (routes !== undefined) return { kind: 'local', routes, by: directory.name };
          explain(`${directory.name}: no entry for ${show(candidate)}`);
        }
      }
      return { kind: 'unknown' };
    },
  };
}

/** The mailbox before the first separator. One that begins with it has no base: `+shop@` is nobody's. */
function withoutSubaddress(mailbox: Mailbox, separator: string): Mailbox[] {
  const end = separator === '' ? -1 : mailbox.local.indexOf(separator);
  return end > 0 ? [withParts(mailbox.local.slice(0, end), mailbox.domain)] : [];
}

function withParts(local: string, domain: string): Mailbox {
  const mailbox = toMailbox({ local, domain });
  if (mailbox === undefined) throw new Error(`not a domain name: ${domain}`);
  return mailbox;
}

function show(mailbox: Mailbox): string {
  return `${mailbox.local}@${mailbox.domain}`;
}
