// `slimsmtp doctor`: what is wrong, and the line that mends it. Exit status 0 where there is nothing to do, else 1.
import { type Settings, SettingsError } from '../config/settings.ts';
import type { Finding } from '../mail/admin.ts';
import { controlPath } from '../main.ts';
import { type Flags, print, standardError } from './terminal.ts';

export async function doctor(flags: Flags, load: () => Settings): Promise<number> {
  let isWell = true;
  for await (const finding of findings(load)) {
    isWell &&= finding.status === 'ok' || finding.status === 'note';
    print(flags, finding, describe);
  }
  return isWell ? 0 : 1;
}

async function* findings(load: () => Settings): AsyncGenerator<Finding> {
  let settings: Settings;
  try {
    settings = load();
  } catch (error) {
    if (!(error instanceof SettingsError)) throw error;
    const mend = 'change it in .env (or compose.yaml), then: docker compose up -d';
    for (const text of error.problems) yield { about: 'settings', status: 'mend', text, mend: mendOf(text) ?? mend };
    return;
  }
  for (const { text } of settings.remarks) yield { about: 'settings', status: 'note', text };
  const { examine } = await import('../wiring/doctor.ts');
  yield* examine(settings, controlPath(settings), { ...standardError, warn: () => undefined, error: () => undefined });
}

/** Of a name that is misspelt the line is known. */
function mendOf(problem: string): string | undefined {
  const [, nearest] = /is not a setting; the nearest is (\w+)$/.exec(problem) ?? [];
  return nearest && `${nearest}=…`;
}

function describe({ about, status, text, mend }: Finding): string {
  const line = `${status.padEnd(8)}${about}: ${text}`;
  return mend === undefined || mend === '' ? line : `${line}\n        → ${mend}`;
}
