// What the queue tells `slimsmtp doctor`: why mail waits, where it is our operator who can mend that.
import type { Finding, QueuedMessage } from '../mail/admin.ts';

/** The status with which mail waits, what it means where much of it does, and what mends it. */
const causes: Readonly<Record<string, readonly [text: string, mend: string]>> = {
  '4.4.1': [
    'no server outside can be reached: is port 25 closed for us?',
    "ask the provider to open port 25 outwards, or send through a relay: SLIM_RELAY_HOST='…'",
  ],
  '4.4.3': ['DNS does not answer', 'SLIM_RESOLVER=unbound, and docker compose --profile dns up -d'],
  '4.7.4': ['servers without TLS', "SLIM_EXTERNAL_TLS='required example.net=opportunistic'"],
  '4.7.5': ['a certificate or a key is wrong', 'slimsmtp queue list says which'],
  '4.7.8': ['the relay refuses the login', "SLIM_RELAY_USER='…' and SLIM_RELAY_PASSWORD='…'"],
};
/** One domain that cannot be reached is that domain's trouble. */
const fewestDomains: Readonly<Record<string, number>> = { '4.4.1': 3, '4.4.3': 3 };

export async function checkQueue(messages: AsyncIterable<QueuedMessage>): Promise<readonly Finding[]> {
  const domains = new Map<string, Set<string>>();
  let count = 0;
  let held = 0;
  for await (const { recipients, isHeld } of messages) {
    count += 1;
    if (isHeld) held += 1;
    for (const { status = '', domain } of recipients)
      domains.set(status, (domains.get(status) ?? new Set()).add(domain));
  }
  const about = 'queue';
  const found = [...domains].flatMap(([status, names]): Finding[] => {
    const [text, mend] = causes[status] ?? [];
    if (text === undefined || names.size < (fewestDomains[status] ?? 1)) return [];
    const shown = [...names].slice(0, 3).join(', ');
    return [
      {
        about,
        status: 'mend',
        text: `mail for ${names.size} domains (${shown}) waits with ${status}: ${text}`,
        mend: mend ?? '',
      },
    ];
  });
  if (held > 0)
    found.push({
      about,
      status: 'mend',
      text: `${held} messages are held`,
      mend: 'slimsmtp queue release --all, or queue remove ID',
    });
  return found.length > 0 ? found : [{ about, status: 'ok', text: `${count} messages wait` }];
}
