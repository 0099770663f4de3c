// What every Directory promises (src/mail/ports.ts), as tests that each of them passes. `known` is a mailbox that it
// has routes for, `unknown` one that it has none for (a catch-all has no such thing); `broken` is one that cannot ask.
import assert from 'node:assert/strict';
import { isAbsolute, normalize, relative } from 'node:path';
import { test } from 'node:test';
import { CannotTell } from '../../src/mail/ports.ts';
import { routeKey } from '../../src/mail/message.ts';
import { toMailbox } from '../../src/mail/address.ts';
import type { Directory } from '../../src/mail/ports.ts';
import type { Mailbox } from '../../src/mail/address.ts';

type DirectoryCase = {
  readonly directory: Directory;
  readonly known: string;
  readonly unknown?: string;
  readonly broken?: Directory;
};

/** 'local@domain' as a Mailbox; the last '@' divides. */
export function mailbox(text: string): Mailbox {
  const at = text.lastIndexOf('@');
  const made = toMailbox({ local: text.slice(0, at), domain: text.slice(at + 1) });
  assert.ok(made, text);
  return made;
}

const hostile = ['..', '.', '/', '../../etc/passwd', 'a/b', '-f', '%2e%2e', 'ü', 'x'.repeat(300), "'--"];

/** `make` is called in each test, so that it may use what a `before` hook has started. */
export function directoryContract(name: string, make: () => DirectoryCase): void {
  test(`${name} knows its mailbox, gives the same routes each time, and says why`, async () => {
    const { directory, known } = make();
    const lines: string[] = [];
    const found = await directory.lookup(mailbox(known), line => lines.push(line));
    assert.ok(found && found.routes.length > 0);
    assert.equal(new Set(found.routes.map(routeKey)).size, found.routes.length, 'routes are not de-duplicated');
    assert.deepEqual(await directory.lookup(mailbox(known), () => {}), found);
    assert.match(lines.join('\n'), new RegExp(`^${directory.name.replace('*', '\\*')}: `, 'm'));
  });

  test(`${name} answers undefined for a mailbox that is not its own`, async () => {
    const { directory, unknown } = make();
    if (unknown !== undefined) assert.equal(await directory.lookup(mailbox(unknown), () => {}), undefined);
  });

  test(`${name} lets no name lead outside its roots`, async () => {
    const { directory, known } = make();
    const domain = known.slice(known.lastIndexOf('@'));
    for (const local of hostile) {
      for (const route of (await directory.lookup(mailbox(local + domain), () => {}))?.routes ?? []) {
        if (route.kind === 'maildir') {
          assert.ok(isAbsolute(route.root) && route.path === normalize(route.path), route.path);
          assert.doesNotMatch(relative(route.root, route.path), /^\.\.|^\/|\0/, route.path);
        } else {
          assert.match(route.account, /^[a-z0-9_][a-z0-9_.-]*$/);
          assert.ok(!isAbsolute(route.folder) && !route.folder.split('/').includes('..'), route.folder);
        }
      }
    }
  });

  test(`${name} throws CannotTell, for now, when it cannot ask`, async () => {
    const { broken, known } = make();
    if (broken === undefined) return;
    await assert.rejects(
      async () => broken.lookup(mailbox(known), () => {}),
      error => {
        assert.ok(error instanceof CannotTell, String(error));
        assert.match(error.status, /^4\.\d+\.\d+$/);
        return true;
      },
    );
  });
}
