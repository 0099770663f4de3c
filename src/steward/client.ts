// The network process's side of the steward: what needs root, as ordinary ports (Accounts, Storage), passwords and TLS
// files.
// Promises: every question has a deadline, and anything but an answer is CannotTell. A deposit whose answer came too
// late is aborted. SIGTERM, SIGINT and SIGHUP, which terminals and init send to all processes at once, are ignored:
// only orders of the steward count. When the steward has ended, this process ends.
import { constants, rmSync, writeFileSync } from 'node:fs';
import { copyFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { CannotTell, type Account, type Accounts, type Prepared, type Storage } from '../mail/ports.ts';
import { type Copy, type Message, withHead } from '../mail/message.ts';
import { slice } from '../mail/octets.ts';
import type { Random } from '../system/world.ts';
import { copyWithHead } from '../durable/copy.ts';
import { statusOf } from '../durable/sync.ts';
import { isAccountName, isPassword } from './protocol.ts';
import type { Order, Question, Reply, Start, TlsFiles } from './protocol.ts';

const lookUpMs = 10_000;
/** So long a login may take: more than the steward gives its PAM child. */
const authenticateMs = 50_000;
/**
 * So long it may take to write and sync a large message on a slow disk; RFC 5321 §4.5.3.2.6 lets the client wait ten
 * minutes.
 */
const depositMs = 60_000;

/**
 * The steward as the network process sees it. There is one: it takes over the IPC channel and the signals. End the
 * process by process.exit.
 */
export class Steward {
  /** What the steward hands over first. */
  readonly started: Promise<Start>;
  readonly accounts: Accounts = {
    find: async name => (isAccountName(name) ? this.#ask<Account | undefined>({ kind: 'account', name }) : undefined),
    owner: path => this.#owner(path),
  };
  readonly #owners = new Map<string, Promise<Account | undefined>>();
  readonly #waiting = new Map<number, (reply: Reply) => void>();
  #last = 0;

  constructor(onOrder: (order: 'stop' | 'reload') => void) {
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => {});
    process.on('disconnect', () => process.exit(1));
    this.started = new Promise(resolve => {
      process.on('message', (message: Order | Reply) => {
        if ('id' in message) this.#waiting.get(message.id)?.(message);
        else if (message.kind === 'start') resolve(message);
        else onOrder(message.kind);
      });
    });
  }

  /** Questions that the steward has not answered yet. */
  get questions(): number {
    return this.#waiting.size;
  }

  /** Whether an account has that password. Text that can be no account's name, or no password, is answered here: no. */
  async authenticate(name: string, password: string): Promise<boolean> {
    if (!isAccountName(name) || !isPassword(password)) return false;
    return (await this.#ask({ kind: 'authenticate', name, password }, authenticateMs)) === true;
  }

  /** The texts of the configured TLS files, of those that root has to read for us. */
  readTlsFiles(): Promise<TlsFiles> {
    return this.#ask({ kind: 'tls' });
  }

  /** The storage of `account` routes. The spool folder is the one that the steward reads. */
  storage(spoolFolder: string, random: Random): Storage {
    return {
      prepare: async (copies, message) => {
        const prepared: Prepared[] = [];
        const abort = () => Promise.all(prepared.map(each => each.abort()));
        try {
          for (const [head, group] of Map.groupBy(copies, copy => copy.head ?? ''))
            prepared.push(await this.#deposit(join(spoolFolder, random.hex(16)), group, message, head));
        } catch (error) {
          await abort();
          throw error;
        }
        return {
          commit: async () => void (await Promise.all(prepared.map(each => each.commit()))),
          abort: async () => void (await abort()),
        };
      },
    };
  }

  /** Prepares copies that are alike. */
  async #deposit(path: string, copies: readonly Copy[], message: Message, head: string): Promise<Prepared> {
    const targets = copies.filter(copy => copy.kind === 'account');
    const token = (this.#last += 1);
    const end = (kind: 'commit' | 'abort') => this.#ask<void>({ kind, token }, depositMs);
    try {
      await write(path, message, head);
      await this.#ask({ kind: 'prepare', spool: basename(path), targets }, depositMs, token);
    } catch (error) {
      // Needed when everything was prepared and only the answer was late; harmless when nothing was.
      end('abort').catch(() => {});
      throw error;
    } finally {
      rmSync(path, { force: true });
    }
    return {
      commit: () => end('commit'),
      abort: () => end('abort').catch(() => {}),
    };
  }

  /**
   * The account that owns a PATH of the settings; every mail asks for it. An answer is asked for anew every four
   * seconds, and until then the last one is given at once: a steward that hangs must not stop mail that needs no root.
   */
  #owner(path: string): Promise<Account | undefined> {
    const known = this.#owners.get(path);
    if (known) return known;
    const ask = (): Promise<Account | undefined> => this.#ask({ kind: 'owner', path });
    const keep = (owner: Account | undefined): unknown => this.#owners.set(path, Promise.resolve(owner));
    const first = ask();
    this.#owners.set(path, first);
    first.then(
      () => setInterval(() => void ask().then(keep, () => undefined), 4000).unref(),
      () => this.#owners.delete(path),
    );
    return first;
  }

  async #ask<T>(question: Question, deadlineMs = lookUpMs, id = (this.#last += 1)): Promise<T> {
    const { promise, resolve } = Promise.withResolvers<Reply>();
    this.#waiting.set(id, resolve);
    const timer = setTimeout(resolve, deadlineMs, { id, error: 'the steward did not answer in time' });
    process.send?.({ ...question, id });
    const { result, error, status } = await promise;
    clearTimeout(timer);
    this.#waiting.delete(id);
    if (error !== undefined) throw new CannotTell(error, status === undefined ? {} : { status });
    return result as T;
  }
}

/**
 * Writes the spool file that the steward reads. It is not synced, because the steward syncs its copies. A large message
 * is copied and not linked, because the steward refuses a file with two names.
 */
async function write(path: string, message: Message, head: string): Promise<void> {
  try {
    if (message.kind === 'memory') {
      const octets = withHead(message.octets, head);
      writeFileSync(path, slice(octets, 0, octets.sizeBytes), { flag: 'wx', mode: 0o600 });
    } else if (head !== '') await copyWithHead(head, message, path);
    else await copyFile(message.path, path, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
  } catch (cause) {
    throw new CannotTell(`cannot write ${path}`, { status: statusOf(cause), cause });
  }
}
