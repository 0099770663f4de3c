// How a message leaves for another server: on a session that is still open, or on a new one with the first server that
// can be used.
// Promises: once a server has taken the session its word counts, for each recipient; what the next hop cannot take is
// adapted where that is lawful, else it goes as it is; sessions are used again while they are warm; each recipient has
// a result, and each attempt an end.
// RFC 5321 §5.1 and §4.5.4.1.
//
// An attempt is a loop over sessions. It begins with warm ones, which wait for a next message, then opens new ones. A
// session ends the loop when it has a result for every recipient that is left. Some may be left because the session was
// over before the server was asked about them; then another session is opened at once, if that was a warm one or had
// results for others. Each pass uses up a warm session or decides a recipient. After an hour no session is opened.
// Refused long lines cost one more pass.
import { type Socket, connect } from 'node:net';
import { type SecureContext, createSecureContext } from 'node:tls';
import { type Delivery, type NextHop, type QueueEntry, nextHopKey } from '../mail/message.ts';
import { CannotTell, type Place, type Signer, type Transport } from '../mail/ports.ts';
import type { World } from '../system/world.ts';
import { type Adapted, adapt, canShortenLines, refusesLongLines } from './adapt.ts';
import { Connection, type Timeouts, standardTimeouts } from './connection.ts';
import { type Content, openContent } from './content.ts';
import type { Login, Refusal } from './dialogue.ts';
import { type HopOptions, type Server, findServers, summarize } from './hops.ts';
import { deferred, failed } from './replies.ts';
import type { Sent } from './transaction.ts';
import { Unreached } from './unreached.ts';

type Attempt = Parameters<Transport['deliver']>;
/** A session waits so long for its next message. */
const idleMs = 2000;
/** After so long with hosts that do not work, the rest of the hosts wait for the next attempt. */
const maxTryingMs = 15 * 60_000;

export type OutboundOptions = World &
  HopOptions & {
    readonly hostname: string;
    /** How many recipients a transaction has at most. */
    readonly maxRecipients: number;
    /** The relay's login as its file has it now; called when the relay has refused the one that we have. */
    readonly readLogin?: () => Promise<Login | undefined>;
    /** Signs what is ours; undefined: nothing is signed. */
    readonly signer?: Signer | undefined;
    /** The authorities by which the relay is verified, in place of those that the system trusts. */
    readonly ca?: string | undefined;
    readonly timeouts?: Timeouts;
    /** Opens a socket; tests replace it. `path` is a Unix socket, and then `host` and `port` do not count. */
    readonly dial?: (options: { readonly host: string; readonly port: number; readonly path?: string }) => Socket;
    /** Whether the servers speak LMTP. */
    readonly isLmtp?: boolean;
  };

export class OutboundTransport implements Transport {
  readonly #options: OutboundOptions;
  /** The sessions that wait for their next message, by next hop; no more than there are attempts at once. */
  readonly #idle = new Map<Connection, { readonly to: string; readonly timer: NodeJS.Timeout }>();
  #secureContext: SecureContext | undefined;
  readonly #unreached: Unreached;
  /** The login that the relay gets. */
  #login: Login | undefined;

  constructor(options: OutboundOptions) {
    this.#options = options;
    this.#unreached = new Unreached(options.clock);
    const { user, password } = options.relay ?? {};
    if (user !== undefined && password !== undefined) this.#login = { user, password };
  }

  async deliver(...[hop, entry, message, recipients, place]: Attempt): Promise<readonly Delivery[]> {
    const results: Delivery[] = recipients.map(() => unexplained);
    let left: readonly number[] = [...recipients.keys()];
    /** How many recipients were left when the last session was opened. */
    let leftBefore = Infinity;
    let areLinesShort = false;
    const { clock, timeouts = standardTimeouts } = this.#options;
    const lastSessionAt = clock.now() + timeouts.attempt;
    const send = async (connection: Connection): Promise<void> => {
      const group = left.length === recipients.length ? recipients : left.flatMap(index => recipients[index] ?? []);
      const attempt: Attempt = [hop, entry, message, group, place];
      const { deliveries, untried } = await this.#send(connection, attempt, areLinesShort);
      for (const [at, index] of left.entries()) results[index] = deliveries[at] ?? unexplained;
      const refused = left.filter((_, at) => !areLinesShort && refusesLongLines(deliveries[at] ?? unexplained));
      left = untried.flatMap(at => left[at] ?? []);
      if (refused.length === 0 || !(await canShortenLines({ ...message, returnPathBytes: entry.returnPathBytes })))
        return;
      // The message goes once more, at once, with its long lines converted.
      const fields = { message: entry.id, remote: connection.server.host };
      this.#options.log.info(fields, 'a message is sent again in short lines');
      areLinesShort = true;
      left = [...left, ...refused];
      leftBefore = Infinity;
    };
    const giveUp = (delivery: Delivery): void => {
      for (const index of left) results[index] = delivery;
      left = [];
    };
    try {
      while (left.length > 0) {
        const warm = this.#takeIdle(hop);
        if (warm !== undefined && !place.enter(warm.server.address)) {
          this.#putIdle(warm, hop);
          giveUp(crowded(warm.server));
        } else if (warm?.isQuiet()) await send(warm);
        else if (warm !== undefined) warm.destroy(); // the server has closed it, or has said something unasked
        else if (left.length >= leftBefore || clock.now() > lastSessionAt) break;
        else {
          leftBefore = left.length;
          const opened = await this.#open(hop, place);
          if (opened instanceof Connection) await send(opened);
          else giveUp(opened);
        }
      }
    } catch (error) {
      // A surprise with some of the recipients does not undo what is known of the others.
      if (left.length === recipients.length) throw error;
      this.#options.log.error({ message: entry.id, error: String(error) }, 'an attempt ended in a surprise');
      giveUp(unexplained);
    }
    return results;
  }

  /** Asks the next hop whether it takes mail for an address: the delivery is what it says to RCPT. */
  async inquire(hop: NextHop, address: string, place: Place): Promise<Delivery> {
    for (;;) {
      const warm = this.#takeIdle(hop);
      const connection = warm ?? (await this.#open(hop, place));
      if (!(connection instanceof Connection)) return connection;
      const isQuiet = connection.isQuiet();
      const said = isQuiet ? await connection.inquire(address, place) : undefined;
      if (said?.isReusable && connection.transactionsLeft > 0) this.#putIdle(connection, hop);
      else connection.destroy();
      // A session that waited may have been closed meanwhile.
      if (said && (warm === undefined || said.isReusable)) return forgive(said.delivery);
      if (warm === undefined) return unexplained;
    }
  }

  /** Reads the relay's login again: its file may have changed. Resolves with whether it has. */
  async readLogin(): Promise<boolean> {
    const { readLogin, log } = this.#options;
    const before = this.#login;
    try {
      this.#login = (await readLogin?.()) ?? before;
    } catch (error) {
      log.warn({ error: String(error) }, 'the login for the relay cannot be read again: the old one is used');
    }
    return this.#login?.user !== before?.user || this.#login?.password !== before?.password;
  }

  /** Says good-bye on the sessions that wait. */
  close(): void {
    for (const [connection, { timer }] of this.#idle) {
      clearTimeout(timer);
      connection.quit();
    }
    this.#idle.clear();
  }

  /** Opens a session with the first server that can be used; or what the refusals of all of them mean. */
  async #open(hop: NextHop, place: Place): Promise<Connection | Delivery> {
    const { clock, log } = this.#options;
    const destination = nextHopKey(hop);
    const servers = findServers(hop, this.#options, address => this.#unreached.has(address));
    const startedAt = clock.now();
    const refusals: (Refusal & { readonly server: Server })[] = [];
    while (clock.now() - startedAt <= maxTryingMs) {
      const next = await orEnded(servers.next(), place);
      if (next === undefined) return ended;
      if (next.done) {
        if (refusals.length > 0) break;
        const delivery = next.value ?? unexplained;
        if (hop.kind !== 'domain') log.warn({ destination, reason: delivery.text }, troubles[hop.kind]);
        return delivery;
      }
      if ('refusal' in next.value) {
        const { server, refusal } = next.value;
        log.info({ destination, remote: server.host, reason: refusal.delivery.text }, troubles.domain);
        refusals.push({ ...refusal, server });
        continue;
      }
      const server = next.value;
      if (!place.enter(server.address)) return crowded(server);
      const opened = await this.#openAt(server, place);
      if (opened instanceof Connection) {
        this.#unreached.delete(server.address);
        return opened;
      }
      if (opened.delivery.status === '4.4.1') this.#unreached.add(server.address);
      const fields = { destination, remote: server.host, address: server.address, reason: opened.delivery.text };
      const isRefused = opened.because !== 'host' || opened.delivery.kind === 'failed';
      if (server.isChosen && isRefused) log.warn(fields, troubles[hop.kind]);
      else log.info(fields, troubles.domain);
      if (place.isEnded) return { ...ended, remote: server.host };
      refusals.push({ ...opened, server });
      // No other host is tried: hosts that are preferred less would bring the mail back here, and each address of the
      // relay would count one more wrong login.
      if (opened.because === 'loop' || (opened.because === 'login' && opened.delivery.status === '4.7.8')) break;
    }
    return summarize(destination, refusals);
  }

  /** Opens a session with this server, in the way that its policy allows. */
  async #openAt(server: Server, place: Place): Promise<Connection | Refusal> {
    const opened = await this.#dial(server, place);
    if (opened instanceof Connection || place.isEnded) return opened;
    // Without TLS it is tried on a new connection, because the old one is in the middle of a handshake.
    if (opened.because === 'tls' && server.tls.use === 'offered')
      return this.#dial({ ...server, tls: { ...server.tls, use: 'never' } }, place);
    if (opened.because === 'login' && (await this.readLogin())) return this.#dial(server, place);
    return opened;
  }

  #dial(server: Server, place: Place): Promise<Connection | Refusal> {
    const { hostname, isLmtp = false, ca, random, clock, timeouts = standardTimeouts, dial = connect } = this.#options;
    const { use } = server.tls;
    const credentials = server.isChosen && this.#login ? { ...this.#login, nonce: random.hex(18) } : undefined;
    const isSecure = use === 'implicit';
    const terms = { hostname, isLmtp, isSecure, startTls: isSecure ? 'never' : use, credentials } as const;
    const secureContext = (this.#secureContext ??= createSecureContext({ ca, minVersion: 'TLSv1.2' })); // 1.3 ms each
    const { address, port } = server;
    const socket = dial({ host: address, port, ...(address.startsWith('/') && { path: address }) });
    return new Connection(socket, { server, terms, secureContext, timeouts, clock }).open(place);
  }

  /** Sends on an open session, and says what the server has said, in its name. */
  async #send(connection: Connection, attempt: Attempt, areLinesShort: boolean): Promise<Sent> {
    const [hop, entry, message, recipients, place] = attempt;
    const { random, maxRecipients, log } = this.#options;
    const { server, offers, tls } = connection;
    const stored = { ...message, returnPathBytes: entry.returnPathBytes };
    // The name is one that the queue sweeps after a crash.
    const path = message.kind === 'file' ? `${message.path}x7bit${random.hex(4)}` : undefined;
    let sent: Sent | undefined;
    try {
      const adapted = await adapt(stored, entry, { offers, areLinesShort }, path);
      const front = adapted.kind === 'fit' ? await this.#sign(adapted, entry) : failed(adapted.status, adapted.text);
      if (adapted.kind === 'unfit' || typeof front === 'object') {
        if (adapted.kind === 'fit') await adapted.remove();
        sent = { deliveries: recipients.map(() => front as Delivery), untried: [], isReusable: true, transactions: 0 };
      } else {
        const { left: reason } = adapted;
        if (reason !== undefined)
          log.info(
            { message: entry.id, remote: server.host, reason },
            'something in a message cannot be converted for this server and goes as it is',
          );
        const lines = front + (entry.head ?? '');
        const first = openContent(adapted.message, lines);
        let isFirst = true;
        // Each transaction after the first reads the message anew.
        const content = (): Content => {
          const opened = isFirst ? first : openContent(adapted.message, lines);
          isFirst = false;
          return opened;
        };
        const mail = { ...entry, is8Bit: adapted.is8Bit, recipients, sizeBytes: first.sizeBytes };
        sent = await connection.send(mail, content, maxRecipients, place).finally(adapted.remove);
      }
    } finally {
      if (!sent?.isReusable) connection.destroy();
      else if (connection.transactionsLeft > 0) this.#putIdle(connection, hop);
      else connection.quit();
    }
    const who = { remote: server.host, ...(tls && { tls }) };
    const deliveries = sent.deliveries.map(each => ({ ...(server.isChosen ? forgive(each) : each), ...who }));
    return { ...sent, deliveries };
  }

  /** Makes the signatures of a message in the form in which it leaves; or why it has to wait. */
  async #sign({ message, form }: Adapted & { kind: 'fit' }, entry: QueueEntry): Promise<string | Delivery> {
    try {
      return (await this.#options.signer?.sign(message, entry, form)) ?? '';
    } catch (error) {
      if (!(error instanceof CannotTell)) throw error;
      return deferred(error.status, error.message);
    }
  }

  #takeIdle(hop: NextHop): Connection | undefined {
    for (const [connection, { to, timer }] of this.#idle) {
      if (to !== nextHopKey(hop)) continue;
      this.#idle.delete(connection);
      clearTimeout(timer);
      return connection;
    }
    return undefined;
  }

  #putIdle(connection: Connection, hop: NextHop): void {
    const quit = (): void => {
      this.#idle.delete(connection);
      connection.quit();
    };
    this.#idle.set(connection, { to: nextHopKey(hop), timer: setTimeout(quit, idleMs).unref() });
  }
}

const troubles: Readonly<Record<NextHop['kind'], string>> = {
  here: '',
  lmtp: 'an LMTP server cannot be used: see SLIM_STORAGES',
  relay: 'the relay cannot be used: see SLIM_RELAY_*',
  domain: 'a server cannot be used',
};
const unexplained = deferred('4.3.0', 'an internal error');
const ended = deferred('4.4.5', 'the attempt made no progress, and other mail needed its place');
const crowded = ({ host, address }: Server): Delivery => {
  return { ...deferred('4.4.5', `too many attempts are with ${address} now`), remote: host, isCrowded: true };
};

/** A server of our operator that wants a login of us has nothing against the message. */
function forgive(delivery: Delivery): Delivery {
  const wantsLogin = delivery.kind === 'failed' && /^53[05] /.test(delivery.text);
  return wantsLogin ? { ...delivery, kind: 'deferred', status: '4.7.0' } : delivery;
}

/** What a promise gives; undefined once the attempt is to end. */
function orEnded<T>(promise: Promise<T>, place: Place): Promise<T | undefined> {
  const end = Promise.withResolvers<undefined>();
  place.onEnd = () => end.resolve(undefined);
  if (place.isEnded) place.onEnd();
  return Promise.race([promise, end.promise]).finally(() => (place.onEnd = undefined));
}
