// What signs outgoing mail, and seals what is forwarded: the keys, the signer and the sealer. Loaded only where
// SLIM_DKIM is on, or where judged mail may be forwarded.
import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';
import type { Answers, RequestOf } from '../control/requests.ts';
import type { Domains, Signer } from '../mail/ports.ts';
import { type Context, system } from './context.ts';

/** So long after the start the records of keys that wait for them are looked for. */
const firstLookMs = 60_000;
/** From then on they are looked for so often. */
const lookEveryMs = 10 * 60_000;

export async function openSigning({ settings, dns, log, onReload }: Context, domains: Domains) {
  const { storages, verify, hostname, dkimKeys, sharesQueue } = settings;
  const forwards = storages.places.some(each => 'forward' in each);
  // Replicas without common keys leave forwards unsealed: nobody could find the keys of each.
  const hasKeys = !sharesQueue || dkimKeys !== undefined;
  const seals = verify !== 'off' && (forwards || storages.postgresql) && hasKeys;
  if (!settings.dkim && !seals) return undefined;
  const [{ Keys }, { createSigner }] = await Promise.all([import('../dkim/keys.ts'), import('../dkim/signer.ts')]);
  // A relay such as SES refuses mail with two signatures.
  const algorithms = settings.relay ? (['rsa'] as const) : (['rsa', 'ed25519'] as const);
  const txt = async (name: string): Promise<readonly string[]> => (await dns.txt(name)).records;
  const folder = dkimKeys ?? join(settings.dataFolder, 'dkim');
  const isOnlyRead = sharesQueue || !isWritable(folder);
  const keys = new Keys({ folder, isOnlyRead, algorithms, txt, ...system, log });
  onReload(() => keys.forget());
  const mainDomain = settings.domains[0] ?? '';
  const signer = settings.dkim ? createSigner({ keys, domains, ...system, log }) : undefined;
  const sealing = { keys, domain: mainDomain, hostname, ...system, log };
  const sealer = seals ? (await import('../dkim/sealer.ts')).createSealer(sealing) : undefined;
  let timer: NodeJS.Timeout | undefined;
  return {
    keys,
    signer: sealer === undefined ? signer : either(sealer, signer),
    /** Makes the first keys of SLIM_DOMAINS, side by side with all else; to seal, those of the first one are enough. */
    start(): void {
      const look = (): void => {
        timer = setTimeout(() => void keys.look().then(look), timer ? lookEveryMs : firstLookMs).unref();
      };
      if (!isOnlyRead) look();
      void (async () => {
        // Whether the table has forwards shows with the first of them.
        const first = forwards ? [mainDomain] : [];
        for (const domain of settings.dkim ? settings.domains : first)
          await keys
            .signing(domain)
            .catch((error: unknown) => log.error({ domain, error: String(error) }, settings.dkim ? noKeys : noSeal));
      })();
    },
    stop: (): void => clearTimeout(timer),
  };
}
export type Signing = NonNullable<Awaited<ReturnType<typeof openSigning>>>;

function isWritable(folder: string): boolean {
  try {
    accessSync(folder, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/** Seals forwards of what came from outside, and signs what is ours. */
const either = (sealer: Signer, signer: Signer | undefined): Signer => ({
  sign: async (...what) => (await sealer.sign(...what)) || ((await signer?.sign(...what)) ?? ''),
});

const noSeal = 'there is no key to seal forwards with (ARC): they leave without a seal';
const noKeys = 'a domain has no keys to sign with: its mail waits until they can be read';

/** What `slimsmtp dkim` is answered. */
export async function* answerDkim(
  { action, domain }: RequestOf<'dkim'>,
  { signing, domains }: { readonly signing: Signing | undefined; readonly domains: Domains },
): AsyncGenerator<Answers['dkim']> {
  if (signing === undefined) throw new Error('SLIM_DKIM is off: nothing is signed');
  const { keys } = signing;
  if (domain !== undefined && !(await domains.hosts(domain))) throw new Error(`${domain} is not hosted here`);
  if (action === 'rotate') {
    if (domain === undefined) throw new Error('which domain?');
    yield* await keys.rotate(domain);
  } else for (const each of domain === undefined ? keys.domains() : [domain]) yield* await keys.list(each);
}
