// How a message leaves: through the relay, or to the MX hosts of a domain one after the other, under the TLS policy.
// Promises: under `required` nothing goes to an MX host in plain text; once a host has taken the session its word counts, for each
// recipient; what the next hop cannot take is converted where that is lawful, else it fails; sessions are reused while warm.
// RFC 5321 §5.1, 6152 (8BITMIME), 6531 (SMTPUTF8), 8314.
import { isAscii } from 'node:buffer';
import { unlink } from 'node:fs/promises';
import { type Socket, connect } from 'node:net';
import { type SecureContext, createSecureContext } from 'node:tls';
import type { Delivery, Log, QueueEntry, QueueRecipient, StoredMessage, Transport } from '../mail.ts';
import type { Clock } from '../system.ts';
import { Connection, type Timeouts, standardTimeouts } from './connection.ts';
import { type Stored, openContent, read } from './content.ts';
import type { Refusal, Sent, Terms } from './dialogue.ts';
import { type MxOptions, type Target, findTargets } from './mx.ts';

type HostRefusal = Refusal & { readonly host: string };
const relayTls = { none: 'never', starttls: 'required', implicit: 'never' } as const;
const [maxIdle, maxMessages, idleMs] = [20, 100, 2000];
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
  readonly #idle = new Map<string, Connection[]>();
  #secureContext: SecureContext | undefined;
  #isClosed = false;

  constructor(options: OutboundOptions) {
    this.#options = options;
  }

  async deliver(
    destination: string,
    entry: QueueEntry,
    message: StoredMessage,
    recipients: readonly QueueRecipient[],
  ): Promise<readonly Delivery[]> {
    for (let waiting; (waiting = this.#idle.get(destination)?.at(-1)) !== undefined;) {
      this.#forget(destination, waiting);
      waiting.take();
      const { deliveries, isUntouched } = await this.#send(waiting, destination, entry, message, recipients);
      if (!isUntouched) return deliveries; // else it was closed while it waited
    }
    const opened = await this.#open(destination);
    if (!(opened instanceof Connection)) return recipients.map(() => opened);
    return (await this.#send(opened, destination, entry, message, recipients)).deliveries;
  }

  /** Says good-bye on the sessions that wait, and keeps no more of them. */
  close(): void {
    this.#isClosed = true;
    for (const connection of [...this.#idle.values()].flat()) connection.quit();
    this.#idle.clear();
  }

  async #open(destination: string): Promise<Connection | Delivery> {
    const { externalTls, clock, log } = this.#options;
    const relay = destination === 'relay' ? this.#options.relay : undefined;
    const startTls = relay ? relayTls[relay.tls] : externalTls === 'required' ? 'required' : 'offered';
    const found = relay ? [{ host: relay.host, address: relay.host }] : await findTargets(destination, this.#options);
    if ('kind' in found) return found;
    const startedAt = clock.now();
    const refusals: HostRefusal[] = [];
    for (const target of found) {
      if (clock.now() - startedAt > maxTryingMs) break;
      let opened = await this.#dial(target, relay, startTls);
      if (!(opened instanceof Connection) && opened.because === 'tls' && startTls === 'offered')
        opened = await this.#dial(target, relay, 'never'); // anew: the old connection is in the middle of a handshake
      if (opened instanceof Connection) return opened;
      const fields = { destination, remote: target.host, address: target.address, reason: opened.delivery.text };
      if (relay && opened.because !== 'host') log.warn(fields, 'the relay cannot be used: see SLIM_RELAY_*');
      else log.info(fields, 'a server cannot be used');
      refusals.push({ ...opened, host: target.host });
      if (opened.because === 'loop') break; // hosts that are preferred less would bring it back here
    }
    return summary(destination, refusals);
  }

  #dial({ host, address }: Target, relay: Relay | undefined, startTls: Terms['startTls']) {
    const { hostname, port, ca, random, timeouts = standardTimeouts, dial = connect } = this.#options;
    const { user, password } = relay ?? {};
    const hasLogin = user !== undefined && password !== undefined;
    const credentials = hasLogin ? { user, password, nonce: random.hex(18) } : undefined;
    this.#secureContext ??= createSecureContext(ca === undefined ? {} : { ca });
    return Connection.open(dial({ host: address, port: relay?.port ?? port }), {
      host,
      terms: { hostname, isSecure: relay?.tls === 'implicit', startTls, credentials },
      isVerified: relay !== undefined,
      secureContext: this.#secureContext,
      timeouts,
    });
  }

  async #send(
    connection: Connection,
    destination: string,
    entry: QueueEntry,
    { path, sizeBytes }: StoredMessage,
    recipients: readonly QueueRecipient[],
  ): Promise<Sent> {
    const { offers, tls } = connection;
    const remote = connection.options.host;
    const stored: Stored = { path, sizeBytes, skipBytes: entry.skipBytes };
    const mustConvert = entry.is8Bit && !offers.has('8BITMIME');
    const sevenBitPath = `${path}x7bit${this.#options.random.hex(4)}`; // a name that the queue sweeps after a crash
    const fail = (status: string, text: string): Sent => ({
      deliveries: recipients.map(() => ({ kind: 'failed', status, text })),
      isReusable: true,
      isUntouched: false,
    });
    let sent: Sent | undefined;
    try {
      const fit = mustConvert ? await (await import('./reencode.ts')).toSevenBit(stored, sevenBitPath) : stored;
      if (entry.isUtf8 && !offers.has('SMTPUTF8') && !hasAsciiHeader(stored))
        sent = fail('5.6.9', 'the server does not take a header with UTF-8');
      else if (typeof fit === 'string')
        sent = fail('5.6.3', `the server takes no 8-bit mail, and this cannot be converted: ${fit}`);
      else {
        const content = openContent(fit);
        const is8Bit = entry.is8Bit && !mustConvert;
        sent = await connection.send({ ...entry, is8Bit, recipients, sizeBytes: content.sizeBytes }, content);
      }
    } finally {
      if (mustConvert) await unlink(sevenBitPath).catch(() => undefined);
      if (sent?.isReusable) this.#keep(destination, connection);
      else connection.destroy();
    }
    const place = { remote, ...(tls && { tls }) };
    return { ...sent, deliveries: sent.deliveries.map(each => ({ ...forgive(each, destination), ...place })) };
  }

  #keep(destination: string, connection: Connection): void {
    const idle = this.#idle.get(destination) ?? [];
    if (this.#isClosed || connection.messages >= maxMessages || idle.length >= maxIdle) return connection.quit();
    this.#idle.set(destination, [...idle, connection]);
    connection.idle(idleMs, () => this.#forget(destination, connection));
  }

  #forget(destination: string, connection: Connection): void {
    const idle = this.#idle.get(destination)?.filter(each => each !== connection) ?? [];
    if (idle.length > 0) this.#idle.set(destination, idle);
    else this.#idle.delete(destination);
  }
}

/** What the hosts together mean for the message. */
function summary(destination: string, refusals: readonly HostRefusal[]): Delivery {
  // Where TLS was what they lacked, the sender should know at once; else the most hopeful word counts.
  const last =
    refusals.find(({ because }) => because === 'loop' || because === 'tls') ??
    refusals.findLast(({ delivery }) => delivery.kind === 'deferred') ??
    refusals.at(-1);
  if (last === undefined) throw new Error('no server was tried');
  const { because, host: remote, delivery } = last;
  const isUnreachable = delivery.kind === 'deferred';
  if (because !== 'tls') return { ...delivery, remote, ...(isUnreachable && { isUnreachable }) };
  // 4.7.4 is of the policy alone: what is wrong with a relay is our operator's matter, and no sender's.
  if (destination === 'relay') return { ...delivery, status: '4.7.5', remote, isUnreachable };
  const text = `no server of ${destination} offers TLS, and SLIM_EXTERNAL_TLS=required forbids plain text`;
  return { ...delivery, status: '4.7.4', text: `${text} (${remote}: ${delivery.text})`, remote };
}

/** A relay that wants a login of us has nothing against the message. */
function forgive(delivery: Delivery, destination: string): Delivery {
  const wantsLogin = destination === 'relay' && delivery.kind === 'failed' && /^53[05] /.test(delivery.text);
  return wantsLogin ? { ...delivery, kind: 'deferred', status: '4.7.0' } : delivery;
}

function hasAsciiHeader({ path, skipBytes, sizeBytes }: Stored): boolean {
  const head = read(path, skipBytes, Math.min(sizeBytes - skipBytes, maxHeaderBytes));
  const end = head.indexOf('\n\n');
  return isAscii(end < 0 ? head : head.subarray(0, end));
}
