// Why the authority has given no certificate, kept in SLIM_DATA/acme/trouble.json: so that it is not asked before the
// time that it has named, also not by the next process, and so that doctor and the status page can tell.
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { replaceFile } from '../durable/replace.ts';
import { reasonOf } from '../system/reason.ts';

/** The authority wants to be asked later (RFC 8555 §6.6, Retry-After). */
export class AskLater extends Error {
  readonly afterMs: number;

  constructor(reason: string, afterMs: number) {
    super(reason);
    this.afterMs = afterMs;
  }
}

export type Trouble = Readonly<{
  reason: string;
  /** Who was asked for what: another authority, or for other names, may be asked at once. */
  directoryUrl: string;
  names: readonly string[];
  /** When it may be asked again, where it has named a time; in ms since 1970. */
  until?: number;
}>;
export type Asked = Pick<Trouble, 'directoryUrl' | 'names'>;

/** Let's Encrypt's limits are for a week. A time further away is a mistake of the authority, or of a clock. */
const longestMs = 7 * 24 * 3_600_000;
const maxReasonLength = 300;

const fileOf = (folder: string): string => join(folder, 'trouble.json');

/** What went wrong when the same was asked for last; undefined: nothing. */
export function readTrouble(folder: string, { directoryUrl, names }: Asked, now: number): Trouble | undefined {
  try {
    const kept = JSON.parse(readFileSync(fileOf(folder), 'utf8')) as Trouble;
    if (typeof kept.reason !== 'string' || kept.directoryUrl !== directoryUrl) return undefined;
    if (String(kept.names) !== String(names)) return undefined;
    const { until = 0, ...rest } = kept;
    return until > now && until <= now + longestMs ? kept : rest;
  } catch {
    return undefined; // there is none, or it is damaged
  }
}

/** Keeps what went wrong. */
export async function keepTrouble(folder: string, asked: Asked, error: unknown, now: number): Promise<Trouble> {
  const { directoryUrl, names } = asked;
  const until = error instanceof AskLater ? now + Math.min(error.afterMs, longestMs) : undefined;
  const reason = reasonOf(error).slice(0, maxReasonLength);
  const trouble = { reason, directoryUrl, names, ...(until !== undefined && { until }) };
  await replaceFile(fileOf(folder), JSON.stringify(trouble));
  return trouble;
}

export const forgetTrouble = (folder: string): void => rmSync(fileOf(folder), { force: true });

/** For people. */
export function describeTrouble({ reason, until }: Trouble): string {
  if (until === undefined) return `no certificate came from the authority: ${reason}`;
  return `the authority is not asked for a certificate before ${new Date(until).toISOString()}: ${reason}`;
}
