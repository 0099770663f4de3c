// GET /health: whether mail is taken, for load balancers and container engines. 200, or 503 where it is not; no
// address, no name and no content is in it. /livez and /readyz are Mailpit's names for it.
import type { Ask } from './protocol.ts';
import { type Route, json } from './server.ts';

export const healthRoutes = (ask: Ask): readonly Route[] =>
  ['/health', '/livez', '/readyz'].map(path => ({
    method: 'GET',
    path,
    about: 'Whether mail is taken: 200, or 503.',
    async answer() {
      const health = await ask('health');
      return json(health, health.health === 'unhealthy' ? 503 : 200);
    },
  }));
