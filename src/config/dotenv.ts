// The file `.env`, read as Docker Compose reads it, because `npm start` and `docker compose` share one file.
// Promise: every value is the one that Compose would give to a container (compose-go's package dotenv), but for `$`,
// which is an ordinary character here: verifiers of SLIM_USERS are full of it. The names whose value Compose would
// change are told.
//   NAME=value       up to the end of the line or to ` #`; blanks at both ends do not count; a `#` without a blank
//                    before it is part of the value
//   NAME='value'     as it stands, over several lines if need be; \' is a quote
//   NAME="value"     the same, with \n \t \\ \" and the like
//   NAME: value, export NAME=value, # a comment

export type Dotenv = {
  readonly values: Readonly<Record<string, string>>;
  /** Names in whose value Compose replaces a `$…`. */
  readonly interpolated: readonly string[];
};

const start = /(?:\s|#[^\n]*)*/y;
const key = /(?:export[^\S\n]+)?([\p{L}\p{N}_.[\]-]+)[^\S\n]*([=:\n]|$)[^\S\n]*/uy;
/** In single quotes, in double quotes, or up to the end of the line. */
const anyValue = /'((?:[^'\\]|\\[\s\S])*)'|"((?:[^"\\]|\\[\s\S])*)"|([^\n]*)/y;
const variable = /\$[${_A-Za-z]/;

/** Throws an error that names the line. */
export function parseDotenv(content: string): Dotenv {
  const text = content.replace(/^\ufeff/, '').replaceAll('\r\n', '\n');
  const values: Record<string, string> = {};
  const interpolated = new Set<string>();
  let at = 0;
  const take = (pattern: RegExp): RegExpExecArray | null => {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (found) at += found[0].length;
    return found;
  };
  const wrong = (what: string): Error => new Error(`line ${text.slice(0, at).split('\n').length}: ${what}`);
  /** The value, and that part of it in which Compose looks for variables. */
  const takeValue = (name: string): readonly [value: string, open: string] => {
    const [, single, double, plain = ''] = take(anyValue) ?? [];
    if (single !== undefined) return [single.replaceAll("\\'", "'"), ''];
    if (double !== undefined) return [unescape(double), double.replaceAll(/\\[\s\S]/g, '')];
    const [quote] = /^['"]/.exec(plain) ?? [];
    if (quote !== undefined) throw wrong(`${name}: the closing ${quote} is missing`);
    const value = plain.replace(/ #.*/, '').trimEnd();
    return [value, value];
  };
  for (;;) {
    take(start);
    if (at >= text.length) return { values, interpolated: [...interpolated] };
    const [, name = '', separator] = take(key) ?? [];
    if (name === '') throw wrong('NAME=value is wanted');
    // A name alone stands for the variable of the environment, which counts in any case.
    if (separator === '\n' || separator === '') continue;
    const [value, open] = takeValue(name);
    if (variable.test(open)) interpolated.add(name);
    else interpolated.delete(name);
    values[name] = value;
  }
}

const escapes: Readonly<Record<string, string>> = { a: '\x07', b: '\b', f: '\f', n: '\n', r: '\r', t: '\t', v: '\v' };

/** What a backslash means in double quotes; before any other character it stands for itself. */
function unescape(text: string): string {
  return text.replaceAll(/\\(?:0(\d{0,3})|([abfnrtv])|(["\\$]))/g, (_, octal: string, letter: string, itself) => {
    // Of an octal number that is none Compose drops the zero.
    if (octal !== undefined)
      return /^[0-3][0-7]{2}$/.test(octal) ? String.fromCharCode(Number.parseInt(octal, 8)) : `\\${octal}`;
    return letter === undefined ? itself : (escapes[letter] ?? '');
  });
}
