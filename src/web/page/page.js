// The page of captured mail. The server's events say only that something has changed; the list then asks anew, four
// times a second at most, so that a thousand messages a second cost the page no more than four. What is open stands in
// the address: #/ID or #/ID/VIEW.
import * as api from './api.js';
import { byId, element } from './dom.js';
import { MessageList } from './list.js';
import { messageNodes, usualView, views } from './message.js';

const refreshEveryMs = 250;
const search = /** @type {HTMLFormElement} */ (byId('search'));
const input = /** @type {HTMLInputElement} */ (search.elements.namedItem('query'));
const question = /** @type {HTMLDialogElement} */ (byId('question'));
const keys = /** @type {HTMLDialogElement} */ (byId('keys'));
const pane = byId('message');
const messages = new MessageList(byId('rows'), id => go(id), counted);

/** The message that is shown. @type {api.Message | undefined} */
let shown;

/** @returns {{ id: string, view: import('./message.js').View | undefined }} what the address asks for */
function wanted() {
  const [, id = '', name = ''] = location.hash.split('/');
  return { id: decodeURIComponent(id), view: views.find(view => view === name) };
}

/**
 * Opens a message, or with '' the list. A step from the list to a message is one that the browser's Back undoes.
 * @param {string} id
 * @param {string} [view]
 */
function go(id, view = '') {
  const hash = id === '' ? '#' : `#/${encodeURIComponent(id)}${view === '' ? '' : `/${view}`}`;
  const isStep = wanted().id === '' && id !== '';
  history[isStep ? 'pushState' : 'replaceState'](null, '', hash);
  void show();
}

async function show() {
  const { id, view } = wanted();
  messages.select(id);
  document.body.classList.toggle('open', id !== '');
  if (id === '') {
    shown = undefined;
    pane.replaceChildren(element('p', { className: 'nothing' }, 'No message is open.'));
    return;
  }
  if (shown?.ID !== id) {
    const message = await api.message(id).catch(tell);
    if (wanted().id !== id) return;
    if (message === undefined) return go('');
    shown = message;
    refreshSoon();
  }
  const message = shown;
  const actions = { close: () => go(''), toggleRead, remove, open: (/** @type {string} */ name) => go(id, name) };
  pane.replaceChildren(...messageNodes(message, view ?? usualView(message), actions));
}

/** @param {api.Found} found */
function counted({ messages_count: count, total, unread }) {
  const isSearch = messages.query !== '';
  const number = new Intl.NumberFormat().format(count);
  const kept = `${number} ${count === 1 ? 'message' : 'messages'}`;
  byId('count').textContent = isSearch ? `${number} found` : `${kept}${unread > 0 ? `, ${unread} unread` : ''}`;
  document.title = unread > 0 ? `(${unread}) SlimSMTP` : 'SlimSMTP';
  byId('delete-all').textContent = isSearch ? 'Delete these' : 'Delete all';
  byId('delete-all').toggleAttribute('disabled', count === 0);
  byId('read-all').toggleAttribute('disabled', unread === 0);
  byId('rows').hidden = count === 0;
  byId('empty').hidden = count > 0;
  if (count === 0) byId('empty').replaceChildren(...(total > 0 ? nothingFound() : nothingYet()));
}

const nothingFound = () => [element('h2', {}, 'Nothing found'), element('div', {}, 'Esc ends the search.')];

function nothingYet() {
  const command = `printf 'Subject: hello\\n\\nhello\\n' | curl smtp://${location.hostname}:1025 --mail-from me@example.com --mail-rcpt you@example.com -T -`;
  return [
    element('h2', {}, 'No messages yet'),
    element('div', {}, 'Whatever is sent to this server shows up here.'),
    element('pre', {}, command),
  ];
}

// Changes

/**
 * Whether the list asks. outdated: it does, and something has changed since.
 * @type {'idle' | 'planned' | 'asking' | 'outdated'}
 */
let refreshing = 'idle';
let refreshedMs = -Infinity;

/** Asks anew at once, or where that was done just now, a little later. Never asks twice at a time. */
function refreshSoon() {
  if (refreshing === 'asking') refreshing = 'outdated';
  if (refreshing !== 'idle') return;
  refreshing = 'planned';
  setTimeout(refresh, Math.max(0, refreshedMs + refreshEveryMs - performance.now()));
}

async function refresh() {
  refreshing = 'asking';
  await messages.refresh().catch(tell);
  refreshedMs = performance.now();
  const isOutdated = /** @type {string} */ (refreshing) === 'outdated';
  refreshing = 'idle';
  if (isOutdated) refreshSoon();
}

async function toggleRead() {
  const { id } = wanted();
  if (id === '') return;
  await api.markRead([id], !messages.isRead(id)).catch(tell);
  refreshSoon();
}

async function remove() {
  const { id } = wanted();
  if (id === '') return;
  const next = messages.neighbour();
  if ((await api.remove(id).catch(tell)) === undefined) return;
  go(innerWidth < 800 ? '' : next);
  refreshSoon();
}

async function removeAll() {
  const { query } = messages;
  const sentence = query === '' ? 'Delete all messages?' : 'Delete all messages that were found?';
  if (!(await confirmed(sentence)) || (await api.removeAll(query).catch(tell)) === undefined) return;
  go('');
  refreshSoon();
}

/** @param {string} sentence */
function confirmed(sentence) {
  const paragraph = question.querySelector('p');
  if (paragraph !== null) paragraph.textContent = sentence;
  question.returnValue = '';
  question.showModal();
  return new Promise(resolve => {
    question.addEventListener('close', () => resolve(question.returnValue === 'yes'), { once: true });
  });
}

/** @type {ReturnType<typeof setTimeout> | undefined} */
let told;

/**
 * Says for some seconds what went wrong.
 * @param {Error} error
 * @returns {undefined}
 */
function tell({ message }) {
  byId('problem').textContent = message;
  byId('problem').hidden = false;
  clearTimeout(told);
  told = setTimeout(() => {
    byId('problem').hidden = true;
  }, 6000);
}

// What people do

byId('delete-all').addEventListener('click', removeAll);
byId('read-all').addEventListener('click', () => api.markRead([], true).then(refreshSoon, tell));
byId('help').addEventListener('click', help);
byId('brand').addEventListener('click', event => {
  event.preventDefault();
  go('');
});

/** @type {ReturnType<typeof setTimeout> | undefined} */
let typed;
input.addEventListener('input', () => {
  clearTimeout(typed);
  typed = setTimeout(find, 200);
});
search.addEventListener('submit', event => {
  event.preventDefault();
  void find();
});

async function find() {
  clearTimeout(typed);
  const query = input.value.trim();
  if (query !== messages.query) await messages.search(query).catch(tell);
}

async function help() {
  keys.showModal();
  const { Version: version } = await api.info().catch(() => ({ Version: '' }));
  byId('version').textContent = `SlimSMTP ${version}`;
}

/** What a key does, unless a field or a dialog has it. @type {Record<string, () => unknown>} */
const bound = {
  j: () => messages.move(1),
  ArrowDown: () => messages.move(1),
  k: () => messages.move(-1),
  ArrowUp: () => messages.move(-1),
  Home: () => messages.move(-Infinity),
  End: () => messages.move(Infinity),
  '/': () => input.focus(),
  u: toggleRead,
  Delete: remove,
  '#': remove,
  '?': help,
  Escape: leave,
};

/** Leaves the message, or where none is open, the search. */
function leave() {
  if (wanted().id !== '') return go('');
  input.value = '';
  return find();
}

addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
  if (event.target === input) {
    if (event.key !== 'Escape' && event.key !== 'ArrowDown') return;
    input.blur();
    if (event.key === 'ArrowDown') byId('rows').focus();
    else void leave();
    event.preventDefault();
    return;
  }
  const view = views[Number(event.key) - 1];
  const { id } = wanted();
  if (view !== undefined && id !== '' && !(view === 'html' && shown?.HTML === '')) go(id, view);
  else if (Object.hasOwn(bound, event.key)) bound[event.key]?.();
  else return;
  event.preventDefault();
});

addEventListener('popstate', show);
api.listen(refreshSoon, isLive => {
  byId('live').classList.toggle('on', isLive);
  byId('live').textContent = isLive ? 'Live' : 'Reconnecting …';
});
await show();
