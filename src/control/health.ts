// What the state of the server means, for people and for whatever restarts it.
import type { Figures } from '../mail/figures.ts';
import type { Health } from './requests.ts';

/**
 * A word, and what is wrong, in sentences with the command that mends it. Without its database it is degraded, and
 * works.
 */
export function judge(health: Health): Pick<Figures, 'health' | 'troubles'> {
  const { listening, database, writable, unwritable } = health;
  const troubles = [
    ...(listening ? [] : ['it does not listen']),
    ...(writable ? [] : ['SLIM_DATA cannot be written']),
    ...unwritable.map(
      ({ setting, path, error, command }) =>
        `${setting}: mail cannot be written to ${path}: ${error}${command === undefined ? '' : `; run ${command}`}`,
    ),
  ];
  if (troubles.length > 0) return { health: 'unhealthy', troubles };
  if (database === 'down') return { health: 'degraded', troubles: ['the database does not answer: 451 until it does'] };
  return { health: 'healthy', troubles };
}
