// Where the program of a confined child lies, and the code that it may read.
import { join } from 'node:path';

/** In the image the bundles lie side by side; the sources need what stands in node_modules. */
export function programOf(room: 'judge' | 'web'): { readonly script: string; readonly mayRead: readonly string[] } {
  const { filename, dirname } = import.meta;
  if (!filename.endsWith('.ts')) return { script: join(dirname, `${room}.mjs`), mayRead: [`${dirname}/`] };
  const root = join(dirname, '..', '..');
  const code = ['src/', 'node_modules/', 'package.json'].map(path => join(root, path));
  return { script: join(root, 'src', room, 'main.ts'), mayRead: code };
}
