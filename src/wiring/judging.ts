// Judging mail from outside: the checks and the child that they ask. Nothing of it is loaded where SLIM_VERIFY is off.
import { existsSync } from 'node:fs';
import type { Settings } from '../config/settings.ts';
import type { Check } from '../inbound/checks.ts';
import type { Gatherer } from '../system/gather.ts';
import { type Context, system } from './context.ts';
import { programOf } from './programs.ts';

/** The log and the listeners that are told of the child. */
type Told = Pick<Context, 'log'> & Partial<Pick<Context, 'listen'>>;

/** Opens the checks, in the order in which they are asked: a signature may cover what the second one changes. */
export async function openJudging(
  settings: Pick<Settings, 'verify' | 'hostname' | 'resolver'>,
  gatherer: Gatherer,
  told: Told,
): Promise<readonly Check[]> {
  const { verify: mode, hostname } = settings;
  if (mode === 'off') return [];
  const { claimsCheck, judgingCheck } = await import('../inbound/judging.ts');
  const judge = await openJudges(settings, told);
  return [judgingCheck({ judge, mode, hostname, gatherer }), claimsCheck(hostname)];
}

/** Opens what asks the judging child. The child is started when it is needed. */
export async function openJudges(
  { hostname, resolver: servers }: Pick<Settings, 'hostname' | 'resolver'>,
  { log, listen }: Told,
) {
  const { Judges } = await import('../judge/judges.ts');
  const { script, mayRead } = programOf('judge');
  if (!existsSync(script)) log.error({ script }, 'the judging child is missing: mail from outside cannot be verified');
  return new Judges({ argv: [script], mayRead, hostname, servers, clock: system.clock, log, listen });
}
