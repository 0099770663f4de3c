// What the page asks of the server: Mailpit's REST API v1, and its events.

/** @typedef {{ Name: string, Address: string }} Person */
/**
 * A message as lists have it.
 * @typedef {{
 *   ID: string, Read: boolean, From: Person | null, To: Person[] | null, Subject: string, Created: string,
 *   Size: number, Attachments: number, Snippet: string
 * }} Summary
 */
/** @typedef {{ PartID: string, FileName: string, ContentType: string, Size: number }} Attachment */
/**
 * @typedef {{ From: string, To: string[], Helo: string, Client: string, TLS: string, Login: string }} Envelope
 * @typedef {{
 *   ID: string, From: Person | null, To: Person[] | null, Cc: Person[] | null, Bcc: Person[] | null,
 *   ReplyTo: Person[] | null, Subject: string, Date: string, Size: number, Text: string, HTML: string,
 *   Attachments: Attachment[], Inline: Attachment[], Envelope: Envelope, Checks: Check[]
 * }} Message
 */
/** @typedef {{ Name: string, Text: string }} Check */
/** @typedef {{ messages: Summary[], messages_count: number, total: number, unread: number }} Found */

/**
 * @param {string} path
 * @param {string} [method]
 * @param {unknown} [body] sent as JSON
 * @returns {Promise<Response>} one that went well
 * @throws {Error} with a sentence for a person
 */
async function ask(path, method = 'GET', body = undefined) {
  const options = body === undefined ? { method } : { method, body: JSON.stringify(body) };
  const headers = { 'Content-Type': 'application/json' };
  const answer = await fetch(path, { ...options, headers }).catch(() => {
    throw new Error('The server does not answer.');
  });
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => undefined);
  throw new Error(said?.Error ?? said?.error ?? `The server answered ${answer.status} to ${method} ${path}.`);
}

/** @param {string} id */
export const pathOf = id => `/api/v1/message/${encodeURIComponent(id)}`;

/**
 * Messages, the newest first: all, or those that a search finds.
 * @param {string} query
 * @param {number} start
 * @param {number} limit
 * @returns {Promise<Found>}
 */
export async function list(query, start, limit) {
  const range = new URLSearchParams({ start: String(start), limit: String(limit) });
  if (query !== '') range.set('query', query);
  return (await ask(`/api/v1/${query === '' ? 'messages' : 'search'}?${range}`)).json();
}

/**
 * A whole message. The server marks it as read.
 * @param {string} id
 * @returns {Promise<Message>}
 */
export const message = async id => (await ask(pathOf(id))).json();

/**
 * @param {string} id
 * @returns {Promise<Record<string, string[]>>}
 */
export const headers = async id => (await ask(`${pathOf(id)}/headers`)).json();

/**
 * The beginning of the source.
 * @param {string} id
 * @param {number} limit in characters; a little more may come
 * @returns {Promise<{ text: string, isWhole: boolean }>}
 */
export async function source(id, limit) {
  const { body } = await ask(`${pathOf(id)}/raw`);
  const decoder = new TextDecoder();
  const reader = body?.getReader();
  for (let text = ''; ;) {
    const { value, done } = (await reader?.read()) ?? { value: undefined, done: true };
    if (done) return { text, isWhole: true };
    text += decoder.decode(value, { stream: true });
    if (text.length < limit) continue;
    await reader?.cancel();
    return { text, isWhole: false };
  }
}

/**
 * @param {string[]} ids none means all
 * @param {boolean} isRead
 */
export const markRead = (ids, isRead) => ask('/api/v1/messages', 'PUT', { IDs: ids, Read: isRead });

/** @param {string} id */
export const remove = id => ask('/api/v1/messages', 'DELETE', { IDs: [id] });

/**
 * All messages, or those that a search finds.
 * @param {string} query
 */
export const removeAll = query =>
  query === ''
    ? ask('/api/v1/messages', 'DELETE', {})
    : ask(`/api/v1/search?${new URLSearchParams({ query })}`, 'DELETE');

/** @returns {Promise<{ Version: string }>} */
export const info = async () => (await ask('/api/v1/info')).json();

/**
 * Calls `onChange` whenever something may have changed: with each event, and after each time without a connection.
 * Connects again for ever, after a second at first and ten at most.
 * @param {() => void} onChange
 * @param {(isLive: boolean) => void} onState
 */
export function listen(onChange, onState) {
  let waitMs = 1000;
  const connect = () => {
    const socket = new WebSocket(`${location.protocol.replace('http', 'ws')}//${location.host}/api/events`);
    socket.addEventListener('message', onChange);
    socket.addEventListener('open', () => {
      waitMs = 1000;
      onState(true);
      onChange();
    });
    socket.addEventListener('close', () => {
      onState(false);
      setTimeout(connect, waitMs);
      waitMs = Math.min(waitMs * 2, 10_000);
    });
  };
  connect();
}
