// Mailpit's REST API v1 for captured mail: messages and search. What is ours: `to`, `subject` and other fields as
// parameters of the list, `wait`, `Checks` and `Envelope` of a message.
// Promise: a list or a message that is asked for after a 250 has that message.
import { createReadStream } from 'node:fs';
import { Problem, type Request, type Route, json } from '../server.ts';
import { type Desk, find, ok, readJson, settled, toIds } from './desk.ts';
import { arrives, filter, filterQuery, listed, search, toMs, wanted } from './listing.ts';
import type { Item } from './mailbox.ts';
import { parseSearch } from './search.ts';
import { headers, message } from './shapes.ts';

const page = { start: 'How many to skip.', limit: 'How many at most; 50 unless given, 10000 at most.' };
const timeZone = { tz: 'The time zone of dates in the search, such as Europe/Berlin; UTC unless given.' };

export function messageRoutes(desk: Desk): readonly Route[] {
  const { ask, mailbox } = desk;
  const one = (request: Request): Promise<Item> => find(desk, request);
  return [
    {
      method: 'GET',
      path: '/api/v1/messages',
      about:
        'The messages, the newest first. With `wait` it answers as soon as one matches, or 204 when the time is over.',
      query: {
        ...page,
        ...filterQuery,
        query: 'A search, as at /api/v1/search.',
        ...timeZone,
        wait: 'How long to wait for a message: 500ms, 10s, 2m; 5m at most.',
      },
      async answer(request) {
        await settled(desk);
        const matches = filter(request.query);
        const wait = request.query.get('wait');
        const isThere = wait === null || (await arrives(mailbox, matches, toMs(wait), request.gone));
        return isThere ? listed(desk, matches, request.query) : { status: 204 };
      },
    },
    {
      method: 'PUT',
      path: '/api/v1/messages',
      about: 'Marks messages as read or unread: those of `IDs`, those of `Search`, or all.',
      query: timeZone,
      async answer(request) {
        await settled(desk);
        const { IDs, Read = false, Search } = await readJson(request);
        const found = typeof Search === 'string' && Search !== '' ? search(desk, Search, request) : undefined;
        await ask('mark', found ?? toIds(IDs), { isRead: Read === true });
        return ok;
      },
    },
    {
      method: 'DELETE',
      path: '/api/v1/messages',
      about: 'Removes the messages of `IDs`, or all.',
      async answer(request) {
        await settled(desk);
        await ask('remove', toIds((await readJson(request))['IDs']));
        return ok;
      },
    },
    {
      method: 'GET',
      path: '/api/v1/search',
      about: 'The messages that match a search, the newest first.',
      query: { query: 'The search.', ...page, ...timeZone },
      async answer(request) {
        await settled(desk);
        return listed(desk, parseSearch(wanted(request), request.query.get('tz') ?? 'UTC'), request.query);
      },
    },
    {
      method: 'DELETE',
      path: '/api/v1/search',
      about: 'Removes the messages that match a search.',
      query: { query: 'The search.', ...timeZone },
      async answer(request) {
        await settled(desk);
        await ask('remove', search(desk, wanted(request), request));
        return ok;
      },
    },
    {
      method: 'GET',
      path: '/api/v1/message/{ID}',
      about: 'A message, which is read from then on. `latest` is the newest one, here and below.',
      async answer(request) {
        const item = await one(request);
        const answer = json(message(item, await mailbox.open(item)));
        if (!item.isRead) await ask('mark', [item.mail.id], { isRead: true });
        return answer;
      },
    },
    {
      method: 'GET',
      path: '/api/v1/message/{ID}/headers',
      about: 'The header of a message: each field with its values.',
      answer: async request => json(headers((await mailbox.open(await one(request))).parsed)),
    },
    {
      method: 'GET',
      path: '/api/v1/message/{ID}/raw',
      about: 'The message as it came, with our trace lines in front; lines end in CRLF. With dl=1 as a download.',
      query: { dl: '1: as a file' },
      async answer(request) {
        const item = await one(request);
        const isDownload = request.query.get('dl') === '1';
        return {
          status: 200,
          headers: {
            'Content-Type': 'text/plain; charset=utf-8',
            ...(isDownload && { 'Content-Disposition': `attachment; filename="${item.mail.id}.eml"` }),
          },
          body: withCrLf(mailbox.path(item)),
        };
      },
    },
    {
      method: 'GET',
      path: '/api/v1/message/{ID}/part/{PartID}',
      about: 'An attachment, or an inline part.',
      async answer(request) {
        const { parsed } = await mailbox.open(await one(request));
        const part = parsed.parts.find(({ id }) => id === request.inPath['PartID']);
        if (part === undefined) throw new Problem(404, 'The message has no such part.');
        const type = /^[\w.+-]+\/[\w.+-]+$/.test(part.type) ? part.type : 'application/octet-stream';
        return {
          status: 200,
          headers: {
            'Content-Type': type,
            'Content-Disposition': `inline; filename*=UTF-8''${encodeURIComponent(part.name || part.id)}`,
            // A part runs nothing and loads nothing, whatever it is.
            'Content-Security-Policy': "sandbox; default-src 'none'; style-src 'unsafe-inline'",
          },
          body: part.octets,
        };
      },
    },
    ...absent,
  ];
}

/** Routes of Mailpit's that are not here: they answer 501 with the reason. */
const absent: readonly Route[] = (
  [
    ['GET', '/api/v1/message/{ID}/html-check', 'The HTML check is not part of SlimSMTP.'],
    ['GET', '/api/v1/message/{ID}/link-check', 'Links are not checked: nothing leaves where mail is captured.'],
    ['GET', '/api/v1/message/{ID}/sa-check', 'SpamAssassin is not asked: nothing leaves where mail is captured.'],
    ['GET', '/api/v1/message/{ID}/part/{PartID}/thumb', 'There are no thumbnails; ask for the part itself.'],
    ['POST', '/api/v1/message/{ID}/release', 'Mail is not released: nothing leaves where mail is captured.'],
  ] as const
).map(([method, path, why]) => ({
  method,
  path,
  about: `Not here. ${why}`,
  answer: () => json({ Error: why }, 501),
}));

async function* withCrLf(path: string): AsyncGenerator<Buffer> {
  for await (const piece of createReadStream(path) as AsyncIterable<Buffer>)
    yield Buffer.from(piece.toString('latin1').replaceAll('\n', '\r\n'), 'latin1');
}
