// The roots of mail: the folders that the settings name for it. What is made in them belongs to src/storage.
// How it goes: at the start each root that is missing is made, and logged, so that a volume that was not mounted shows
// at once. One that cannot be made (of another owner, read-only) is tried again at every look, until it is there. A
// root that was there once and has gone is never made again: its volume is away, and mail must not land in its place.
// Promises: a root that cannot be written is named in the log once, with its setting, the reason, and a command that
// can be followed; so is that it is mended. Trouble never ends the server: mail for that root waits with its senders.
import fs from 'node:fs';
import { dirname, join } from 'node:path';
import type { Log } from './log.ts';
import { type Owner, ids, makeFolder, folderReason } from './folders.ts';
import { whyNotRoots } from './parents.ts';

/** `setting` is the variable that names it. */
export type MailRoot = Readonly<{ setting: string; path: string }>;
/** Why a root cannot be written, and what mends it, where a command can. */
export type RootTrouble = MailRoot & Readonly<{ error: string; command?: string }>;

/** At the first start that is what is wanted; later it may be that a volume is away. */
const sayMade = (path: string, isFirstStart: boolean, log: Log): void =>
  isFirstStart
    ? log.info({ path }, 'made a folder for mail')
    : log.warn({ path }, 'made a folder for mail: is the volume mounted?');
const lookEveryMs = 5000;
const cannotWrite = 'mail cannot be written there until this is mended';

/**
 * As root, for the network process: makes the first missing folder of a root, where nobody but root decides what stands
 * there.
 */
export function prepareRootAsRoot({ setting, path }: MailRoot, owner: Owner, isFirstStart: boolean, log: Log): void {
  let missing = path;
  while (!fs.lstatSync(dirname(missing), { throwIfNoEntry: false })) missing = dirname(missing);
  if (fs.lstatSync(missing, { throwIfNoEntry: false })) return;
  if (whyNotRoots(missing) !== undefined) return; // the network process tries it by itself
  try {
    fs.mkdirSync(missing, { mode: 0o700 });
    fs.lchownSync(missing, owner.uid, owner.gid);
    sayMade(missing, isFirstStart, log);
  } catch (error) {
    log.error({ setting, path, error: folderReason(error) }, cannotWrite);
  }
}

/** The roots that the server itself writes (those of Unix accounts are theirs), while it runs. */
export class MailRoots {
  readonly #roots: readonly MailRoot[];
  readonly #isFirstStart: boolean;
  readonly #log: Log;
  /** The roots that were never there. */
  readonly #missing: Set<string>;
  /** The trouble that was told last of each root. */
  #troubles = new Map<string, RootTrouble>();

  constructor(roots: readonly MailRoot[], isFirstStart: boolean, log: Log) {
    this.#roots = roots;
    this.#isFirstStart = isFirstStart;
    this.#log = log;
    this.#missing = new Set(roots.map(({ path }) => path));
  }

  /** Looks at all of them now, and then every few seconds: what was mended is to work without a restart. */
  watch(): void {
    this.check();
    setInterval(() => this.check(), lookEveryMs).unref();
  }

  /** Looks at all of them, makes what could not be made before, and says what has changed. */
  check(): readonly RootTrouble[] {
    const troubles = new Map<string, RootTrouble>();
    for (const root of this.#roots) {
      const trouble = this.#look(root);
      if (trouble) troubles.set(root.path, trouble);
    }
    for (const [path, trouble] of troubles)
      if (this.#troubles.get(path)?.error !== trouble.error) this.#log.error(trouble, cannotWrite);
    for (const path of this.#troubles.keys())
      if (!troubles.has(path)) this.#log.info({ path }, 'mail can be written there again');
    this.#troubles = troubles;
    return [...troubles.values()];
  }

  #look({ setting, path }: MailRoot): RootTrouble | undefined {
    try {
      if (this.#missing.has(path)) {
        if (makeFolder(path, 0o700)) sayMade(path, this.#isFirstStart, this.#log);
        this.#missing.delete(path);
        takeNewVolume(path);
      }
      for (const folder of [path, join(path, 'new'), join(path, 'tmp')])
        if (folder === path || fs.existsSync(folder)) fs.accessSync(folder, fs.constants.W_OK | fs.constants.X_OK);
      return undefined;
    } catch (error) {
      const command = this.#commandFor(path, error);
      const isGone = (error as NodeJS.ErrnoException).code === 'ENOENT';
      const reason = isGone
        ? 'it was there and is gone: mount its volume, or restart to have it made'
        : folderReason(error);
      return { setting, path, error: reason, ...(command !== undefined && { command }) };
    }
  }

  /**
   * The command that mends it: a chown of the folder that stands in the way, where that is one for mail; never of one
   * of the system's.
   */
  #commandFor(path: string, error: unknown): string | undefined {
    const { code, path: failed = path } = error as NodeJS.ErrnoException;
    if (code !== 'EACCES' && code !== 'EPERM') return undefined;
    let there = failed;
    while (!fs.existsSync(there)) there = dirname(there);
    const isOurs = this.#roots.some(root => `${there}/`.startsWith(`${root.path}/`));
    return isOurs ? `chown -R ${ids()} ${there}` : `mkdir -p ${path} && chown ${ids()} ${path}`;
  }
}

/**
 * A volume that the image has just filled is for everyone, so that the server may run as any user: the first one makes
 * it its own.
 */
function takeNewVolume(path: string): void {
  const { uid, mode } = fs.statSync(path);
  if (uid === process.getuid?.() && (mode & 0o7777) === 0o1777 && fs.readdirSync(path).length === 0)
    fs.chmodSync(path, 0o755);
}
