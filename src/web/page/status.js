// The status page: asks for the figures every two seconds, and shows them. Nothing is loaded from elsewhere.
import { byId, element } from './dom.js';

const everyMs = 2000;
/** @param {number} value */
const format = value => value.toLocaleString('en');

/**
 * A bar for each minute of the last hour, as high as what happened in it.
 * @param {string} about
 * @param {readonly number[]} values
 */
function chart(about, values) {
  const most = Math.max(...values);
  const sum = values.reduce((total, value) => total + value, 0);
  const figure = element('figure', { className: `chart ${about}` });
  figure.append(
    element('figcaption', {}, `${about}: ${format(sum)} in the last hour, at most ${format(most)} a minute`),
  );
  const name = 'http://www.w3.org/2000/svg';
  const drawing = document.createElementNS(name, 'svg');
  drawing.setAttribute('viewBox', '0 0 60 20');
  drawing.setAttribute('preserveAspectRatio', 'none');
  drawing.setAttribute('aria-hidden', 'true');
  const ground = document.createElementNS(name, 'line');
  for (const [key, value] of Object.entries({ x1: 0, y1: 20, x2: 60, y2: 20 })) ground.setAttribute(key, `${value}`);
  drawing.append(ground);
  for (const [at, value] of values.entries()) {
    const height = most === 0 ? 0 : (20 * value) / most;
    const bar = document.createElementNS(name, 'rect');
    const place = { x: 60 - values.length + at, y: 20 - height, width: 0.8, height };
    for (const [key, each] of Object.entries(place)) bar.setAttribute(key, `${each}`);
    drawing.append(bar);
  }
  figure.append(drawing);
  return figure;
}

/** @param {any} status as /status/figures has it */
function show({ version, hostname, health, troubles, minutes, tiles, rows }) {
  byId('host').textContent = `${version} on ${hostname}`;
  byId('health').textContent = health;
  byId('health').className = health;
  document.title = `${health}: ${hostname}`;
  byId('troubles').hidden = troubles.length === 0;
  byId('troubles').replaceChildren(...troubles.map((/** @type {string} */ text) => element('li', {}, text)));
  byId('tiles').replaceChildren(
    ...tiles.map((/** @type {[string, string]} */ [about, value]) =>
      element('div', { className: 'tile' }, element('b', {}, value), element('span', {}, about)),
    ),
  );
  byId('hour').hidden = minutes.length === 0;
  byId('hour').replaceChildren(
    ...['taken', 'refused', 'sent'].map(about =>
      chart(
        about,
        minutes.map((/** @type {Record<string, number>} */ minute) => minute[about]),
      ),
    ),
  );
  byId('rows').replaceChildren(
    ...rows.map((/** @type {string[]} */ [about, ...facts]) =>
      element('div', {}, element('dt', {}, about), element('dd', {}, ...facts.map(fact => element('span', {}, fact)))),
    ),
  );
}

async function update() {
  try {
    const answer = await fetch('/status/figures', { signal: AbortSignal.timeout(5000) });
    const status = await answer.json();
    if (!answer.ok) throw new Error(status.Error);
    show(status);
    byId('updated').textContent = `as of ${new Date().toLocaleTimeString('en', { hour12: false })}`;
  } catch (error) {
    byId('health').textContent = 'no answer';
    byId('health').className = 'away';
    byId('updated').textContent = error instanceof Error ? error.message : '';
  }
  // A page that nobody looks at asks for nothing.
  if (document.hidden)
    await new Promise(resolve => document.addEventListener('visibilitychange', resolve, { once: true }));
  setTimeout(update, everyMs);
}

void update();
