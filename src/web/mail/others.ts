// The smaller parts of Mailpit's API: info, tags, and failures by chance.
import { type Answer, Problem, type Route, json } from '../server.ts';
import { type Desk, ok, readJson, settled, toIds, toTags } from './desk.ts';
import { allTags, countUnread } from './shapes.ts';

export function otherRoutes(desk: Desk): readonly Route[] {
  const { ask, mailbox, version, folder } = desk;
  const startedAt = process.uptime();
  return [
    {
      method: 'GET',
      path: '/api/v1/info',
      about: 'How much mail there is, and how long this process has run.',
      async answer() {
        await settled(desk);
        const items = mailbox.items();
        const { accepted, acceptedBytes, deleted } = mailbox.counts;
        const tags = items.flatMap(item => item.tags);
        return json({
          Version: version,
          LatestVersion: version,
          Database: folder,
          DatabaseSize: items.reduce((sum, { mail }) => sum + mail.sizeBytes, 0),
          Messages: items.length,
          Unread: countUnread(items),
          Tags: Object.fromEntries(allTags(items).map(tag => [tag, tags.filter(each => each === tag).length])),
          RuntimeStats: {
            Uptime: Math.floor(process.uptime() - startedAt),
            Memory: process.memoryUsage.rss(),
            MessagesDeleted: deleted,
            SMTPAccepted: accepted,
            SMTPAcceptedSize: acceptedBytes,
            SMTPRejected: 0,
            SMTPIgnored: 0,
          },
        });
      },
    },
    {
      method: 'GET',
      path: '/api/v1/webui',
      about: 'What a page needs to know of the server.',
      answer: () =>
        json({
          Label: 'SlimSMTP',
          MessageRelay: {
            Enabled: false,
            SMTPServer: '',
            ReturnPath: '',
            AllowedRecipients: '',
            BlockedRecipients: '',
            OverrideFrom: '',
            PreserveMessageIDs: false,
            RecipientAllowlist: '',
          },
          SpamAssassin: false,
          ChaosEnabled: true,
          DuplicatesIgnored: false,
          HideDeleteAllButton: false,
        }),
    },
    {
      method: 'GET',
      path: '/api/v1/tags',
      about: 'All tags.',
      async answer() {
        await settled(desk);
        return json(allTags(mailbox.items()));
      },
    },
    {
      method: 'PUT',
      path: '/api/v1/tags',
      about: 'Gives the messages of `IDs` these `Tags`, in place of those that they have.',
      async answer(request) {
        await settled(desk);
        const { IDs, Tags } = await readJson(request);
        const ids = toIds(IDs);
        if (ids === 'all') throw new Problem(400, 'IDs must be a list of ids.');
        await ask('mark', ids, { tags: toTags(Tags) });
        return ok;
      },
    },
    {
      method: 'PUT',
      path: '/api/v1/tags/{Tag}',
      about: 'Renames a tag to `Name`.',
      async answer(request) {
        const [name] = toTags([(await readJson(request))['Name']]);
        if (name === undefined) throw new Problem(400, 'Name must be a tag: letters, digits, - . _ and blanks.');
        return changeTag(desk, request.inPath['Tag'] ?? '', name);
      },
    },
    {
      method: 'DELETE',
      path: '/api/v1/tags/{Tag}',
      about: 'Takes a tag away from all messages.',
      answer: request => changeTag(desk, request.inPath['Tag'] ?? ''),
    },
    {
      method: 'GET',
      path: '/api/v1/chaos',
      about: 'How often MAIL, RCPT and AUTH fail by chance.',
      answer: async () => json(await ask('chaos')),
    },
    {
      method: 'PUT',
      path: '/api/v1/chaos',
      about: 'Sets how often they fail; triggers that are left out are off.',
      answer: async request =>
        json(
          await ask('chaos', await readJson(request)).catch((error: Problem) => {
            throw new Problem(400, error.message);
          }),
        ),
    },
  ];
}

/** Another name for a tag, or none. */
async function changeTag(desk: Desk, tag: string, name?: string): Promise<Answer> {
  await settled(desk);
  const tagged = desk.mailbox.items().filter(({ tags }) => tags.includes(tag));
  if (tagged.length === 0) throw new Problem(404, 'There is no such tag.');
  // Messages with the same tags are changed together.
  for (const [, group] of Map.groupBy(tagged, ({ tags }) => tags.join('\n'))) {
    const tags = [...new Set((group[0]?.tags ?? []).flatMap(each => (each === tag ? (name ?? []) : each)))];
    await desk.ask(
      'mark',
      group.map(({ mail }) => mail.id),
      { tags },
    );
  }
  return ok;
}
