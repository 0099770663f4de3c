// The parts of a message for people to look at: its HTML and its text, each as a document of its own. Promise: HTML of
// a message runs nothing and sends nothing: no script, no form, no frame, nothing from elsewhere unless the reader asks
// for it (`remote=1`), in a sandbox; and what would make a browser look up or connect to another host ahead of need
// (RFC 8297, Resource Hints) has no effect. With `embed=1`, as a page shows it, it is whole in itself: inline images
// stand in it.
import { Problem, type Route } from '../server.ts';
import { type Desk, find } from './desk.ts';
import type { Parsed } from './parse.ts';

export function viewRoutes(desk: Desk): readonly Route[] {
  return [
    {
      method: 'GET',
      path: '/view/{ID}.html',
      about: 'The HTML of a message. With embed=1 for a frame; with remote=1 what it loads from elsewhere is loaded.',
      query: { embed: '1: for a frame', remote: '1: load what is elsewhere' },
      async answer(request) {
        const item = await find(desk, request);
        const { parsed } = await desk.mailbox.open(item);
        if (parsed.html === '') throw new Problem(404, 'The message has no HTML.');
        const isEmbedded = request.query.get('embed') === '1';
        const isRemote = request.query.get('remote') === '1';
        return {
          status: 200,
          headers: {
            'Content-Type': 'text/html; charset=utf-8',
            'Content-Security-Policy': policy(isEmbedded, isRemote),
            'X-DNS-Prefetch-Control': 'off',
          },
          body: isEmbedded ? embedded(parsed, isRemote) : linked(parsed, item.mail.id, isRemote),
        };
      },
    },
    {
      method: 'GET',
      path: '/view/{ID}.txt',
      about: 'The text of a message.',
      async answer(request) {
        const { parsed } = await desk.mailbox.open(await find(desk, request));
        return { status: 200, headers: { 'Content-Type': 'text/plain; charset=utf-8' }, body: parsed.text };
      },
    },
  ];
}

function policy(isEmbedded: boolean, isRemote: boolean): string {
  const elsewhere = isRemote ? ' http: https:' : '';
  // The document keeps its origin, so that inline images load; without scripts that gives it nothing.
  const sandbox = isEmbedded ? '' : ' allow-same-origin';
  return [
    `sandbox${sandbox} allow-popups allow-popups-to-escape-sandbox`,
    "default-src 'none'",
    `img-src data:${isEmbedded ? '' : " 'self'"}${elsewhere}`,
    `media-src data:${elsewhere}`,
    `font-src data:${elsewhere}`,
    `style-src 'unsafe-inline'${elsewhere}`,
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'self'",
  ].join('; ');
}

/** The HTML with links to this API in place of inline parts, as Mailpit has it. */
const linked = (parsed: Parsed, id: string, isRemote: boolean): string =>
  tame(
    replaceInline(parsed, part => `/api/v1/message/${id}/part/${part.id}`),
    isRemote,
  );

function embedded(parsed: Parsed, isRemote: boolean): string {
  const html = replaceInline(parsed, ({ type, octets }) => {
    const isImage = /^image\/[\w.+-]+$/.test(type);
    return `data:${isImage ? type : 'application/octet-stream'};base64,${octets.toString('base64')}`;
  });
  return `<!doctype html><base target="_blank">${tame(html, isRemote)}`;
}

/**
 * Tags that the policy does not cover get the name of one that may stand in the same places and means nothing to a
 * browser of today. They are `base`, `link` and `meta`, and frames: a browser connects to where one leads before it
 * looks whether it may be loaded (seen in Chromium 156). This needs no parser, and linear time: a browser makes a
 * `link` only of these very characters. Style sheets that the reader has asked for stay.
 */
const tame = (html: string, isRemote: boolean): string =>
  html.replaceAll(isRemote ? /<(?:base|meta|i?frame)/gi : /<(?:base|link|meta|i?frame)/gi, '<bgsound');

/** Puts a URL in place of each `cid:` (RFC 2392) that names a part. */
function replaceInline({ html, parts }: Parsed, toUrl: (part: Parsed['parts'][number]) => string): string {
  return html.replaceAll(/(["'(=]\s*)cid:([^"'()\s<>]+)/gi, (whole, before: string, cid: string) => {
    const part = parts.find(({ contentId }) => contentId === cid || contentId === tryDecode(cid));
    return part ? before + toUrl(part) : whole;
  });
}

function tryDecode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
