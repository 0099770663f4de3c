// The fields of a header, as they stand in it.
// Promise: time and memory are linear in its length, whatever is in it.
// RFC 5322 §2.2 and §4.5 (blanks before the colon, which are obsolete and read all the same).

/** `name`: in lower case. `text`: the whole field with its name and folds, without the line end at its end. */
export type Field = { readonly name: string; readonly text: string };

/**
 * The fields of a header whose lines end in LF, in their order. A line that is no field is left out with what follows
 * folded.
 */
export function fieldsOf(header: string): readonly Field[] {
  const fields: Field[] = [];
  for (const text of header.split(/\n(?![ \t])/)) {
    const [, name] = /^([!-9;-~]+)[ \t]*:/.exec(text) ?? [];
    if (name !== undefined) fields.push({ name: name.toLowerCase(), text });
  }
  return fields;
}

/** Tells an LMTP server, and whoever reads the mail, that a message is junk. */
export const spamLine = 'X-Spam: Yes\n';

/** What stands behind the colon. */
export const bodyOf = ({ text }: Field): string => text.slice(text.indexOf(':') + 1);
