// `slimsmtp status`: what the running server does, and what it has done since its start; on a terminal anew every
// second.
import { setTimeout as pause } from 'node:timers/promises';
import type { Settings } from '../config/settings.ts';
import { ask } from '../control/client.ts';
import { controlPath } from '../main.ts';
import type { Figures, Minute } from '../mail/figures.ts';
import { age, summarize } from '../mail/summary.ts';
import { type Flags, print } from './terminal.ts';

const everyMs = 1000;
const clearScreen = '\u001b[H\u001b[J';

export async function status(flags: Flags, settings: Settings): Promise<number> {
  const isLive = process.stdout.isTTY && !flags.json;
  for (;;) {
    const figures = await ask(controlPath(settings), { verb: 'figures' });
    const shown = (isLive ? clearScreen : '') + toText(figures);
    const exit = print(flags, figures, () => shown, figures.health !== 'unhealthy');
    if (!isLive) return exit;
    await pause(everyMs);
  }
}

function toText(figures: Figures): string {
  const { version, hostname, health, troubles, now, startedAt, minutes } = figures;
  const rows = summarize(figures).map(([about, ...facts]) => `${about.padEnd(12)} ${facts.join(' · ')}`);
  const past = minutes.length === 0 ? [] : [bars('taken', minutes), bars('refused', minutes), bars('sent', minutes)];
  return [
    `SlimSMTP ${version} on ${hostname}: ${health}, up ${age((now - startedAt) / 1000)}`,
    ...troubles.map(trouble => `! ${trouble}`),
    '',
    ...rows,
    '',
    ...past,
  ].join('\n');
}

/** A character for each minute of the last hour, as high as what happened in it. */
function bars(what: 'taken' | 'refused' | 'sent', minutes: readonly Minute[]): string {
  const values = minutes.map(minute => minute[what]);
  const most = Math.max(...values);
  const drawn = values.map(value => (most === 0 ? '▁' : '▁▂▃▄▅▆▇█'[Math.ceil((7 * value) / most)]));
  return `${what.padEnd(12)} ${drawn.join('')} at most ${most} a minute`;
}
