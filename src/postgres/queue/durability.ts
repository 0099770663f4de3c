// A commit that is not on the standby yet is reported as a success, with a warning alone, where somebody has cancelled
// its wait. 250 must not be said then: the connection is closed, so that the answer counts as lost, and what it was
// about is asked for again, which waits for the standby anew.
import type { PoolClient } from 'pg';

/** The code of a warning without a code of its own. A warning of another kind costs a connection, and nothing else. */
const warning = '01000';

export function distrustWarnings(client: PoolClient): void {
  client.on('notice', ({ code, severity }) => {
    if (code === warning && severity === 'WARNING') socketOf(client)?.destroy();
  });
}

/** The socket of a connection, which pg's types do not name. */
function socketOf(client: PoolClient): { destroy(): void } | undefined {
  return (client as unknown as { connection?: { stream?: { destroy(): void } } }).connection?.stream;
}
