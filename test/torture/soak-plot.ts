// The soak's figures as a picture: panels one below the other over the same minutes. Plain SVG, readable on light and
// dark ground.
type Line = { readonly name: string; readonly values: readonly number[] };
type Panel = { readonly title: string; readonly unit: string; readonly lines: readonly Line[] };

const [width, height, left, right, top, bottom, colours] = [900, 150, 56, 150, 30, 14, 4] as const;
const style = `text{font:12px sans-serif;fill:#444}.t{font-weight:bold}.g{stroke:#ccc}.l{fill:none;stroke-width:1.5}
.c0{stroke:#0b62a4}.c1{stroke:#c4501b}.c2{stroke:#2e7d32}.c3{stroke:#7b3fa0}.f0{fill:#0b62a4}.f1{fill:#c4501b}.f2{fill:#2e7d32}.f3{fill:#7b3fa0}
@media(prefers-color-scheme:dark){text{fill:#bbb}.g{stroke:#555}.c0{stroke:#6cb4ee}.c1{stroke:#ff9a66}.c2{stroke:#81c784}.c3{stroke:#c99be8}
.f0{fill:#6cb4ee}.f1{fill:#ff9a66}.f2{fill:#81c784}.f3{fill:#c99be8}}`;

/** `minutes`: of each value. */
export function plot(caption: string, minutes: readonly number[], panels: readonly Panel[]): string {
  const total = top + panels.length * (height + 30) + 20;
  const end = Math.max(...minutes);
  const x = (minute: number): string => (left + (minute / end) * (width - left - right)).toFixed(1);
  const drawn = panels.map((panel, at) => draw(panel, top + at * (height + 30), minutes, x)).join('\n');
  const ticks = Array.from({ length: 7 }, (_, at) => (end * at) / 6)
    .map(
      minute =>
        `<text x="${x(minute)}" y="${total - 10}" text-anchor="middle">${minute.toFixed(end < 12 ? 1 : 0)} min</text>`,
    )
    .join('');
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${total}" width="${width}" height="${total}">
<style>${style}</style>
<text class="t" x="${left}" y="16">${escape(caption)}</text>
${drawn}
${ticks}
</svg>
`;
}

function draw(
  { title, unit, lines }: Panel,
  from: number,
  minutes: readonly number[],
  x: (at: number) => string,
): string {
  const most = ceiling(Math.max(1, ...lines.flatMap(({ values }) => values)));
  const y = (value: number): string => (from + height - (value / most) * (height - bottom - 10)).toFixed(1);
  const grid = [0, most / 2, most].map(
    value =>
      `<line class="g" x1="${left}" x2="${width - right}" y1="${y(value)}" y2="${y(value)}"/>` +
      `<text x="${left - 6}" y="${Number(y(value)) + 4}" text-anchor="end">${value}</text>`,
  );
  const drawn = lines.map(({ name, values }, at) => {
    const points = values.map((value, index) => `${x(minutes[index] ?? 0)},${y(value)}`).join(' ');
    const label = `<text class="f${at % colours}" x="${width - right + 8}" y="${from + 30 + at * 18}">${escape(name)}</text>`;
    return `<polyline class="l c${at % colours}" points="${points}"/>${label}`;
  });
  return [`<text x="${left}" y="${from + 12}">${escape(`${title}, ${unit}`)}</text>`, ...grid, ...drawn].join('\n');
}

/** The next round number. */
function ceiling(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 6, 8, 10].map(step => step * power).find(step => step >= value) ?? value;
}

const escape = (text: string): string => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
