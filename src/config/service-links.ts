// Variables that Kubernetes sets in every container for every service: a service called `slim-smtp` sets
// SLIM_SMTP_SERVICE_HOST, SLIM_SMTP_PORT=tcp://10.0.0.1:25, SLIM_SMTP_PORT_25_TCP_ADDR and more. They begin like
// settings, and are none.
// Promise: only variables of that form count, and only of a service that has told its address; a misspelt setting is
// still an error.
import { isIP } from 'node:net';

/** The names that are service links: of a service whose SLIM_…_SERVICE_HOST is an address. */
export function serviceLinks(variables: Readonly<Record<string, string | undefined>>): ReadonlySet<string> {
  const links = new Set<string>();
  for (const [host, address = ''] of Object.entries(variables)) {
    const [, service] = /^(SLIM(?:_[A-Z0-9]+)*)_SERVICE_HOST$/.exec(host) ?? [];
    if (service === undefined || !isIP(address)) continue;
    for (const [name, value = ''] of Object.entries(variables)) {
      if (!name.startsWith(`${service}_`)) continue;
      const rest = name.slice(service.length + 1);
      const isOfService = /^SERVICE_(?:HOST|PORT(?:_[A-Z0-9_]+)?)$/.test(rest);
      const isOfPort = /^PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?$/.test(rest);
      const isUrl = /^(?:tcp|udp|sctp):\/\//.test(value);
      // SLIM_RELAY_PORT of a service `slim-relay` has the name of a setting, and the form of a URL.
      if (isOfService || (isOfPort && (rest !== 'PORT' || isUrl))) links.add(name);
    }
  }
  return links;
}
