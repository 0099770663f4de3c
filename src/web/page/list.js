// The list of messages. It may be any length: only the rows in view are elements, and only the pages around them are
// asked for.
import { list } from './api.js';
import { element, shortTime, sizeText } from './dom.js';

/** The height of a row in pixels, which list.css has, too. */
const rowHeight = 76;
const pageSize = 100;
/** Rows that are drawn above and below what is in view. */
const margin = 4;

export class MessageList {
  #box;
  #onOpen;
  #onCount;
  #canvas = element('div', { role: 'presentation' });
  #query = '';
  #count = 0;
  /** What is known of the rows, by their place. @type {Map<number, import('./api.js').Summary>} */
  #known = new Map();
  /** Pages that are being asked for. @type {Set<number>} */
  #asked = new Set();
  /** Counts refreshes: an answer to an earlier one says nothing any more. */
  #generation = 0;
  #selected = { id: '', index: -1 };
  #isDrawing = false;
  /** What the rows on the page say. */
  #drawn = '';

  /**
   * @param {HTMLElement} box scrolls
   * @param {(id: string) => void} onOpen a message was chosen
   * @param {(found: import('./api.js').Found) => void} onCount how many there are
   */
  constructor(box, onOpen, onCount) {
    this.#box = box;
    this.#onOpen = onOpen;
    this.#onCount = onCount;
    box.append(this.#canvas);
    box.addEventListener('scroll', () => this.#drawSoon());
    // A click counts by its place, and not by its element, which may have been drawn anew between press and release.
    box.addEventListener('click', event => {
      const y = event.clientY - box.getBoundingClientRect().top + box.scrollTop;
      this.#choose(Math.floor(y / rowHeight));
    });
    new ResizeObserver(() => this.#drawSoon()).observe(box);
  }

  get query() {
    return this.#query;
  }

  /**
   * Shows what this search finds, from the newest on.
   * @param {string} query
   */
  async search(query) {
    this.#query = query;
    this.#box.scrollTop = 0;
    await this.refresh();
  }

  /**
   * Asks anew for what is in view, and forgets the rest. What is being read stays where it is while messages come in
   * above it.
   */
  async refresh() {
    const generation = ++this.#generation;
    const start = Math.max(0, this.#first() - Math.floor(pageSize / 3));
    const found = await list(this.#query, start, pageSize);
    if (generation !== this.#generation) return;
    const anchor = this.#known.get(this.#first());
    const known = new Map(found.messages.map((summary, index) => [start + index, summary]));
    const moved = [...known].find(([, { ID: id }]) => id === anchor?.ID);
    const shift = moved === undefined || this.#box.scrollTop === 0 ? 0 : moved[0] - this.#first();
    this.#known = known;
    this.#asked.clear();
    this.#count = found.messages_count;
    this.#canvas.style.height = `${this.#count * rowHeight}px`;
    this.#box.scrollTop += shift * rowHeight;
    const selected = [...known].find(([, { ID: id }]) => id === this.#selected.id);
    if (selected !== undefined) this.#selected.index = selected[0];
    else if (this.#selected.index !== -1) this.#selected.index += shift;
    this.#onCount(found);
    this.#draw();
  }

  /**
   * Marks a message as the one that is shown.
   * @param {string} id '' for none
   */
  select(id) {
    const index = [...this.#known].find(([, summary]) => summary.ID === id)?.[0] ?? -1;
    this.#selected = { id, index };
    if (index !== -1) this.#reveal(index);
    this.#draw();
  }

  /**
   * Chooses the message so many rows below the one that is shown, or the first in view.
   * @param {number} step
   */
  move(step) {
    const from = this.#selected.index;
    this.#choose(from === -1 ? this.#first() : Math.min(this.#count - 1, Math.max(0, from + step)));
  }

  /** The id of the message that takes the place of the selected one when that is gone; '' if there is none. */
  neighbour() {
    const { index } = this.#selected;
    return (this.#known.get(index + 1) ?? this.#known.get(index - 1))?.ID ?? '';
  }

  /** @param {string} id */
  isRead(id) {
    return [...this.#known.values()].find(summary => summary.ID === id)?.Read ?? true;
  }

  /** @param {number} index */
  async #choose(index) {
    if (index < 0 || index >= this.#count) return;
    this.#reveal(index);
    if (!this.#known.has(index)) await this.#ask(Math.floor(index / pageSize));
    const summary = this.#known.get(index);
    if (summary === undefined) return;
    this.#selected = { id: summary.ID, index };
    this.#draw();
    this.#onOpen(summary.ID);
  }

  #first() {
    return Math.floor(this.#box.scrollTop / rowHeight);
  }

  /** @param {number} index */
  #reveal(index) {
    const top = index * rowHeight;
    const { scrollTop, clientHeight } = this.#box;
    if (top < scrollTop) this.#box.scrollTop = top;
    else if (top + rowHeight > scrollTop + clientHeight) this.#box.scrollTop = top + rowHeight - clientHeight;
  }

  #drawSoon() {
    if (this.#isDrawing) return;
    this.#isDrawing = true;
    requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#isDrawing = false;
    const from = Math.max(0, this.#first() - margin);
    const to = Math.min(this.#count, this.#first() + Math.ceil(this.#box.clientHeight / rowHeight) + margin);
    const shown = Array.from({ length: Math.max(0, to - from) }, (_, place) => this.#known.get(from + place));
    shown.forEach((summary, place) => {
      if (summary === undefined) void this.#ask(Math.floor((from + place) / pageSize));
    });
    // Rows that say the same stay: else a refresh would take them from under a pointer or a screen reader.
    const drawn = JSON.stringify([from, this.#count, this.#selected, shown]);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    this.#canvas.replaceChildren(...shown.map((summary, place) => this.#row(from + place, summary)));
    if (this.#selected.index === -1) this.#box.removeAttribute('aria-activedescendant');
    else this.#box.setAttribute('aria-activedescendant', `row-${this.#selected.index}`);
  }

  /** @param {number} page */
  async #ask(page) {
    if (this.#asked.has(page)) return;
    this.#asked.add(page);
    const generation = this.#generation;
    const found = await list(this.#query, page * pageSize, pageSize).catch(() => undefined);
    if (generation !== this.#generation) return;
    if (found === undefined) this.#asked.delete(page);
    found?.messages.forEach((summary, index) => this.#known.set(page * pageSize + index, summary));
    this.#drawSoon();
  }

  /**
   * @param {number} index
   * @param {import('./api.js').Summary | undefined} summary
   */
  #row(index, summary) {
    const isSelected = summary !== undefined && summary.ID === this.#selected.id;
    const row = element('div', {
      id: `row-${index}`,
      role: 'option',
      className: `row${summary?.Read === false ? ' unread' : ''}${summary === undefined ? ' later' : ''}`,
      ariaSelected: String(isSelected),
      ariaPosInSet: String(index + 1),
      ariaSetSize: String(this.#count),
    });
    row.style.top = `${index * rowHeight}px`;
    if (summary === undefined) return row;
    const { From: from, To: to, Subject: subject, Created: created, Snippet: snippet } = summary;
    const sender = from?.Name || from?.Address || 'nobody';
    const recipients = to?.map(person => person.Address) ?? [];
    const more = recipients.length > 1 ? ` +${recipients.length - 1}` : '';
    row.append(
      element(
        'div',
        { className: 'who', title: recipients.slice(0, 20).join(', ') },
        element('b', {}, element('bdi', {}, sender)),
        ' → ',
        element('bdi', {}, recipients[0] ?? 'nobody'),
        more,
      ),
      shortTime(created),
      element('div', { className: 'subject', dir: 'auto' }, subject || '(no subject)'),
      element('div', { className: 'marks' }, `${summary.Attachments > 0 ? '📎 ' : ''}${sizeText(summary.Size)}`),
      element('div', { className: 'snippet', dir: 'auto' }, snippet),
    );
    return row;
  }
}
