// The page: the files that lie in page/, beside this code or beside the bundle. They are read once, and nothing else
// can be asked for. Promise: the page loads nothing from elsewhere, and may be framed by nobody (Content Security
// Policy).
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { extname, join } from 'node:path';
import type { Route } from './server.ts';

const types: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
};
const policy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "frame-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
].join('; ');

/** `/` is index.html. */
export function pageRoutes(folder: string): readonly Route[] {
  const names = existsSync(folder) ? readdirSync(folder).filter(name => extname(name) in types) : [];
  return names.map(name => {
    const body = readFileSync(join(folder, name));
    const headers = { 'Content-Type': types[extname(name)] ?? '', 'Content-Security-Policy': policy };
    return {
      method: 'GET',
      path: name === 'index.html' ? '/' : `/${name}`,
      about: 'The page.',
      answer: () => ({ status: 200, headers, body }),
    };
  });
}

/** The status page; where no mail is captured it is also at `/`. */
export function statusRoutes(folder: string, isAlone: boolean): readonly Route[] {
  const files = pageRoutes(folder).filter(({ path }) => path.startsWith('/status.'));
  const page = files.find(({ path }) => path === '/status.html');
  const paths = isAlone ? ['/status', '/'] : ['/status'];
  return [...files, ...(page ? paths.map(path => ({ ...page, path })) : [])];
}
