// For operators and their programs: GET /ready, /metrics, /status and what the status page asks for. Figures only: no
// content of a message, no address, no secret; the network process counts, and is asked.
import { summarize, tilesOf } from '../mail/summary.ts';
import { toText } from './prometheus.ts';
import type { Ask } from './protocol.ts';
import { type Route, json, text } from './server.ts';

const get = (path: string, about: string, answer: Route['answer']): Route => ({ method: 'GET', path, about, answer });

export const operateRoutes = (ask: Ask): readonly Route[] => [
  get('/ready', 'As /health, with what is wrong.', async () => {
    const { health, troubles } = await ask('figures');
    return json({ health, troubles }, health === 'unhealthy' ? 503 : 200);
  }),
  get('/metrics', "The figures in Prometheus' text format.", async () =>
    text(toText((await ask('figures')).metrics), 'text/plain; version=0.0.4; charset=utf-8'),
  ),
  get('/status/figures', 'What the status page shows.', async () => {
    const figures = await ask('figures');
    const { version, hostname, health, troubles, minutes } = figures;
    return json({
      version,
      hostname,
      health,
      troubles,
      minutes,
      tiles: tilesOf(figures),
      rows: summarize(figures),
    });
  }),
];
