// What the fuzzer starts from: the golden dialogues, and corpus/<target>.txt, which holds what long runs kept and every
// find. A line of those files is an input as a JSON string, an octet a character; lines that begin with # are for
// readers.
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

const test = join(import.meta.dirname, '..');

export function kept(target: string): Buffer[] {
  const file = join(import.meta.dirname, 'corpus', `${target}.txt`);
  const lines = existsSync(file) ? readFileSync(file, 'utf8').split('\n') : [];
  return lines.filter(line => line.startsWith('"')).map(line => Buffer.from(JSON.parse(line) as string, 'latin1'));
}

type Line = { readonly mark: string; readonly text: string };

/** The lines of each golden dialogue in a folder of test/, as CONTRIBUTING.md describes them. */
export function dialogues(folder: string): Line[][] {
  return readdirSync(join(test, folder)).map(file =>
    readFileSync(join(test, folder, file), 'utf8')
      .split('\n')
      .filter(line => line !== '' && !line.startsWith('#'))
      .flatMap(line => {
        const [, mark = '', times = '1', text = ''] = /^([CS]>|\w+)(?:\*(\d+))?:? ?(.*)$/.exec(line) ?? [];
        return Array.from({ length: Math.min(Number(times), 20) }, () => ({ mark, text }));
      }),
  );
}

/** What is sent by a line: `C` and `S` with CRLF, `C>` and `S>` without. Long repetitions are cut short. */
export function octetsOf({ mark, text }: Line): Buffer {
  const plain: Record<string, string> = { r: '\r', n: '\n', t: '\t', '0': '\0', '\\': '\\' };
  const unescape = (escaped: string): string =>
    escaped
      .replaceAll(/\{([^{}]+)\*(\d+)\}/g, (_, what: string, times: string) => what.repeat(Math.min(Number(times), 600)))
      .replaceAll(/\\(?:x([0-9a-f]{2})|([rnt0\\]))/g, (_, hex: string, name: string) =>
        hex ? String.fromCharCode(Number.parseInt(hex, 16)) : (plain[name] ?? ''),
      );
  return Buffer.from(
    Buffer.from(text).toString('latin1').replace(/^.*$/s, unescape) + (mark.endsWith('>') ? '' : '\r\n'),
    'latin1',
  );
}
