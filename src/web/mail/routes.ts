// All routes of captured mail, and its events.
import type { Change } from '../../mail/captured.ts';
import type { Ask, Start } from '../protocol.ts';
import type { Route } from '../server.ts';
import { messageRoutes } from './api.ts';
import { openEvents } from './events.ts';
import { Mailbox } from './mailbox.ts';
import { openApiRoute } from './openapi.ts';
import { otherRoutes } from './others.ts';
import { sendRoute } from './send.ts';
import { viewRoutes } from './view.ts';

type Options = Readonly<{
  capture: NonNullable<Start['capture']>;
  version: string;
  ask: Ask;
  onReading: (id: string | undefined) => void;
  /** Routes that are there besides: the document of the API names them, too. */
  others: readonly Route[];
}>;

export function openCaptured({ capture, version, ask, onReading, others }: Options) {
  const { folder, maxSizeBytes, kept, unreadable } = capture;
  const mailbox = new Mailbox({ folder, unreadable, onReading });
  const desk = { ask, mailbox, version, folder, maxSizeBytes };
  const routes = [...messageRoutes(desk), ...otherRoutes(desk), ...viewRoutes(desk), sendRoute(desk)];
  return {
    /** To be called once the server listens: mail that blocks the parser must not keep it from that. */
    begin(): void {
      for (const each of kept) mailbox.add(each);
    },
    hear: (change: Change): void => mailbox.hear(change),
    routes: [...routes, openApiRoute([...others, ...routes], version)],
    onUpgrade: openEvents(mailbox, version),
  };
}
