// The content of a file that holds one setting: what NAME_FILE names, which may be written anew while the server runs.
import { readFileSync } from 'node:fs';

/**
 * The text of a file without a byte order mark, which editors on Windows write, and without one newline at the end.
 * Throws as readFileSync does.
 */
export const readSettingFile = (path: string): string => readFileSync(path, 'utf8').replace(/^\ufeff|\r?\n$/g, '');
