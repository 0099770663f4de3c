// How a message leaves: through the relay, or to the MX hosts of a domain one after the other, under the TLS policy.
// Promises: under `required` nothing goes to an MX host in plain text; once a host has taken the session its word counts, for each
// recipient; what the next hop cannot take is converted where that is lawful, else it fails; sessions are reused while warm.
// RFC 5321 §5.1, 6152 (8BITMIME), 6531 (SMTPUTF8), 8314.
import { unlink } from 'node:fs/promises';
import { type Socket, connect } from 'node:net';
import { type SecureContext, createSecureContext } from 'node:tls';
import { type Delivery, type NextHop, nextHopKey } from '../mail/message.ts';
import type { Log } from '../system/log.ts';
import type { Transport } from '../mail/ports.ts';
import type { Clock } from '../system/world.ts';
import { Connection, type Timeouts, standardTimeouts } from './connection.ts';
import { type Stored, openContent, read } from './content.ts';
import { type Refusal, type Sent, type Terms, isAscii } from './dialogue.ts';
import { type MxOptions, type Target, findTargets } from './mx.ts';

type Attempt = Parameters<Transport['deliver']>;
const relayTls = { none: 'never', starttls: 'required', implicit: 'never' } as const;
const [maxMessages, idleMs] = [100, 2000]; // of a session
/** After so long with hosts that do not work, the others have to wait for the next attempt. */
const maxTryingMs = 15 * 60_000;
const maxHeaderBytes = 256 * 1024;

export type OutboundOptions = MxOptions & {
  readonly hostname: string;
  readonly relay?: Relay | undefined;
  readonly externalTls: 'required' | 'opportunistic';
  /** Of MX hosts. */
  readonly port: number;
  readonly clock: Clock;
  readonly random: { hex(octets: number): string };
  readonly log: Log;
  /** Instead of the authorities that the system trusts, for the relay. */
  readonly ca?: string | undefined;
  readonly timeouts?: Timeouts;
  readonly dial?: (options: { readonly host: string; readonly port: number }) => Socket;
};
type Relay = {
  readonly host: string;
  readonly port: number;
  readonly tls: 'none' | 'starttls' | 'implicit';
  readonly user?: string;
  readonly password?: string;
};

export class OutboundTransport implements Transport {
  readonly #options: OutboundOptions;
  /** The sessions that wait for their next message, by destination; no more than there are attempts at once. */
  readonly #idle = new Map<Connection, { readonly to: string; readonly timer: NodeJS.Timeout }>();
  #secureContext: SecureContext | undefined;

  constructor(options: OutboundOptions) {
    this.#options = options;
  }

  async deliver(...attempt: Attempt): Promise<readonly Delivery[]> {
    const [hop, , , recipients] = attempt;
    for (const [waiting, { to, timer }] of this.#idle) {
      if (to !== nextHopKey(hop)) continue;
      this.#idle.delete(waiting);
      clearTimeout(timer);
      const sent = waiting.isQuiet() && (await this.#send(waiting, ...attempt));
      if (sent && !sent.isUntouched) return sent.deliveries;
      waiting.destroy(); // it was closed while it waited, or says what nobody asked for
    }
    const opened = await this.#open(hop);
    if (!(opened instanceof Connection)) return recipients.map(() => opened);
    return (await this.#send(opened, ...attempt)).deliveries;
  }

  /** Says good-bye on the sessions that wait. */
  close(): void {
    for (const connection of this.#idle.keys()) connection.quit();
    this.#idle.clear();
  }

  async #open(hop: NextHop): Promise<Connection | Delivery> {
    const { externalTls, clock, log } = this.#options;
    const destination = nextHopKey(hop);
    const relay = hop.kind === 'relay' ? this.#options.relay : undefined;
    const startTls = relay ? relayTls[relay.tls] : externalTls === 'required' ? 'required' : 'offered';
    const found = relay ? [{ host: relay.host, address: relay.host }] : await findTargets(destination, this.#options);
    if ('kind' in found) return found;
    const startedAt = clock.now();
    const refusals: (Refusal & Target)[] = [];
    for (const target of found) {
      if (clock.now() - startedAt > maxTryingMs) break;
      let opened = await this.#dial(target, relay, startTls);
      if (!(opened instanceof Connection) && opened.because === 'tls' && startTls === 'offered')
        opened = await this.#dial(target, relay, 'never'); // anew: the old connection is in the middle of a handshake
      if (opened instanceof Connection) return opened;
      const fields = { destination, remote: target.host, address: target.address, reason: opened.delivery.text };
      if (relay && opened.because !== 'host') log.warn(fields, 'the relay cannot be used: see SLIM_RELAY_*');
      else log.info(fields, 'a server cannot be used');
      refusals.push({ ...opened, ...target });
      if (opened.because === 'loop') break; // hosts that are preferred less would bring it back here
    }
    return summary(hop, refusals);
  }

  #dial({ host, address }: Target, relay: Relay | undefined, startTls: Terms['startTls']) {
    const { hostname, port, ca, random, timeouts = standardTimeouts, dial = connect } = this.#options;
    const { user, password } = relay ?? {};
    const credentials = user && password ? { user, password, nonce: random.hex(18) } : undefined;
    const terms = { hostname, isSecure: relay?.tls === 'implicit', startTls, credentials };
    const secureContext = (this.#secureContext ??= createSecureContext({ ca })); // 1.3 ms each
    const options = { host, terms, isVerified: relay !== undefined, secureContext, timeouts };
    return new Connection(dial({ host: address, port: relay?.port ?? port }), options).open();
  }

  async #send(connection: Connection, ...[hop, entry, message, recipients]: Attempt): Promise<Sent> {
    const { offers, tls, options } = connection;
    const place = { remote: options.host, ...(tls && { tls }) };
    const stored = { ...message, skipBytes: entry.skipBytes };
    const mustConvert = entry.is8Bit && !offers.has('8BITMIME');
    // A name that the queue sweeps after a crash.
    const sevenBitPath = message.kind === 'file' ? `${message.path}x7bit${this.#options.random.hex(4)}` : undefined;
    const fail = (status: string, text: string): Sent => {
      return { deliveries: recipients.map(() => ({ kind: 'failed', status, text })), isReusable: true };
    };
    let sent: Sent | undefined;
    try {
      const fit = mustConvert ? await (await import('./reencode.ts')).toSevenBit(stored, sevenBitPath) : stored;
      if (entry.isUtf8 && !offers.has('SMTPUTF8') && !hasAsciiHeader(stored))
        sent = fail('5.6.9', 'the server does not take a header with UTF-8');
      else if (typeof fit === 'string')
        sent = fail('5.6.3', `the server takes no 8-bit mail, and this cannot be converted: ${fit}`);
      else {
        const content = openContent(fit);
        const mail = { ...entry, is8Bit: entry.is8Bit && !mustConvert, recipients, sizeBytes: content.sizeBytes };
        sent = await connection.send(mail, content);
      }
    } finally {
      if (mustConvert && sevenBitPath) await unlink(sevenBitPath).catch(() => undefined);
      if (!sent?.isReusable) connection.destroy();
      else if (connection.messages >= maxMessages) connection.quit();
      else {
        const quit = (): void => void (this.#idle.delete(connection) && connection.quit());
        this.#idle.set(connection, { to: nextHopKey(hop), timer: setTimeout(quit, idleMs).unref() });
      }
    }
    return { ...sent, deliveries: sent.deliveries.map(each => ({ ...forgive(each, hop), ...place })) };
  }
}

/** What the hosts together mean for the message. */
function summary(hop: NextHop, refusals: readonly (Refusal & Target)[]): Delivery {
  // Where TLS was what they lacked, the sender should know at once; else the most hopeful word counts.
  const last =
    refusals.find(({ because }) => because === 'tls') ??
    refusals.findLast(({ delivery }) => delivery.kind === 'deferred') ??
    refusals.at(-1);
  if (last === undefined) throw new Error('no server was tried');
  const { because, host: remote, delivery } = last;
  const isUnreachable = delivery.kind === 'deferred';
  if (because !== 'tls') return { ...delivery, remote, isUnreachable };
  // 4.7.4 is of the policy alone: what is wrong with a relay is our operator's matter, and no sender's.
  if (hop.kind === 'relay') return { ...delivery, status: '4.7.5', remote, isUnreachable };
  // Our words, and nobody else's: no `remote`.
  const text = `no server of ${nextHopKey(hop)} that was reached offers TLS, and SLIM_EXTERNAL_TLS=required forbids plain text`;
  return { ...delivery, status: '4.7.4', text: `${text} (${remote}: ${delivery.text})` };
}

/** A relay that wants a login of us has nothing against the message. */
function forgive(delivery: Delivery, hop: NextHop): Delivery {
  const wantsLogin = hop.kind === 'relay' && delivery.kind === 'failed' && /^53[05] /.test(delivery.text);
  return wantsLogin ? { ...delivery, kind: 'deferred', status: '4.7.0' } : delivery;
}

function hasAsciiHeader(message: Stored): boolean {
  const [head = ''] = read(message, maxHeaderBytes).toString('latin1').split('\n\n', 1);
  return isAscii(head);
}
