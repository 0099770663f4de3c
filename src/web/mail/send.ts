// POST /api/v1/send: a message as JSON, composed by nodemailer and kept as if it had come by SMTP. For tests that want
// mail in the mailbox without a client of their own.
import { Problem, type Route, json } from '../server.ts';
import { type Desk, type Json, isObject, readJson, toTags } from './desk.ts';

export const sendRoute = (desk: Desk): Route => ({
  method: 'POST',
  path: '/api/v1/send',
  about: 'Keeps a message: From, To, Cc, Bcc, ReplyTo, Subject, Text, HTML, Headers, Attachments (base64), Tags.',
  // Base64 makes a message a third larger, and there is the rest of the JSON.
  maxBodyOctets: Math.ceil(desk.maxSizeBytes * 1.4) + 1024 * 1024,
  async answer(request) {
    const wanted = await readJson(request);
    const { octets, from, recipients } = await compose(wanted);
    if (octets.length > desk.maxSizeBytes) throw new Problem(413, 'The message is larger than SLIM_MAX_SIZE.');
    const client = request.client.replace(/^::ffff:/, '');
    return json({ ID: await desk.ask('keep', { from, recipients, client, tags: toTags(wanted['Tags']), octets }) });
  },
});

async function compose(wanted: Json): Promise<{ octets: Buffer; from: string; recipients: readonly string[] }> {
  const { default: MailComposer } = await import('nodemailer/lib/mail-composer');
  const from = person(wanted['From'], 'From');
  const [to, cc, replyTo] = ['To', 'Cc', 'ReplyTo'].map(name =>
    listOf(wanted[name], name).map(each => person(each, name)),
  );
  const bcc = listOf(wanted['Bcc'], 'Bcc').map(each => address(each, 'Bcc'));
  const recipients = [...(to ?? []), ...(cc ?? [])].map(each => each.address).concat(bcc);
  if (recipients.length === 0) throw new Problem(400, 'To, Cc or Bcc must name a recipient.');
  const message = new MailComposer({
    from,
    to: to ?? [],
    cc: cc ?? [],
    replyTo: replyTo ?? [],
    subject: optionalText(wanted['Subject'], 'Subject'),
    text: optionalText(wanted['Text'], 'Text'),
    html: optionalText(wanted['HTML'], 'HTML'),
    headers: fields(wanted['Headers']),
    attachments: listOf(wanted['Attachments'], 'Attachments').map(attachment),
    newline: '\n',
    // Whatever nodemailer is given is text, and never the name of a file or of a host.
    disableFileAccess: true,
    disableUrlAccess: true,
  });
  const octets = await message.compile().build();
  return { octets, from: from.address, recipients };
}

function listOf(value: unknown, name: string): readonly unknown[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value) || value.length > 1000) throw new Problem(400, `${name} must be a list.`);
  return value;
}

function person(value: unknown, name: string): { name: string; address: string } {
  if (!isObject(value)) throw new Problem(400, `${name} must be {"Email": "…", "Name": "…"}.`);
  return { name: optionalText(value['Name'], name) ?? '', address: address(value['Email'], name) };
}

function address(value: unknown, name: string): string {
  if (typeof value !== 'string' || !/^[^\s<>]{1,64}@[^\s<>@]{1,254}$/.test(value))
    throw new Problem(400, `${name} must have an address such as anton@example.com.`);
  return value;
}

function optionalText(value: unknown, name: string): string | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'string') throw new Problem(400, `${name} must be text.`);
  return value;
}

function fields(value: unknown): Record<string, string> {
  if (value === undefined || value === null) return {};
  if (!isObject(value)) throw new Problem(400, 'Headers must be an object of texts.');
  return Object.fromEntries(Object.entries(value).map(([name, text]) => [name, optionalText(text, 'Headers') ?? '']));
}

function attachment(value: unknown) {
  const { Content, Filename, ContentType, ContentID } = isObject(value) ? value : {};
  if (typeof Content !== 'string' || typeof Filename !== 'string')
    throw new Problem(400, 'Each of Attachments must have Content (base64) and Filename.');
  const type = optionalText(ContentType, 'ContentType');
  const cid = optionalText(ContentID, 'ContentID');
  return {
    content: Buffer.from(Content, 'base64'),
    filename: Filename,
    ...(type && { contentType: type }),
    ...(cid && { cid, contentDisposition: 'inline' as const }),
  };
}
