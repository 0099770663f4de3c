import assert from 'node:assert/strict';
import {
  chmodSync,
  chownSync,
  lchownSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { execSync, spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { prepareData, prepareDataAsRoot } from '../../src/system/folders.ts';
import { MailRoots, prepareRootAsRoot } from '../../src/system/mail-roots.ts';
import type { Log } from '../../src/system/log.ts';
import type { Context } from '../../src/wiring/context.ts';
import { openMailRoots } from '../../src/wiring/mail-roots.ts';

const isRoot = process.getuid?.() === 0;
const owner = { uid: 4711, gid: 4712 };
let folder = '';
let data = '';
let lines: { readonly level: string; readonly text: string; readonly [field: string]: unknown }[] = [];
const note = (level: string) => (fields: Record<string, unknown>, text: string) =>
  void lines.push({ ...fields, level, text });
const log: Log = { debug: note('debug'), info: note('info'), warn: note('warn'), error: note('error') };
/** uid and mode. */
const facts = (path: string): string => {
  const { uid, mode } = lstatSync(path);
  return `${uid} ${(mode & 0o777).toString(8)}`;
};
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'folders-'));
  data = join(folder, 'data');
  lines = [];
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

/**
 * Runs code as an ordinary user, who is ourselves where we are one; gives the message of what it threw. The user need
 * not be able to read the sources: they are loaded before we become him.
 */
function asUser(call: string, file = 'folders'): string {
  chmodSync(folder, 0o755);
  const become = isRoot ? `process.setgroups([]); process.setgid(${owner.gid}); process.setuid(${owner.uid});` : '';
  const source = JSON.stringify(join(import.meta.dirname, `../../src/system/${file}.ts`));
  const script = `import(${source}).then(m => { ${become} ${call} }).catch(e => console.log(e.message))`;
  return spawnSync(process.execPath, ['-e', script], { encoding: 'utf8', cwd: '/' }).stdout.trim();
}

describe('SLIM_DATA', () => {
  it('is made with its parts, for us alone', () => {
    prepareData(data);
    for (const name of ['queue', 'spool', 'journal', 'state', 'tls', 'dkim', 'run'])
      assert.match(facts(join(data, name)), / 700$/);
  });

  it('that cannot be written is answered with the exact chown', () => {
    mkdirSync(data, { mode: 0o555 });
    const [uid, gid] = isRoot ? [4711, 4712] : [process.getuid?.(), process.getgid?.()];
    assert.equal(
      asUser(`m.prepareData(${JSON.stringify(data)})`),
      `SLIM_DATA cannot be written: EACCES: permission denied, mkdir '${data}/queue'; run chown ${uid}:${gid} ${data}`,
    );
  });

  it('whose parts cannot be written is answered with a chown of these, never of the accounts', () => {
    for (const name of ['accounts', 'queue', 'spool', 'state']) mkdirSync(join(data, name), { recursive: true });
    chmodSync(join(data, 'queue'), 0o555);
    const [uid, gid] = isRoot ? [4711, 4712] : [process.getuid?.(), process.getgid?.()];
    assert.equal(
      asUser(`m.prepareData(${JSON.stringify(data)})`),
      `SLIM_DATA cannot be written: EACCES: permission denied, open '${data}/queue/.probe'; run chown -R ${uid}:${gid} ${data}/queue ${data}/spool ${data}/state`,
    );
  });

  it('that is a file is said to be one', () => {
    writeFileSync(data, '');
    assert.throws(() => prepareData(data), /^Error: SLIM_DATA cannot be written: (?:ENOTDIR|EEXIST)/);
  });
});

describe('SLIM_DATA prepared by root', { skip: isRoot ? false : 'needs root' }, () => {
  const parts = (): string[] => ['.', 'accounts', 'queue', 'run'].map(name => facts(join(data, name)));
  const wanted = ['0 755', '0 755', '4711 700', '4711 700'];

  it("is root's, and open to all as far as the accounts; only its parts are given away", () => {
    const umask = process.umask(0o077);
    prepareDataAsRoot(join(folder, 'deep', 'data'), owner);
    process.umask(umask);
    data = join(folder, 'deep', 'data');
    assert.deepEqual(parts(), wanted);
    assert.equal(facts(join(folder, 'deep')), '0 755');
  });

  it('is taken back from whoever owned it before, with all that a server without root had made', () => {
    mkdirSync(join(data, 'queue'), { recursive: true, mode: 0o700 });
    for (const path of [data, join(data, 'queue')]) chownSync(path, 1000, 1000);
    prepareDataAsRoot(data, owner);
    assert.deepEqual(parts(), wanted);
  });

  it('never follows a link, nor trusts accounts that another user made', () => {
    mkdirSync(join(data, 'accounts'), { recursive: true });
    mkdirSync(join(folder, 'etc'));
    symlinkSync(join(folder, 'etc'), join(data, 'spool'));
    assert.throws(() => prepareDataAsRoot(data, owner), /spool must be a folder, not a link/);
    assert.match(facts(join(folder, 'etc')), /^0 /);
    chownSync(join(data, 'accounts'), 1000, 1000);
    assert.throws(
      () => prepareDataAsRoot(data, owner),
      /accounts belongs to uid 1000: look into it, then run chown -R 0:0 /,
    );
  });
});

describe(
  'SLIM_DATA where others than root decide what stands on the way',
  { skip: isRoot ? false : 'needs root' },
  () => {
    const refused = (path: string, reason: RegExp): void => {
      const before = facts(join(folder, 'etc'));
      assert.throws(() => prepareDataAsRoot(path, owner), reason);
      assert.equal(facts(join(folder, 'etc')), before);
    };
    beforeEach(() => mkdirSync(join(folder, 'etc')));

    it("is refused below a folder of the network process's user, and a link in its place is not followed", () => {
      mkdirSync(join(folder, 'own', 'data'), { recursive: true });
      chownSync(join(folder, 'own'), owner.uid, owner.gid);
      const reason = /own belongs to uid 4711 \(run chown root:root .*own\)/;
      refused(join(folder, 'own', 'data'), reason);
      rmSync(join(folder, 'own', 'data'), { recursive: true });
      symlinkSync(join(folder, 'etc'), join(folder, 'own', 'data'));
      refused(join(folder, 'own', 'data'), reason);
      refused(join(folder, 'own', 'deep', 'data'), reason);
    });

    it('is refused in a folder that others may write', () => {
      for (const mode of [0o775, 0o757, 0o777]) {
        mkdirSync(join(folder, `open${mode}`));
        chmodSync(join(folder, `open${mode}`), mode);
        refused(join(folder, `open${mode}`, 'data'), /is writable by others than root \(run chmod go-w /);
      }
    });

    it("is taken in a sticky folder, where it is root's already or not there yet, and refused where it is another's", () => {
      mkdirSync(join(folder, 'tmp'));
      chmodSync(join(folder, 'tmp'), 0o1777);
      data = join(folder, 'tmp', 'data');
      prepareDataAsRoot(data, owner);
      prepareDataAsRoot(data, owner);
      assert.match(facts(data), /^0 755$/);
      mkdirSync(join(folder, 'tmp', 'hers'));
      chownSync(join(folder, 'tmp', 'hers'), 1000, 1000);
      refused(join(folder, 'tmp', 'hers'), /tmp is writable by others/);
      symlinkSync(join(folder, 'etc'), join(folder, 'tmp', 'link'));
      lchownSync(join(folder, 'tmp', 'link'), 1000, 1000);
      refused(join(folder, 'tmp', 'link'), /tmp is writable by others/);
    });

    it("may be named by a link of root's, if it is root's alone where that leads", () => {
      mkdirSync(join(folder, 'disk', 'data'), { recursive: true });
      symlinkSync('../disk/data', join(folder, 'etc', 'link'));
      prepareDataAsRoot(join(folder, 'etc', 'link'), owner);
      assert.match(facts(join(folder, 'disk', 'data')), /^0 755$/);
      chownSync(join(folder, 'disk'), owner.uid, owner.gid);
      refused(join(folder, 'etc', 'link'), /disk belongs to uid 4711/);
      symlinkSync(join(folder, 'disk'), join(folder, 'theirs'));
      lchownSync(join(folder, 'theirs'), 1000, 1000);
      refused(join(folder, 'theirs', 'data'), /theirs is a link, and belongs to uid 1000/);
      symlinkSync('circle', join(folder, 'circle'));
      refused(join(folder, 'circle', 'data'), /circle is a link that leads in a circle/);
    });

    it('is nobody else’s matter where the network process is root itself', () => {
      mkdirSync(join(folder, 'own'));
      chownSync(join(folder, 'own'), owner.uid, owner.gid);
      prepareDataAsRoot(join(folder, 'own', 'data'), { uid: 0, gid: 0 });
      assert.match(facts(join(folder, 'own', 'data')), /^0 755$/);
    });

    it('that is a file is said to be one', () => {
      writeFileSync(data, '');
      refused(data, /^Error: SLIM_DATA cannot be prepared: ENOTDIR: not a directory, '.*data'/);
      refused(join(data, 'deep'), /^Error: SLIM_DATA=".*" cannot be used with SLIM_RUN_AS: .*data is not a directory/);
    });
  },
);

describe('a root of mail', () => {
  const root = (path: string, setting = 'SLIM_STORAGES') => ({ setting, path });
  const said = () => lines.map(({ level, text, path }) => [level, text, path]);

  it('that is missing is made and logged; one that is there is not', () => {
    const path = join(folder, 'mail', 'deep');
    assert.deepEqual(new MailRoots([root(path)], false, log).check(), []);
    assert.deepEqual(said(), [['warn', 'made a folder for mail: is the volume mounted?', path]]);
    assert.deepEqual(new MailRoots([root(path)], false, log).check(), []);
    assert.equal(lines.length, 1);
    assert.match(facts(path), / 700$/);
  });

  it('is made at the first start while the parts of SLIM_DATA are empty, whoever has made them', () => {
    mkdirSync(join(data, 'queue'), { recursive: true });
    assert.equal(prepareData(data), true);
    assert.equal(prepareData(data), true, 'as the network process finds it after root');
    writeFileSync(join(data, 'tls', 'key.pem'), '');
    assert.equal(prepareData(data), false);
  });

  it('that is made at the first start is what is wanted', () => {
    const path = join(folder, 'mail');
    new MailRoots([root(path)], true, log).check();
    assert.deepEqual(said(), [['info', 'made a folder for mail', path]]);
  });

  it('that cannot be made is said once, with setting and reason; when it can, it is made, and that is said', () => {
    const [file, path] = [join(folder, 'file'), join(folder, 'file', 'mail')];
    writeFileSync(file, '');
    const roots = new MailRoots([root(path)], false, log);
    for (let times = 0; times < 3; times += 1) {
      const [trouble, ...more] = roots.check();
      assert.deepEqual(more, []);
      assert.deepEqual([trouble?.setting, trouble?.path, trouble?.command], ['SLIM_STORAGES', path, undefined]);
      assert.match(trouble?.error ?? '', /^ENOTDIR: not a directory/);
    }
    assert.equal(lines.length, 1);
    rmSync(file);
    assert.deepEqual(roots.check(), []);
    assert.match(facts(path), / 700$/);
    assert.deepEqual(
      said().map(([level]) => level),
      ['error', 'warn', 'info'],
    );
    assert.equal(lines.at(-1)?.text, 'mail can be written there again');
  });

  it('that has gone is never made again: its volume is away', () => {
    const path = join(folder, 'mail');
    const roots = new MailRoots([root(path)], false, log);
    roots.check();
    rmSync(path, { recursive: true });
    assert.match(roots.check()[0]?.error ?? '', /is gone/);
    assert.match(roots.check()[0]?.error ?? '', /is gone/);
    assert.equal(lstatSync(path, { throwIfNoEntry: false }), undefined);
    mkdirSync(path);
    assert.deepEqual(roots.check(), []);
  });

  it('of a new volume, which is for everyone, becomes ours alone to write', () => {
    const path = join(folder, 'mail');
    mkdirSync(path);
    chmodSync(path, 0o1777);
    new MailRoots([root(path)], true, log).check();
    assert.match(facts(path), / 755$/);
    chmodSync(path, 0o1777);
    mkdirSync(join(path, 'new'));
    new MailRoots([root(path)], true, log).check();
    assert.match(facts(path), / 777$/);
  });

  it(
    "of another owner is answered with a chown of a folder that exists, and of none of the system's",
    { skip: isRoot ? false : 'needs root' },
    () => {
      const [mail, other] = [join(folder, 'mail'), join(folder, 'other')];
      for (const path of [mail, other]) mkdirSync(path, { mode: 0o755 });
      const given = [root(mail, 'SLIM_MAIL_ROOT'), root(join(mail, 'default')), root(join(other, 'deep', 'mail'))];
      const script = `const log = { info() {}, warn() {}, error() {} };
      const roots = new m.MailRoots(${JSON.stringify(given)}, false, log);
      console.log(JSON.stringify(roots.check()));
      const [chown] = process.argv.slice(-1);`;
      const [first, second, third] = JSON.parse(asUser(script, 'mail-roots')) as { path: string; command: string }[];
      assert.equal(first?.command, `chown -R 4711:4712 ${mail}`);
      assert.equal(second?.command, `chown -R 4711:4712 ${mail}`);
      const deep = join(other, 'deep', 'mail');
      assert.equal(third?.command, `mkdir -p ${deep} && chown 4711:4712 ${deep}`);
      for (const { command } of [first, second, third]) execSync(command ?? '');
      assert.deepEqual(JSON.parse(asUser(script, 'mail-roots')), []);
    },
  );

  it('whose tmp/ or new/ is of another owner is in trouble too', { skip: isRoot ? false : 'needs root' }, () => {
    const mail = join(folder, 'mail');
    mkdirSync(join(mail, 'new'), { recursive: true });
    chownSync(mail, owner.uid, owner.gid);
    const script = `console.log(JSON.stringify(new m.MailRoots(${JSON.stringify([root(mail)])}, false, { error() {} }).check()));`;
    const [trouble] = JSON.parse(asUser(script, 'mail-roots')) as { command: string }[];
    assert.equal(trouble?.command, `chown -R 4711:4712 ${mail}/new`);
  });

  it(
    'is made for the network process, and logged, only where nobody but root decides what stands there',
    { skip: isRoot ? false : 'needs root' },
    () => {
      prepareRootAsRoot(root(join(folder, 'mail', 'deep')), owner, false, log);
      assert.equal(facts(join(folder, 'mail')), '4711 700');
      assert.equal(lines[0]?.['path'], join(folder, 'mail'));
      mkdirSync(join(folder, 'home'));
      chownSync(join(folder, 'home'), 1000, 1000);
      mkdirSync(join(folder, 'open'));
      chmodSync(join(folder, 'open'), 0o777);
      for (const name of ['home', 'open']) {
        prepareRootAsRoot(root(join(folder, name, 'mail')), owner, false, log);
        assert.equal(lstatSync(join(folder, name, 'mail'), { throwIfNoEntry: false }), undefined);
      }
      assert.equal(lines.length, 1);
    },
  );

  it("that no mail can come to is made, and its trouble is nobody's", async () => {
    const [mailRoot, path] = [join(folder, 'file', 'mail'), join(folder, 'mail')];
    writeFileSync(join(folder, 'file'), '');
    const troubles = async ({ postgresql, path: to }: { postgresql: boolean; path?: string }): Promise<string[]> => {
      const mailRoots = [root(mailRoot, 'SLIM_MAIL_ROOT'), root(path)];
      const places = to === undefined ? [] : [{ kind: 'default', key: 'default', path: to }];
      const settings = { mailRoot, mailRoots, storages: { places, postgresql } };
      const context = { settings, steward: undefined, log } as unknown as Context;
      return (await openMailRoots(context, false)).check().map(trouble => trouble.path);
    };
    assert.deepEqual(await troubles({ postgresql: false, path }), []);
    assert.deepEqual(lines.map(each => each['path']).toSorted(), [mailRoot, path].toSorted());
    assert.deepEqual(await troubles({ postgresql: false }), [mailRoot]);
    assert.deepEqual(await troubles({ postgresql: true, path }), [mailRoot]);
    assert.deepEqual(await troubles({ postgresql: false, path: mailRoot }), [mailRoot]);
  });

  it('that root cannot make ends nothing', { skip: isRoot ? false : 'needs root' }, () => {
    prepareRootAsRoot(root('/proc/mail', 'SLIM_MAIL_ROOT'), owner, false, log);
    assert.deepEqual(
      lines.map(({ level, setting }) => [level, setting]),
      [['error', 'SLIM_MAIL_ROOT']],
    );
  });
});
