// Where captured mail is kept: one Maildir, `captured/`, and beside it a file for each envelope in
// `captured/envelopes/`.
// Promises:
// - The newest so many messages stay (SLIM_CAPTURE_KEEP). Only files that this class has made are ever removed: a
//   message has an envelope of its name beside it, and whatever else lies in the folder is left alone.
// - Besides these, a start removes from tmp/ what a crash has left there: files that have the name of a message.
// - A message is visible whole, and with its envelope, or not at all. Nothing is synced: tests want speed, and a power
//   cut may take what was captured (promise 1 of the server does not hold here).
// - What was made of a message (read, tags) lasts until the server ends.
import {
  closeSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { create } from '../durable/sync.ts';
import { linkOrCopy } from '../durable/link.ts';
import type { Captured, Change, Kept, Marks } from '../mail/captured.ts';
import type { Message } from '../mail/message.ts';
import type { Prepared } from '../mail/ports.ts';
import type { Log } from '../system/log.ts';

type Options = Readonly<{ folder: string; keep: number; onChange: (change: Change) => void; log: Log }>;

const isId = (name: string): boolean => /^[0-9a-z]{12,30}$/.test(name);
/** The end of the name that a message has in tmp/ between prepare() and commit(). */
const suffix = '.captured';
/** So many files are removed side by side. */
const removedAtOnce = 100;

export class Keeper {
  readonly #options: Options;
  readonly #mails = new Map<string, { readonly mail: Captured; isRead: boolean; tags: readonly string[] }>();

  constructor(options: Options) {
    this.#options = options;
  }

  /** Makes the folders, and finds what was captured before. Mail whose file has gone is forgotten. */
  open(): void {
    const { folder } = this.#options;
    for (const name of ['new', 'cur', 'tmp', 'envelopes'])
      mkdirSync(join(folder, name), { recursive: true, mode: 0o700 });
    // `ID` is a large message that came in when the server crashed, `ID.captured` one that was prepared.
    for (const entry of readdirSync(join(folder, 'tmp'), { withFileTypes: true }))
      if (entry.isFile() && isId(basename(entry.name, suffix))) rmSync(join(folder, 'tmp', entry.name));
    const ids = readdirSync(join(folder, 'envelopes')).map(name => name.replace(/\.json$/, ''));
    // An id begins with its time.
    for (const id of ids.filter(isId).toSorted()) {
      const mail = this.#readEnvelope(id);
      if (mail) this.#mails.set(id, { mail, isRead: false, tags: [] });
    }
    this.#prune();
  }

  /** All that is kept, in the order in which it came. */
  list(): readonly Kept[] {
    return [...this.#mails.values()];
  }

  /** Writes a message and its envelope; commit() makes it visible. `facts` is the envelope but for its size. */
  async prepare(facts: Omit<Captured, 'sizeBytes'>, message: Message, tags: readonly string[] = []): Promise<Prepared> {
    const mail = { ...facts, sizeBytes: message.sizeBytes };
    const { id } = mail;
    const temporary = join(this.#options.folder, 'tmp', `${id}${suffix}`);
    try {
      writeFileSync(this.#envelope(id), JSON.stringify(mail), { flag: 'wx', mode: 0o600 });
      if (message.kind === 'memory') closeSync(create(temporary, message.octets.pieces));
      else await linkOrCopy(message.path, temporary);
    } catch (error) {
      this.#removeFiles(id, temporary);
      throw error;
    }
    return {
      commit: async () => {
        try {
          renameSync(temporary, this.path(id));
        } catch (error) {
          this.#removeFiles(id, temporary);
          throw error;
        }
        const kept = { mail, isRead: false, tags };
        this.#mails.set(id, kept);
        this.#options.onChange({ kind: 'arrived', kept });
        this.#prune();
      },
      abort: async () => this.#removeFiles(id, temporary),
    };
  }

  /** Removes these messages, or all. Ids that are unknown do not count. */
  async remove(ids: readonly string[] | 'all'): Promise<void> {
    const known = this.#known(ids);
    for (const id of known) this.#mails.delete(id);
    if (known.length > 0) this.#options.onChange({ kind: 'removed', ids: known, why: 'deleted' });
    const paths = known.flatMap(id => [this.path(id), this.#envelope(id)]);
    for (let at = 0; at < paths.length; at += removedAtOnce)
      await Promise.all(paths.slice(at, at + removedAtOnce).map(path => rm(path, { force: true })));
  }

  /** Changes what was made of these messages, or of all. */
  mark(ids: readonly string[] | 'all', marks: Partial<Marks>): void {
    const known = this.#known(ids);
    for (const id of known) Object.assign(this.#mails.get(id) ?? {}, marks);
    if (known.length > 0) this.#options.onChange({ kind: 'marked', ids: known, ...marks });
  }

  path(id: string): string {
    return join(this.#options.folder, 'new', id);
  }

  #envelope(id: string): string {
    return join(this.#options.folder, 'envelopes', `${id}.json`);
  }

  #known(ids: readonly string[] | 'all'): readonly string[] {
    return ids === 'all' ? [...this.#mails.keys()] : ids.filter(id => this.#mails.has(id));
  }

  /** Reads an envelope; undefined where the message has gone: then its envelope goes, too. */
  #readEnvelope(id: string): Captured | undefined {
    const path = this.#envelope(id);
    try {
      const mail = JSON.parse(readFileSync(path, 'utf8')) as Captured;
      if (mail.id === id && existsSync(this.path(id))) return mail;
      if (mail.id === id) this.#removeFiles(id);
    } catch (error) {
      this.#options.log.warn({ path, error: String(error) }, 'the envelope of a captured message cannot be read');
    }
    return undefined;
  }

  #prune(): void {
    const pruned: string[] = [];
    for (const id of this.#mails.keys()) {
      if (this.#mails.size <= this.#options.keep) break;
      this.#mails.delete(id);
      this.#removeFiles(id);
      pruned.push(id);
    }
    if (pruned.length > 0) this.#options.onChange({ kind: 'removed', ids: pruned, why: 'pruned' });
  }

  #removeFiles(id: string, temporary?: string): void {
    const paths = [this.path(id), this.#envelope(id), ...(temporary === undefined ? [] : [temporary])];
    for (const path of paths) rmSync(path, { force: true });
  }
}
