// Captured mail in the shapes of Mailpit's REST API v1: names and types are those of its documentation. `Checks` and
// `Envelope` of a message are ours.
import { findings } from './checks.ts';
import type { Item, Opened } from './mailbox.ts';
import { type Parsed, type Part, hashes, valuesOf } from './parse.ts';

export function listItem({ mail, isRead, tags, summary }: Item) {
  const { from, to, cc, bcc, replyTo, subject, messageId, snippet, attachments } = summary;
  return {
    ID: mail.id,
    MessageID: messageId,
    Read: isRead,
    From: from,
    To: to,
    Cc: cc,
    Bcc: bcc,
    ReplyTo: replyTo,
    Subject: subject,
    Created: new Date(mail.receivedAt).toISOString(),
    Username: mail.login ?? '',
    Tags: tags,
    Size: mail.sizeBytes,
    Attachments: attachments,
    Snippet: snippet,
  };
}

/** A part of a list. `found` is what matches, `all` is every message. */
export function list(found: readonly Item[], all: readonly Item[], start: number, limit: number) {
  const messages = found.slice(start, start + limit).map(listItem);
  return {
    total: all.length,
    unread: countUnread(all),
    count: messages.length,
    messages_count: found.length,
    messages_unread: countUnread(found),
    start,
    tags: allTags(all),
    messages,
  };
}

export const countUnread = (items: readonly Item[]): number => items.filter(({ isRead }) => !isRead).length;

export const allTags = (items: readonly Item[]): readonly string[] =>
  [...new Set(items.flatMap(({ tags }) => tags))].toSorted((one, other) => one.localeCompare(other));

export function message(item: Item, opened: Opened) {
  const { parsed } = opened;
  const { mail, tags, summary } = item;
  const { from, to, cc, bcc, replyTo, subject, messageId } = summary;
  const parts = (isInline: boolean) => parsed.parts.filter(part => part.isInline === isInline).map(attachment);
  return {
    ID: mail.id,
    MessageID: messageId,
    From: from,
    To: to,
    Cc: cc,
    Bcc: bcc,
    ReplyTo: replyTo,
    ReturnPath: mail.from,
    Subject: subject,
    ListUnsubscribe: listUnsubscribe(parsed),
    Date: new Date(parsed.date ?? mail.receivedAt).toISOString(),
    Tags: tags,
    Username: mail.login ?? '',
    Text: parsed.text,
    HTML: parsed.html,
    Size: mail.sizeBytes,
    Inline: parts(true),
    Attachments: parts(false),
    Envelope: {
      From: mail.from,
      To: mail.recipients,
      Helo: mail.helo,
      Client: mail.client,
      TLS: mail.tls ?? '',
      Login: mail.login ?? '',
      Received: new Date(mail.receivedAt).toISOString(),
    },
    Checks: findings(opened, mail),
  };
}

const attachment = ({ id, name, type, contentId, octets }: Part) => ({
  PartID: id,
  FileName: name,
  ContentType: type,
  ContentID: contentId,
  Size: octets.length,
  Checksums: hashes(octets),
});

/** Each field with its values. Names are written as by Go's mail package, as Mailpit has them: `Message-Id`. */
export function headers(parsed: Parsed): Record<string, string[]> {
  const found: Record<string, string[]> = {};
  for (const { name, value } of parsed.fields.toSorted((one, other) => one.name.localeCompare(other.name)))
    (found[name.replaceAll(/(^|-)[a-z]/g, letter => letter.toUpperCase())] ??= []).push(value);
  return found;
}

/** How to unsubscribe, as the message says it (RFC 2369, RFC 8058). */
function listUnsubscribe(parsed: Parsed) {
  const [header = ''] = valuesOf(parsed, 'list-unsubscribe');
  const [post = ''] = valuesOf(parsed, 'list-unsubscribe-post');
  const links = [...header.matchAll(/<((?:mailto|https?):[^<>\s]+)>/gi)].map(([, link = '']) => link);
  const isWrong = header !== '' && links.length === 0;
  return {
    Header: header,
    HeaderPost: post,
    Links: links,
    Errors: isWrong ? 'List-Unsubscribe holds no <mailto:…> and no <https:…>' : '',
  };
}
