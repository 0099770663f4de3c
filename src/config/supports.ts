// The extensions that are announced (SLIM_SUPPORTS): a whole list, or `default` with some taken away (`-NAME`), added
// or changed. RFC 5321 §4.1.1.1 (EHLO keywords).
import { extensionNames } from '../smtp/extensions.ts';
import { listOf, parser } from './parser.ts';

const keywords = extensionNames.join('|');
const mechanism = '(?:PLAIN|LOGIN|SCRAM-SHA-256(?:-PLUS)?)';
const parameters = String.raw`(?<=^SIZE )[1-9]\d{0,14}|(?<=^AUTH )${mechanism}(?: ${mechanism})*`;
const extension = parser(
  `wanted is default, -NAME, or NAME (${keywords}); only SIZE (octets) and AUTH may have a parameter`,
  new RegExp(`^(-?)(DEFAULT|DOMAIN|${keywords})(?: (${parameters}))?$`, 'i'),
  (sign, name, parameter) => ({ sign, name: name.toUpperCase(), parameter: parameter.toUpperCase() }),
);
const entries = listOf(extension, entry => entry.name);

/** The extensions, in the order in which they are announced. */
export function supports(text: string) {
  const chosen = new Map<string, { readonly name: string; readonly parameter?: string }>();
  for (const { sign, name, parameter } of entries(text))
    if (sign && !chosen.delete(name)) throw new Error(`"-${name}": only default has names to take away`);
    else if (name === 'DEFAULT')
      for (const each of extensionNames) chosen.set(each, chosen.get(each) ?? { name: each });
    else if (!sign && name !== 'DOMAIN') chosen.set(name, { name, ...(parameter && { parameter }) });
  return [...chosen.values()];
}
