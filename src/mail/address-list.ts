// The addresses of a field such as From.
// Promises: linear time; a list is read whole or not at all: two readers of a doubtful one might see two different
// authors.
// RFC 5322 §3.4 and §4.4 (comments and folds may stand between any two tokens), RFC 6532 (UTF-8).
import { type Address, parseAddress } from '../smtp/address.ts';

/** A `word` is an atom or a quoted string. */
type Token = { readonly kind: 'word' | 'literal' | 'special'; readonly text: string };

const blank = /[ \t\r\n]+/y;
const shapes = {
  special: /[<>@,;:.]/y,
  word: /[^\p{Cc} ()<>[\]:;@\\,."]+|"(?:[^"\\\r\n]|\\[^\r\n]|\r?\n(?=[ \t]))*"/uy,
  literal: /\[[^[\]\\\p{Cc}]*\]/uy,
} as const;

/** The addresses, groups resolved. undefined: the text is not such a list. */
export function parseAddressList(text: string): readonly Address[] | undefined {
  const tokens = tokensOf(text);
  if (tokens === undefined) return undefined;
  const addresses: Address[] = [];
  let entry: Token[] = [];
  let isInGroup = false;
  /** Takes what stands between two commas. Nothing may stand there only within a group (RFC 5322 §3.4: `group: ;`). */
  const take = (mayBeEmpty: boolean): boolean => {
    if (entry.length === 0) return mayBeEmpty;
    const address = addressOf(entry);
    if (address) addresses.push(address);
    entry = [];
    return address !== undefined;
  };
  let isAfterGroup = false;
  for (const token of tokens) {
    const mark = token.kind === 'special' ? token.text : '';
    if (isAfterGroup && mark !== ',') return undefined;
    if (mark === ':') {
      if (isInGroup || entry.length === 0 || !isPhrase(entry)) return undefined;
      entry = [];
      isInGroup = true;
    } else if (mark === ';') {
      if (!isInGroup || !take(true)) return undefined;
      isInGroup = false;
      isAfterGroup = true;
    } else if (mark === ',') {
      if (!isAfterGroup && !take(false)) return undefined;
      isAfterGroup = false;
    } else entry.push(token);
  }
  return isInGroup || !take(isAfterGroup) ? undefined : addresses;
}

/** `words <local@domain>`, or `local@domain`. */
function addressOf(entry: readonly Token[]): Address | undefined {
  const open = entry.findIndex(each => each.kind === 'special' && each.text === '<');
  if (open < 0) return plainAddress(entry);
  const close = entry.at(-1);
  if (close?.kind !== 'special' || close.text !== '>' || !isPhrase(entry.slice(0, open))) return undefined;
  return plainAddress(entry.slice(open + 1, -1));
}

function plainAddress(tokens: readonly Token[]): Address | undefined {
  const text = tokens.map(each => each.text).join('');
  // Two words side by side are no local part, and would look like one word here.
  const isApart = tokens.some(
    ({ kind }, at) => kind !== 'special' && (tokens[at + 1]?.kind ?? 'special') !== 'special',
  );
  return isApart || !text.includes('@') ? undefined : parseAddress(text);
}

/** Words, and dots, which stand in many names (`J. R. Doe`). */
const isPhrase = (tokens: readonly Token[]): boolean =>
  tokens.every(({ kind, text }) => kind === 'word' || text === '.');

function tokensOf(text: string): readonly Token[] | undefined {
  const tokens: Token[] = [];
  for (let at = 0; at < text.length;) {
    const end = matchEnd(blank, text, at) ?? (text[at] === '(' ? commentEnd(text, at) : undefined);
    if (end !== undefined) {
      at = end;
      continue;
    }
    const token = tokenAt(text, at);
    if (token === undefined) return undefined;
    tokens.push(token);
    at += token.text.length;
  }
  return tokens;
}

function tokenAt(text: string, at: number): Token | undefined {
  for (const kind of ['special', 'word', 'literal'] as const) {
    const end = matchEnd(shapes[kind], text, at);
    if (end !== undefined) return { kind, text: text.slice(at, end) };
  }
  return undefined;
}

function matchEnd(pattern: RegExp, text: string, at: number): number | undefined {
  pattern.lastIndex = at;
  return pattern.test(text) ? pattern.lastIndex : undefined;
}

/** Behind the comment that begins there; comments stand within comments. undefined: it has no end. */
function commentEnd(text: string, start: number): number | undefined {
  let depth = 0;
  for (let at = start; at < text.length; at += 1) {
    if (text[at] === '\\') at += 1;
    else if (text[at] === '(') depth += 1;
    else if (text[at] === ')' && (depth -= 1) === 0) return at + 1;
  }
  return undefined;
}
