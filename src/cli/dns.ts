// `slimsmtp dns [DOMAIN]`: the DNS records that hosted domains need, as a zone file, and whether they are there.
import type { Settings } from '../config/settings.ts';
import { askAll } from '../control/client.ts';
import type { WantedRecord } from '../mail/admin.ts';
import { controlPath } from '../main.ts';
import { type Flags, one, print } from './terminal.ts';

export async function dns(words: readonly string[], flags: Flags, settings: Settings): Promise<number> {
  const domain = words.length > 0 ? one(words) : undefined;
  const counts = { ok: 0, missing: 0, differs: 0, unknown: 0 };
  for await (const record of askAll(controlPath(settings), { verb: 'dns', domain })) {
    counts[record.status] += 1;
    print(flags, record, describe);
  }
  const told = Object.entries(counts).filter(([, count]) => count > 0);
  if (!flags.json) console.log(`; ${told.map(([status, count]) => `${count} ${status}`).join(', ')}`);
  return told.every(([status]) => status === 'ok') ? 0 : 1;
}

/** All that is not the record itself is a comment of the zone file, also what strangers' DNS has said. */
function describe({ type, value, zone, note, status, found }: WantedRecord): string {
  const shown = found.map(each => JSON.stringify(each)).join(', ');
  const verdicts = {
    ok: 'ok',
    missing: 'missing',
    differs: `differs: found ${shown}`,
    unknown: `cannot tell: ${shown}`,
  };
  const comments = [verdicts[status], ...(note?.split('\n') ?? [])];
  const isWhole = !value.startsWith('<'); // else only the operator can complete it
  const lines = [...comments.map(line => `; ${line}`), isWhole ? zone : `; ${zone}`];
  if (type === 'TXT') lines.push(`; on one line: ${value}`);
  return `${lines.join('\n')}\n`;
}
