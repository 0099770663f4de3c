// Further certificate authorities (NODE_EXTRA_CA_CERTS): for the relay, for PostgreSQL, for other servers.
// Node reads that variable itself, but only from the environment and only when it starts. In `.env` it comes too late
// for that, so that we add them. A file that cannot be used is a line of the log: then those servers are not trusted.
import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { getCACertificates, setDefaultCACertificates } from 'node:tls';
import type { Log } from '../system/log.ts';
import { certificatesIn } from './pem.ts';

/**
 * Call it before the first connection. `isNodes`: Node adds them by itself, when it first needs them, so that the file
 * is only looked at here; to take a hundred certificates apart costs 6 MB.
 */
export function trustAuthorities(from: { readonly file: string; readonly isNodes: boolean }, log: Log): void {
  const { file, isNodes } = from;
  try {
    const found = certificatesIn(readFileSync(file, 'latin1'));
    if (!found) throw new Error('it holds no certificate');
    if (isNodes) return;
    const known = new Set(getCACertificates('default').map(canonical));
    const added = found.map(canonical).filter(each => !known.has(each));
    if (added.length > 0) setDefaultCACertificates([...known, ...added]);
  } catch (error) {
    log.warn({ file, error: String(error) }, 'NODE_EXTRA_CA_CERTS cannot be used: its authorities are not trusted');
  }
}

/** Throws where it is no certificate. */
const canonical = (pem: string): string => new X509Certificate(pem).toString();
