// Elements, and how sizes, times and addresses read. What a mail says becomes text nodes and properties, never markup.

/**
 * A new element with these properties and children; children that are undefined or false are left out.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Partial<HTMLElementTagNameMap[Tag]>} [properties]
 * @param {...(Node | string | undefined | false)} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  for (const child of children) if (child !== undefined && child !== false) made.append(child);
  return made;
}

/**
 * The element of the page with this id. The page has it, or is broken.
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`The page has no element ${id}.`);
  return found;
}

/**
 * @param {number} bytes
 * @returns {string} such as '812 B', '4.2 KiB', '30 MiB'
 */
export function sizeText(bytes) {
  const units = ['B', 'KiB', 'MiB', 'GiB'];
  let size = bytes;
  while (size >= 1024 && units.length > 1) {
    size /= 1024;
    units.shift();
  }
  return `${size < 10 && bytes >= 1024 ? size.toFixed(1) : Math.round(size)} ${units[0]}`;
}

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium' });
const day = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short' });
const whole = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'long' });

/**
 * @param {string} written a date of the API
 * @returns {HTMLTimeElement} the time of day where it is today, else the day; whole when pointed at
 */
export function shortTime(written) {
  const date = new Date(written);
  const isToday = date.toDateString() === new Date().toDateString();
  return element('time', { dateTime: written, title: fullTime(written) }, (isToday ? clock : day).format(date));
}

/**
 * @param {string} written
 * @returns {string}
 */
export function fullTime(written) {
  const date = new Date(written);
  return Number.isNaN(date.getTime()) ? written : whole.format(date);
}

/**
 * A person with the name, where there is one, and the address. `dir=auto` keeps a name in Arabic or Hebrew apart from
 * what stands beside it.
 * @param {import('./api.js').Person} person
 * @returns {HTMLElement}
 */
export function personElement({ Name: name, Address: address }) {
  if (name === '') return element('bdi', {}, address);
  return element('span', {}, element('bdi', {}, name), ' ', element('bdi', { className: 'address' }, `<${address}>`));
}

/**
 * Text in which web addresses are links. They open beside the page and learn nothing of it.
 * @param {string} text
 * @returns {(Node | string)[]}
 */
export function withLinks(text) {
  // Split by a pattern with one group: every second piece is an address.
  return text
    .split(/(https?:\/\/[^\s<>"]+)/)
    .map((piece, index) =>
      index % 2 === 0 ? piece : element('a', { href: piece, target: '_blank', rel: 'noopener noreferrer' }, piece),
    );
}
