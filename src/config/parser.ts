// What a parser of a value is, and how parsers of single values become parsers of lists.
// A parser turns text into plain data, or throws an error that says, a line for each mistake, what was written (no
// secret) and what is wanted. It knows one value only, and reads nothing: no variable, no file, no clock.
import { reasonOf } from '../system/reason.ts';

export type Parser<T> = (text: string) => T;

/**
 * From the groups of a pattern ('' where a group did not take part) to a value; false and undefined refuse the text.
 */
type Make<T> = (...groups: readonly string[]) => T | false | undefined;

export const parser =
  <T>(wanted: string, pattern: RegExp, make: Make<T>, isSecret = false): Parser<T> =>
  text => {
    const found = pattern.exec(text);
    const value = found !== null && make(...found.slice(1).map(group => group ?? ''));
    if (value !== undefined && value !== false) return value;
    throw new Error(`${JSON.stringify(isSecret ? '***' : text)}: ${wanted}`);
  };

export const oneOf = <const T extends string>(...choices: readonly T[]): Parser<T> =>
  parser(`one of ${choices.join(', ')} is wanted`, /(.*)/s, text => choices.find(each => each === text));

/**
 * A list that has one item a line already (sources.ts). Two items with the same `key` are the same thing: a mistake.
 */
export const listOf =
  <T>(item: Parser<T>, key: (value: T) => string, mayRepeat = false): Parser<readonly T[]> =>
  text => {
    const values = new Map<string | number, T>();
    const mistakes: string[] = [];
    for (const each of text.split('\n'))
      try {
        const value = item(each);
        if (values.has(key(value))) throw new Error(`"${key(value)}": it is listed twice; keep one`);
        values.set(mayRepeat ? values.size : key(value), value);
      } catch (error) {
        mistakes.push(reasonOf(error));
      }
    if (mistakes.length > 0) throw new Error(mistakes.join('\n'));
    return [...values.values()];
  };
