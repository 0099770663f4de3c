// What the routes of captured mail share: where they find mail, and how they read a request.
import * as limits from '../limits.ts';
import type { Ask } from '../protocol.ts';
import { Problem, type Request, text } from '../server.ts';
import type { Item, Mailbox } from './mailbox.ts';

export type Desk = Readonly<{ ask: Ask; mailbox: Mailbox; version: string; folder: string; maxSizeBytes: number }>;

/** The answer that Mailpit gives where there is nothing to tell. */
export const ok = text('ok');

/** Resolves when each message that got its 250 before this moment is in the index. */
export async function settled({ ask, mailbox }: Desk): Promise<void> {
  await ask('settled');
  await mailbox.settled();
}

export async function find(desk: Desk, { inPath }: Request): Promise<Item> {
  await settled(desk);
  const item = desk.mailbox.find(inPath['ID'] ?? '');
  if (item === undefined) throw new Problem(404, 'There is no such message.');
  return item;
}

export type Json = Readonly<Record<string, unknown>>;

export const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** The body of the request, which must be an object; {} where it is empty. */
export async function readJson({ body }: Request): Promise<Json> {
  const given = (await body()).toString();
  try {
    const value: unknown = given.trim() === '' ? {} : JSON.parse(given);
    if (isObject(value)) return value;
  } catch {
    // What is no JSON is no object either.
  }
  throw new Problem(400, 'The body of the request must be a JSON object.');
}

/** Reads a list of ids; an empty one stands for all messages. */
export function toIds(value: unknown): readonly string[] | 'all' {
  if (value === undefined || value === null) return 'all';
  if (!Array.isArray(value) || value.some(each => typeof each !== 'string'))
    throw new Problem(400, 'IDs must be a list of ids.');
  return value.length === 0 ? 'all' : (value as string[]);
}

/** Reads a list of tags. Characters that no tag may have are taken out, as Mailpit does. */
export function toTags(value: unknown): readonly string[] {
  if (!Array.isArray(value)) return [];
  const names = value.map(each =>
    `${each}`
      .replaceAll(/[^\w.\- ]/g, '')
      .trim()
      .slice(0, limits.maxTagLength),
  );
  return [...new Set(names.filter(Boolean))].slice(0, limits.maxTags);
}
