// The pages: the files that lie in page/, beside this code or beside the bundle. Each is read once, and nothing else
// can be asked for. Promise: a page loads nothing from elsewhere, and may be framed by nobody (Content Security
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

/** The files of the status page. All others belong to the page of captured mail. */
const statusFiles: ReadonlySet<string> = new Set(['status.html', 'status.js', 'status.css', 'base.css', 'dom.js']);

/**
 * The routes of both pages, each file read once. The page of captured mail is at `/`, and the status page at `/status`.
 * Without captured mail the status page is at `/` too, and the other files are not read.
 */
export function readPages(folder: string, hasMail: boolean): Readonly<Record<'status' | 'mail', readonly Route[]>> {
  const names = existsSync(folder) ? readdirSync(folder).filter(name => extname(name) in types) : [];
  const ofStatus = names.filter(name => statusFiles.has(name));
  const ofMail = hasMail ? names.filter(name => !statusFiles.has(name)) : [];
  const statusPaths = hasMail ? ['/status.html', '/status'] : ['/status.html', '/status', '/'];
  return {
    status: ofStatus.flatMap(name => toRoutes(join(folder, name), name === 'status.html' ? statusPaths : [`/${name}`])),
    mail: ofMail.flatMap(name => toRoutes(join(folder, name), [name === 'index.html' ? '/' : `/${name}`])),
  };
}

/** The same file at each of these paths. */
function toRoutes(file: string, paths: readonly string[]): readonly Route[] {
  const body = readFileSync(file);
  const headers = { 'Content-Type': types[extname(file)] ?? '', 'Content-Security-Policy': policy };
  const answer = () => ({ status: 200, headers, body });
  return paths.map(path => ({ method: 'GET', path, about: 'The page.', answer }));
}
