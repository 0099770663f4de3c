// MTA-STS: what a domain's record and policy say, and whether a policy names a host. Pure.
// Promise: a text that breaks the grammar is no policy. Unknown fields are passed over where they are well formed.
// RFC 8461 §3.1 (record), §3.2 (policy), §4.1 (host names).
export type StsPolicy = {
  readonly mode: 'enforce' | 'testing' | 'none';
  /** The patterns of the hosts' names, in lower case. */
  readonly mx: readonly string[];
  readonly maxAgeSeconds: number;
};

const maxAgeSeconds = 31_557_600; // a year
const maxPatterns = 1000;
const nameOfField = /^[a-z0-9][a-z0-9_.-]{0,31}$/i;
const pattern = /^(?:\*\.)?(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/i;

/** The id in the record of `_mta-sts.<domain>`; undefined: it has none, or several. */
export function parseRecords(texts: readonly string[]): string | undefined {
  const records = texts.filter(text => /^v=STSv1[ \t]*;/.test(text));
  return records.length === 1 ? parseRecord(records[0] ?? '') : undefined;
}

export function parseRecord(text: string): string | undefined {
  const fields = text.split(/[ \t]*;[ \t]*/);
  if (fields.at(-1) === '') fields.pop();
  const [version, ...rest] = fields.map(field => /^([^=]+)=([\x21-\x3a\x3c\x3e-\x7e]+)$/.exec(field) ?? ['', '', '']);
  if (version?.[0] !== 'v=STSv1' || !rest.every(([, name = '']) => nameOfField.test(name))) return undefined;
  const id = rest.find(([, name]) => name === 'id')?.[2];
  return id !== undefined && /^[a-z0-9]{1,32}$/i.test(id) ? id : undefined;
}

export function parsePolicy(text: string): StsPolicy | undefined {
  const lines = text.split(/\r?\n/);
  if (lines.at(-1) === '') lines.pop();
  const fields = lines.map(line => /^([^:]*):[ \t]*(.*?)[ \t]*$/.exec(line) ?? ['', '', '']);
  if (!fields.every(([, name = '', value]) => nameOfField.test(name) && value !== '')) return undefined;
  // Of a field that stands twice the first counts, except of mx.
  const first = (name: string): string => fields.find(([, each]) => each === name)?.[2] ?? '';
  const mx = fields.flatMap(([, name, value = '']) => (name === 'mx' ? value.toLowerCase() : []));
  const mode = (['enforce', 'testing', 'none'] as const).find(each => each === first('mode'));
  const age = first('max_age');
  if (first('version') !== 'STSv1' || mode === undefined || !/^\d{1,10}$/.test(age)) return undefined;
  if (mx.length > maxPatterns || !mx.every(each => pattern.test(each))) return undefined;
  if (mode !== 'none' && mx.length === 0) return undefined;
  return { mode, mx, maxAgeSeconds: Math.min(Number(age), maxAgeSeconds) };
}

/** Whether a policy names a host. A star stands for one label, the first one. */
export function isNamed(host: string, { mx }: Pick<StsPolicy, 'mx'>): boolean {
  const name = host.toLowerCase().replace(/\.$/, '');
  return mx.some(each => (each.startsWith('*.') ? name.replace(/^[^.]+/, '*') : name) === each);
}
