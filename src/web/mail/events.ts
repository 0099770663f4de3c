// GET /api/events: a WebSocket on which everything that happens to captured mail is told, as Mailpit does: new, update,
// delete, prune, truncate, stats.
// Promise: a listener that does not read costs a bounded memory, and is then dropped. Nothing that it sends is looked
// at.
// RFC 6455.
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { type WebSocket, WebSocketServer } from 'ws';
import * as limits from '../limits.ts';
import type { Mailbox, Told } from './mailbox.ts';
import { countUnread, listItem } from './shapes.ts';

const path = '/api/events';
/** Figures are told so long after a change, once for all changes until then. */
const statsMs = 100;

/**
 * Gives a function that takes over a connection which wants a WebSocket at /api/events; false where it wants something
 * else.
 */
export function openEvents(mailbox: Mailbox, version: string) {
  const server = new WebSocketServer({ noServer: true, maxPayload: 1024, perMessageDeflate: false });
  const listeners = new Set<WebSocket>();
  let stats: NodeJS.Timeout | undefined;
  const tell = (type: string, data: unknown): void => {
    const line = JSON.stringify({ Type: type, Data: data });
    for (const listener of listeners)
      if (listener.bufferedAmount > limits.maxUnsentOctets) listener.terminate();
      else listener.send(line);
  };
  const tellStats = (): void => {
    stats = undefined;
    const items = mailbox.items();
    tell('stats', { Total: items.length, Unread: countUnread(items), Version: version });
  };
  mailbox.listen(told => {
    if (listeners.size === 0) return;
    for (const [type, data] of toEvents(told, mailbox)) tell(type, data);
    stats ??= setTimeout(tellStats, statsMs);
  });
  return (wanted: string, request: IncomingMessage, socket: Duplex, head: Buffer): boolean => {
    if (wanted !== path || listeners.size >= limits.maxListeners) return false;
    server.handleUpgrade(request, socket, head, listener => {
      listeners.add(listener);
      listener.on('error', () => listener.terminate());
      listener.on('close', () => listeners.delete(listener));
    });
    return true;
  };
}

function toEvents(told: Told, mailbox: Mailbox): readonly (readonly [type: string, data: unknown])[] {
  switch (told.kind) {
    case 'arrived':
      return [['new', listItem(told.item)]];
    case 'removed':
      if (told.why === 'pruned') return [['prune', null]];
      if (mailbox.items().length === 0) return [['truncate', null]];
      return told.ids.map(ID => ['delete', { ID }] as const);
    case 'marked': {
      const { ids, isRead, tags } = told;
      const changed = { ...(isRead !== undefined && { Read: isRead }), ...(tags !== undefined && { Tags: tags }) };
      return ids.map(ID => ['update', { ID, ...changed }] as const);
    }
    default:
      return told satisfies never;
  }
}
