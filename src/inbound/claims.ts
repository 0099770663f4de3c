// Fields that claim to be our own word on a message, Authentication-Results with our name, are made harmless: programs
// behind us believe such a field (RFC 8601 §5). The field gets another name, of the same length, so that a large
// message is not written anew. Others stay. It is done after the verification, because a signature may cover the field.
import type { Field } from './fields.ts';

/** The name that a claim gets; it is as long as the one that it replaces. */
export const harmlessName = 'X-Authentication-Claim';

/** Whether a field claims to come from the server with that name. In doubt it does. */
export function isClaim({ name: fieldName, text, isCut }: Field, hostname: string): boolean {
  if (fieldName !== 'authentication-results') return false;
  if (isCut) return true;
  const value = withoutComments(text.slice(text.indexOf(':') + 1)).replace(/["\\]/g, '');
  // Behind the name may stand a version, or words that do not belong there: only the first word is compared, because
  // that is what other programs read.
  const [name = ''] = value.trim().split(/[\s;/]/, 1);
  return name.toLowerCase().replace(/\.$/, '') === hostname.toLowerCase();
}

/** Puts a blank in place of each comment. Comments may be nested; one that has no end goes to the end of the field. */
function withoutComments(text: string): string {
  let depth = 0;
  let isQuoted = false;
  let kept = '';
  for (let at = 0; at < text.length; at += 1) {
    const character = text[at] as string;
    if (character === '\\') {
      if (depth === 0) kept += text[at + 1] ?? '';
      at += 1;
    } else if (character === '"' && depth === 0) isQuoted = !isQuoted;
    else if (character === '(' && !isQuoted) {
      depth += 1;
      kept += ' ';
    } else if (character === ')' && !isQuoted && depth > 0) depth -= 1;
    else if (depth === 0) kept += character;
  }
  return kept;
}
