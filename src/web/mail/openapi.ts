// GET /api/openapi.json: what this server answers, made of its very routes, in the form of OpenAPI 3.1.
import { type Route, json } from '../server.ts';

export function openApiRoute(routes: readonly Route[], version: string): Route {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const { method, path, about, query = {} } of routes) {
    const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => parameter('path', name ?? '', ''));
    const inQuery = Object.entries(query).map(([name, sentence]) => parameter('query', name, sentence));
    const hasBody = method === 'PUT' || method === 'POST';
    (paths[path] ??= {})[method.toLowerCase()] = {
      summary: about,
      parameters: [...inPath, ...inQuery],
      ...(hasBody && { requestBody: { content: { 'application/json': { schema: { type: 'object' } } } } }),
      responses: {
        ...(about.startsWith('Not here.') ? { 501: error } : { 200: { description: 'As asked for.' } }),
        ...('wait' in query && { 204: { description: 'No such message came in time.' } }),
        default: error,
      },
    };
  }
  const document = { openapi: '3.1.0', info: { title: 'SlimSMTP', version }, paths };
  return { method: 'GET', path: '/api/openapi.json', about: 'This document.', answer: () => json(document) };
}

const error = {
  description: 'Why not, in a sentence.',
  content: { 'application/json': { schema: { type: 'object', properties: { Error: { type: 'string' } } } } },
};

const parameter = (where: 'path' | 'query', name: string, description: string) => ({
  in: where,
  name,
  description,
  required: where === 'path',
  schema: { type: 'string' },
});
