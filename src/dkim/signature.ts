// DKIM-Signature fields for a header and the digest of its body. Pure, but for the signing itself.
// Promises: what a reader shows of a message is signed as often as it stands there and once more, so that nobody can
// add another From or Subject; no `l=`, so that nobody can add to the body.
// RFC 6376 §3.5 and §5.4, RFC 8463 (Ed25519).
import { type KeyObject, hash, sign } from 'node:crypto';
import type { Field } from '../mail/header.ts';
import { relaxedField } from './canonical.ts';

export type Algorithm = 'rsa' | 'ed25519';
export type SigningKey = {
  readonly domain: string;
  readonly selector: string;
  readonly algorithm: Algorithm;
  readonly key: KeyObject;
};
export type Signed = {
  readonly fields: readonly Field[];
  /** As base64. */
  readonly bodyDigest: string;
  readonly now: number;
};

/** Signed once more than they stand there: what a reader sees, and what says how the body is read. */
const contentFields = ['content-type', 'content-transfer-encoding', 'content-disposition'];
const oversigned = ['from', 'to', 'cc', 'subject', 'date', 'message-id', 'reply-to', 'mime-version', ...contentFields];
const isOversigned = (name: string): boolean => oversigned.includes(name) || name.startsWith('content-');
/**
 * Besides these the fields of lists are signed where they stand there (RFC 8058). Never Received, Return-Path and Bcc,
 * which change.
 */
const isSigned = (name: string): boolean => isOversigned(name) || name.startsWith('list-');
/** More fields than that make no mail that somebody reads, and `h=` would grow with them. */
export const maxSignedFields = 500;

/** The fields that a signature covers, in the order of `h=`: of several with one name the last comes first (§5.4.2). */
export function fieldsToSign(fields: readonly Field[]): readonly { readonly name: string; readonly field?: Field }[] {
  const byName = Map.groupBy(fields, ({ name }) => name);
  const names = new Set([...oversigned, ...[...byName.keys()].filter(isSigned)]);
  return [...names].flatMap(name => {
    const found = (byName.get(name) ?? []).toReversed().map(field => ({ name, field }));
    return isOversigned(name) ? [...found, { name }] : found;
  });
}

/** A field for each key, with its line end, LF; undefined: the header has too many fields to sign. */
export async function signatureFields(signed: Signed, keys: readonly SigningKey[]): Promise<string | undefined> {
  const covered = fieldsToSign(signed.fields);
  if (covered.length > maxSignedFields) return undefined;
  const names = folded(covered.map(({ name }) => name)).join('\n');
  const lines = covered.flatMap(({ field }) => (field ? `${relaxedField(field.text)}\r\n` : [])).join('');
  const fields = keys.map(async by => {
    const start = [
      `DKIM-Signature: v=1; a=${by.algorithm}-sha256; c=relaxed/relaxed; d=${by.domain};`,
      ` s=${by.selector}; t=${Math.floor(signed.now / 1000)};`,
      names,
      ` bh=${signed.bodyDigest};`,
      ' b=',
    ].join('\n');
    const signature = await signOctets(Buffer.from(lines + relaxedField(start), 'latin1'), by);
    return `${start}${base64Lines(signature)}\n`;
  });
  return (await Promise.all(fields)).join('');
}

/** A signature as it stands in a field, in lines of 72 letters. */
export const base64Lines = (signature: Buffer): string =>
  (signature.toString('base64').match(/.{1,72}/g) ?? []).join('\n ');

/** `h=` in lines of about that many characters. */
export function folded(names: readonly string[], width = 76): readonly string[] {
  const lines = [' h='];
  for (const [at, name] of names.entries()) {
    const text = at < names.length - 1 ? `${name}:` : `${name};`;
    const last = lines.at(-1) ?? '';
    if (last.length + text.length <= width) lines[lines.length - 1] = last + text;
    else lines.push(`  ${text}`);
  }
  return lines;
}

/**
 * With Ed25519 what is signed is the digest (RFC 8463 §3). That takes 20 µs, less than a way through the thread pool;
 * with RSA it takes ten times as long.
 */
export function signOctets(octets: Buffer, { algorithm, key }: SigningKey): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    if (algorithm === 'ed25519') resolve(sign(null, hash('sha256', octets, 'buffer'), key));
    else sign('sha256', octets, key, (error, signature) => (error ? reject(error) : resolve(signature)));
  });
}
