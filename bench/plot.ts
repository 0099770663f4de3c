// Two kinds of plot as SVG, written by hand: bars for the workloads, lines for what grows.
// Promises: readable on light and on dark ground, without colours too (each bar and each line bears its name and its
// numbers); no scripts, no fonts to load.
import { shown } from './report.ts';

const style = `<style>
text { font: 12px system-ui, sans-serif; fill: #24292f } .title { font-weight: 600; font-size: 13px } .quiet { fill: #6e7781 }
.grid { stroke: #8c959f; stroke-opacity: .35 } .bar { fill: #8c959f } .own { fill: #0969da }
.line { fill: none; stroke-width: 2 } .c0 { stroke: #0969da } .c1 { stroke: #bc4c00 } .c2 { stroke: #1a7f37 }
.d0 { fill: #0969da } .d1 { fill: #bc4c00 } .d2 { fill: #1a7f37 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .quiet { fill: #9da7b3 } .own, .d0 { fill: #58a6ff } .c0 { stroke: #58a6ff }
.c1 { stroke: #f0883e } .d1 { fill: #f0883e } .c2 { stroke: #3fb950 } .d2 { fill: #3fb950 } }
</style>`;

export type Group = { readonly title: string; readonly bars: readonly (readonly [name: string, value: number])[] };

/** Each group on a scale of its own: its longest bar is as wide as any other's. */
export function barChart(title: string, groups: readonly Group[]): string {
  const parts = [text(0, 16, title, 'title')];
  let y = 40;
  for (const { title: group, bars } of groups) {
    parts.push(text(0, y, group));
    const longest = Math.max(...bars.map(([, value]) => value));
    for (const [name, value] of bars) {
      y += 17;
      const width = Math.max(1, (value / longest) * 520);
      parts.push(text(104, y, name, 'quiet', 'end'));
      parts.push(
        `<rect class="${name === 'slimsmtp' ? 'own' : 'bar'}" x="112" y="${y - 11}" width="${round(width)}" height="13"/>`,
      );
      parts.push(text(118 + width, y, shown(value)));
    }
    y += 32;
  }
  return svg(720, y - 32, title, parts);
}

type Line = { readonly title: string; readonly points: readonly (readonly [x: number, y: number])[] };

/** The x axis is logarithmic, and 0 stands where 1 would; the y axis is so where `isLog`. */
export function lineChart(
  title: string,
  xTitle: string,
  yTitle: string,
  lines: readonly Line[],
  isLog: boolean,
): string {
  const [width, height, left, top] = [610, 260, 70, 50];
  const all = lines.flatMap(({ points }) => points);
  const xs = all.map(([x]) => Math.log10(Math.max(x, 1)));
  const ys = all.map(([, y]) => y);
  const [xLow, xHigh] = [Math.floor(Math.min(...xs)), Math.max(...xs)];
  const yTicks = isLog ? decades(Math.min(...ys), Math.max(...ys)) : evenly(Math.max(...ys));
  const scale = isLog ? Math.log10 : (value: number): number => value;
  const [yLow, yHigh] = [scale(yTicks[0]!), scale(yTicks.at(-1)!)];
  const xAt = (x: number): number => left + ((Math.log10(Math.max(x, 1)) - xLow) / (xHigh - xLow || 1)) * width;
  const yAt = (y: number): number => top + height - ((scale(y) - yLow) / (yHigh - yLow || 1)) * height;
  const parts = [text(0, 16, title, 'title'), text(0, 36, yTitle, 'quiet')];
  for (const tick of yTicks) {
    parts.push(`<path class="grid" d="M${left} ${round(yAt(tick))}h${width}"/>`);
    parts.push(text(left - 8, yAt(tick) + 4, Number(tick.toPrecision(3)).toLocaleString('en'), '', 'end'));
  }
  for (const x of decades(10 ** xLow, 10 ** xHigh).filter(tick => Math.log10(tick) <= xHigh + 1e-9)) {
    parts.push(`<path class="grid" d="M${round(xAt(x))} ${top}v${height}"/>`);
    const isZero = x === 1 && all.some(([first]) => first === 0);
    parts.push(text(xAt(x), top + height + 18, isZero ? '0' : x.toLocaleString('en'), '', 'middle'));
  }
  parts.push(text(left + width, top + height + 38, xTitle, 'quiet', 'end'));
  lines.forEach(({ title: name, points }, i) => {
    parts.push(
      `<path class="line c${i}" d="M${points.map(([x, y]) => `${round(xAt(x))} ${round(yAt(y))}`).join('L')}"/>`,
    );
    for (const [x, y] of points)
      parts.push(`<circle class="d${i}" cx="${round(xAt(x))}" cy="${round(yAt(y))}" r="3"/>`);
    const legend = left + i * 210;
    parts.push(`<rect class="d${i}" x="${legend}" y="${top + height + 50}" width="12" height="4"/>`);
    parts.push(text(legend + 18, top + height + 57, name));
  });
  return svg(720, top + height + 70, title, parts);
}

/** Whole powers of ten around both. */
function decades(low: number, high: number): number[] {
  const [from, to] = [Math.floor(Math.log10(low) + 1e-9), Math.ceil(Math.log10(high) - 1e-9)];
  return Array.from({ length: to - from + 1 }, (_, i) => 10 ** (from + i));
}

/** From 0 to a round number above, in four or five steps. */
function evenly(high: number): number[] {
  const rough = high / 4 || 1;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map(factor => factor * unit).find(size => size >= rough)!;
  return Array.from({ length: Math.ceil(high / step) + 1 }, (_, i) => i * step);
}

const round = (value: number): number => Math.round(value * 10) / 10;

function text(x: number, y: number, content: string, look = '', anchor = 'start'): string {
  const escaped = content.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  return `<text x="${round(x)}" y="${round(y)}" class="${look}" text-anchor="${anchor}">${escaped}</text>`;
}

function svg(width: number, height: number, title: string, parts: readonly string[]): string {
  const size = `viewBox="-10 -6 ${width + 20} ${round(height) + 12}" width="${width + 20}" height="${round(height) + 12}"`;
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size} role="img" aria-label="${title}">\n${style}\n${parts.join('\n')}\n</svg>\n`;
}
