// One message: its head, and its six views. A view is made when it is opened. HTML is shown by a document of the
// server's own in a frame that runs no scripts and has no origin (src/web/mail/view.ts has its policy); nothing of a
// mail is parsed here.
import * as api from './api.js';
import { element, fullTime, personElement, sizeText, withLinks } from './dom.js';

/** More characters than this are not put on the page: a browser lays out a text of many megabytes for seconds. */
const maxCharacters = 500_000;
/** Larger pictures are not loaded for a look at them. */
const maxPreviewBytes = 2_000_000;

/** @typedef {'html' | 'text' | 'headers' | 'source' | 'attachments' | 'checks'} View */
/** @type {readonly View[]} */
export const views = ['html', 'text', 'headers', 'source', 'attachments', 'checks'];

/**
 * @param {api.Message} message
 * @returns {View} what is shown where nobody has asked for another view
 */
export const usualView = message => (message.HTML === '' ? 'text' : 'html');

/** @param {api.Message} message */
const filesOf = message => [...message.Attachments, ...message.Inline];

/**
 * A message with this view open.
 * @param {api.Message} message
 * @param {View} view
 * @param {{ close(): void, toggleRead(): void, remove(): void, open(view: View): void }} actions
 * @returns {Node[]}
 */
export function messageNodes(message, view, actions) {
  /** @type {(name: string, title: string, onclick: () => void, className?: string) => HTMLElement} */
  const button = (name, title, onclick, className = '') =>
    element('button', { type: 'button', title, onclick, className: `quiet ${className}` }, name);
  const download = {
    className: 'button quiet',
    href: `${api.pathOf(message.ID)}/raw?dl=1`,
    download: `${message.ID}.eml`,
  };
  return [
    element(
      'header',
      {},
      element(
        'div',
        { className: 'actions' },
        button('‹ Messages', 'Back to the messages (Esc)', actions.close, 'back'),
        button('Unread', 'Mark as unread (u)', actions.toggleRead),
        element('a', { ...download, title: 'Download the source' }, 'Download'),
        button('Delete', 'Delete the message (Delete)', actions.remove, 'danger'),
      ),
      element('h1', { dir: 'auto' }, message.Subject || '(no subject)'),
      facts(message),
    ),
    tabs(message, view, actions.open),
    panel(message, view),
  ];
}

/** @param {api.Message} message */
function facts(message) {
  const list = element('dl', { className: 'facts' });
  /** @type {(name: string, ...children: (Node | string)[]) => void} */
  const add = (name, ...children) => {
    if (children.length > 0) list.append(element('dt', {}, name), element('dd', {}, ...children));
  };
  /** @type {(name: string, people: api.Person[] | null) => void} */
  const addPeople = (name, people) =>
    add(name, ...(people ?? []).flatMap((person, index) => [index > 0 ? ', ' : '', personElement(person)]));
  addPeople('From', message.From === null ? [] : [message.From]);
  addPeople('To', message.To);
  addPeople('Cc', message.Cc);
  addPeople('Bcc', message.Bcc);
  addPeople('Reply-To', message.ReplyTo);
  add('Date', `${fullTime(message.Date)}, ${sizeText(message.Size)}`);
  return list;
}

/**
 * @param {api.Message} message
 * @param {View} view
 * @param {(view: View) => void} open
 */
function tabs(message, view, open) {
  const names = {
    html: 'HTML',
    text: 'Text',
    headers: 'Headers',
    source: 'Source',
    attachments: 'Attachments',
    checks: 'Checks',
  };
  const counts = { attachments: filesOf(message).length, checks: message.Checks.length };
  return element(
    'div',
    { role: 'tablist' },
    ...views.map((name, index) => {
      const count = name === 'attachments' || name === 'checks' ? counts[name] : 0;
      const badge = element('span', { className: `badge ${name === 'checks' ? 'warning' : ''}` }, String(count));
      return element(
        'button',
        {
          type: 'button',
          role: 'tab',
          id: `tab-${name}`,
          title: `${names[name]} (${index + 1})`,
          ariaSelected: String(name === view),
          disabled: name === 'html' && message.HTML === '',
          onclick: () => open(name),
        },
        names[name],
        count > 0 && badge,
      );
    }),
  );
}

/**
 * @param {api.Message} message
 * @param {View} view
 */
function panel(message, view) {
  const made = element('section', { role: 'tabpanel' });
  made.setAttribute('aria-labelledby', `tab-${view}`);
  const makers = { html, text, headers, source, attachments, checks };
  const fill = async () => made.append(...(await makers[view](message)));
  fill().catch(error => made.append(element('p', { className: 'fine' }, error.message)));
  return made;
}

/** @param {api.Message} message */
function html({ ID: id }) {
  const frame = element('iframe', { title: 'The HTML of the message', referrerPolicy: 'no-referrer' });
  // No scripts, no forms, no origin. Links open beside the page.
  frame.setAttribute('sandbox', 'allow-popups allow-popups-to-escape-sandbox');
  const path = `/view/${encodeURIComponent(id)}.html?embed=1`;
  frame.src = path;
  const sheet = element('div', { className: 'sheet' }, frame);
  const said = element('span', {}, 'Remote content is not loaded.');
  const load = element('button', { type: 'button' }, 'Load it');
  load.addEventListener('click', () => {
    frame.src = `${path}&remote=1`;
    said.textContent = 'Remote content was loaded: its servers may know that you looked.';
    load.remove();
  });
  const phone = element('button', { type: 'button', ariaPressed: 'false', title: 'As wide as a phone' }, '375 px');
  phone.addEventListener('click', () => {
    phone.ariaPressed = String(sheet.classList.toggle('phone'));
  });
  return [element('div', { className: 'note' }, said, load, phone), sheet];
}

/** @param {api.Message} message */
function text({ ID: id, Text: written }) {
  if (written === '') return [element('p', { className: 'fine' }, 'The message has no text.')];
  const shown = element('pre', { className: 'wrapped', dir: 'auto' }, ...withLinks(written.slice(0, maxCharacters)));
  return [...cut(id, written.length <= maxCharacters), shown];
}

/** @param {api.Message} message */
async function source({ ID: id }) {
  const { text: written, isWhole } = await api.source(id, maxCharacters);
  return [...cut(id, isWhole), element('pre', { tabIndex: 0 }, written)];
}

/**
 * @param {string} id
 * @param {boolean} isWhole
 */
function cut(id, isWhole) {
  if (isWhole) return [];
  const link = element(
    'a',
    { href: `${api.pathOf(id)}/raw?dl=1`, download: `${id}.eml` },
    'Download the whole message',
  );
  return [element('div', { className: 'note' }, element('span', {}, 'Only the beginning is shown.'), link)];
}

/** @param {api.Message} message */
async function headers({ ID: id, Envelope: envelope }) {
  /** @type {(name: string, value: string) => HTMLElement} */
  const row = (name, value) =>
    element('tr', {}, element('th', { scope: 'row' }, name), element('td', { dir: 'auto' }, value));
  const fields = Object.entries(await api.headers(id)).flatMap(([name, values]) =>
    values.map(value => row(name, value)),
  );
  const { From: from, To: to, Helo: helo, Client: client, TLS: tls, Login: login } = envelope;
  const session = [
    `EHLO ${helo} from ${client}`,
    tls || 'without TLS',
    login === '' ? 'without a login' : `login ${login}`,
  ];
  const said = [
    row('MAIL FROM', `<${from}>`),
    row('RCPT TO', to.map(each => `<${each}>`).join(', ')),
    row('Session', session.join(', ')),
  ];
  return [
    element(
      'table',
      { className: 'headers' },
      element('tbody', { className: 'said' }, ...said),
      element('tbody', {}, ...fields),
    ),
  ];
}

/** @param {api.Message} message */
function attachments(message) {
  const files = filesOf(message);
  if (files.length === 0) return [element('p', { className: 'fine' }, 'The message has no attachments.')];
  return [
    element(
      'ul',
      { className: 'items' },
      ...files.map(({ PartID: part, FileName: name, ContentType: type, Size: bytes }) => {
        const href = `${api.pathOf(message.ID)}/part/${encodeURIComponent(part)}`;
        const isPicture = type.startsWith('image/') && bytes <= maxPreviewBytes;
        return element(
          'li',
          {},
          isPicture && element('img', { src: href, alt: '', width: 48, height: 48, loading: 'lazy' }),
          element(
            'div',
            { className: 'name' },
            element('bdi', {}, name || 'without a name'),
            element('small', {}, `${type}, ${sizeText(bytes)}`),
          ),
          element('a', { className: 'button', href, download: name || `part-${part}` }, 'Download'),
        );
      }),
    ),
  ];
}

/** @param {api.Message} message */
function checks({ Checks: found }) {
  if (found.length === 0)
    return [element('p', { className: 'fine' }, 'Nothing that a receiver would hold against this message was found.')];
  return [
    element(
      'ul',
      { className: 'items' },
      ...found.map(({ Text: sentence }) =>
        element(
          'li',
          {},
          element('span', { className: 'warning', ariaHidden: 'true' }, '▲'),
          element('div', { className: 'name', dir: 'auto' }, sentence),
        ),
      ),
    ),
  ];
}
