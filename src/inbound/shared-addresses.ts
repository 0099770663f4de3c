// Which client addresses may stand for anyone. Behind Docker's proxy every client comes from the address of the
// gateway. In a container these are the address of every gateway, the first address of each attached subnet, and the
// container's own addresses; outside of containers there are none. Limits for each client do not hold for them (those
// for each account and for all clients together do), and no network makes them trusted.
import { existsSync, readFileSync } from 'node:fs';
import { BlockList, isIPv6 } from 'node:net';
import { networkInterfaces } from 'node:os';

/** The shared addresses as they are now; none outside a container. */
export function sharedAddresses(): readonly string[] {
  if (!isContainer()) return [];
  const own = Object.values(networkInterfaces()).flatMap(list => (list ?? []).filter(({ internal }) => !internal));
  return [...new Set([...own.map(({ address }) => address), ...fromRoutes()])];
}

let check: ReturnType<typeof matcher> | undefined;
let known = matcher([]);
/**
 * Whether a client has a shared address. What is known of them is a second old at most, since a network may be attached
 * at any time; to ask the kernel for each session cost 0.4 ms.
 */
export function isShared(client: string): boolean {
  if (check === undefined) setTimeout(() => (check = undefined), 1000).unref();
  try {
    check ??= known = matcher(sharedAddresses());
  } catch {
    check = known; // when no descriptor is left, for example, what was known last counts
  }
  return check(client);
}

/** Whether a client's address (without `::ffff:`) is among addresses and networks (`address/bits`). */
export function matcher(networks: readonly string[]): (client: string) => boolean {
  if (networks.length === 0) return () => false;
  // A list for each family: in one list an IPv6 network such as ::/32 would hold every IPv4 address.
  const lists = { ipv4: new BlockList(), ipv6: new BlockList() };
  for (const network of networks) {
    const [address = '', bits] = network.split('/');
    const family = isIPv6(address) ? 'ipv6' : 'ipv4';
    if (bits === undefined) lists[family].addAddress(address, family);
    else lists[family].addSubnet(address, Number(bits), family);
  }
  return client => (isIPv6(client) ? lists.ipv6.check(client, 'ipv6') : lists.ipv4.check(client));
}

function isContainer(): boolean {
  if (existsSync('/.dockerenv') || existsSync('/run/.containerenv')) return true;
  return /^\S+ \S+ \S+ \S+ \/ .* - (?:overlay|fuse-overlayfs) /m.test(read('/proc/self/mountinfo'));
}

/** From the kernel's routing tables: each gateway, and the first host of each attached subnet. */
function fromRoutes(): string[] {
  const ipv4 = read('/proc/net/route').matchAll(/^\S+\t([0-9A-F]{8})\t([0-9A-F]{8})\t/gm);
  const ipv6 = read('/proc/net/ipv6_route').matchAll(/^((?!ff)[0-9a-f]{32}) (?!80)\S+ \S+ \S+ ([0-9a-f]{32}) /gm);
  return [...ipv4, ...ipv6].flatMap(([, subnet = '', gateway = '']) => {
    const isAttached = /^0+$/.test(gateway);
    const octets = Buffer.from(isAttached ? subnet : gateway, 'hex');
    if (octets.every(octet => octet === 0)) return [];
    if (octets.length === 4) octets.reverse(); // IPv4 is printed in host order
    const last = octets.length - 1;
    if (isAttached) octets[last] = (octets[last] ?? 0) | 1;
    return octets.length === 4 ? octets.join('.') : (octets.toString('hex').match(/.{4}/g) ?? []).join(':');
  });
}

const read = (path: string): string => (existsSync(path) ? readFileSync(path, 'latin1') : '');
