// The reverse-path of mail that is forwarded, and the way back of a bounce to it.
// Promises:
// - Only the address of a foreign sender is rewritten: our own domains vouch for this server in their SPF records, and
//   the null reverse-path stays null.
// - The secret is SLIM_SRS_SECRET, or one that is made at the first need and kept in SLIM_DATA/state/srs-secret, 0600.
//   Before there is one, every address of SRS is forged; where nothing can be forwarded, it is an address as any other.
//   Replicas make none, since the bounces of one would be forged for the others.
// - Nothing is forwarded under an address that could not come back: a secret that cannot be kept is CannotTell.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { replaceFileSync } from '../durable/replace.ts';
import { toMailbox } from '../mail/address.ts';
import { CannotTell, type Domains, type ReturnPaths } from '../mail/ports.ts';
import { parseAddress } from '../smtp/address.ts';
import type { World } from '../system/world.ts';
import { type Plain, isMarked, restore, rewrite } from './srs.ts';

type ReturnPathOptions = Pick<World, 'clock' | 'random'> &
  Readonly<{
    /** SLIM_SRS_SECRET. */
    secret: string | undefined;
    /** Whether several servers forward for the same domains: then a secret must be given. */
    sharesQueue?: boolean;
    /** Whether the settings have forwards, or a source that may. */
    mayForward: boolean;
    /** SLIM_DATA/state. */
    folder: string;
    /** The first of SLIM_DOMAINS, where our addresses of SRS are. */
    mainDomain: string;
    domains: Domains;
  }>;

export function openReturnPaths(options: ReturnPathOptions): ReturnPaths {
  const { mayForward, sharesQueue = false, folder, mainDomain, domains, clock, random } = options;
  const path = join(folder, 'srs-secret');
  let secret = options.secret ?? (sharesQueue ? undefined : read(path));
  const needSecret = (): string => {
    if (secret !== undefined) return secret;
    if (sharesQueue) throw new CannotTell('replicas forward nothing without SLIM_SRS_SECRET', { status: '4.3.5' });
    const made = random.hex(24);
    try {
      replaceFileSync(path, `${made}\n`);
    } catch (error) {
      throw new CannotTell(`the secret for SRS cannot be kept in ${path}: ${String(error)}`, { cause: error });
    }
    return (secret = made);
  };
  return {
    async forForward(from) {
      const address = from === '' ? undefined : parseAddress(from);
      const sender = address && toMailbox(address);
      if (address === undefined || sender === undefined || (await domains.hosts(sender.domain))) return from;
      const local = rewrite({ local: address.local, domain: sender.domain }, clock.now(), { secret: needSecret() });
      const rewritten = toText({ local, domain: mainDomain });
      // One that would be too long stays: mail from the wrong server is better than none.
      return parseAddress(rewritten) === undefined ? from : rewritten;
    },
    wayBack({ local, domain }) {
      if (domain !== mainDomain || !isMarked(local)) return undefined;
      if (secret === undefined) return mayForward ? 'forged or old' : undefined;
      const original = restore(local, clock.now(), { secret });
      const address = original && parseAddress(toText(original));
      const mailbox = address && toMailbox(address);
      return mailbox ? { address: address.text, mailbox } : 'forged or old';
    },
  };
}

function read(path: string): string | undefined {
  return existsSync(path) ? readFileSync(path, 'utf8').trim() || undefined : undefined;
}

/** An address as it stands in a path, in quotes where its local part needs them (RFC 5321 §4.1.2). */
function toText({ local, domain }: Plain): string {
  const plain = `${local}@${domain}`;
  if (parseAddress(plain)?.local === local) return plain;
  return `"${local.replaceAll(/["\\]/g, String.raw`\$&`)}"@${domain}`;
}
