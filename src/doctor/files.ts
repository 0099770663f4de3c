// What `slimsmtp doctor` sees on the disk: whose the folders of SLIM_DATA and of mail are, who may read keys, and
// whether there is room. It changes nothing.
import fs from 'node:fs';
import { join } from 'node:path';
import type { Finding } from '../mail/admin.ts';
import { type Owner, parts, folderReason } from '../system/folders.ts';
import type { MailRoot } from '../system/mail-roots.ts';

/** Private keys and secrets lie in these. */
const secretParts = ['state', 'tls', 'dkim', 'acme'];
const leastBytes = 500 * 1024 * 1024;
const leastShare = 0.05;

/** `owner`: of the network process. */
export function checkFiles(dataFolder: string, roots: readonly MailRoot[], owner: Owner): readonly Finding[] {
  return [
    ...attempt('SLIM_DATA', () => checkData(dataFolder, owner)),
    ...roots.flatMap(root => attempt(root.setting, () => checkRoot(root, owner))),
    ...[...new Set([dataFolder, ...roots.map(({ path }) => path)])].flatMap(path =>
      attempt('space', () => checkSpace(path)),
    ),
  ];
}

function checkData(dataFolder: string, { uid, gid }: Owner): readonly Finding[] {
  const about = 'SLIM_DATA';
  const missing = parts.filter(part => !fs.existsSync(join(dataFolder, part)));
  if (missing.length === parts.length)
    return [{ about, status: 'mend', text: `${dataFolder} is new: no server has run with it`, mend: 'slimsmtp serve' }];
  const there = parts.filter(part => !missing.includes(part)).map(part => join(dataFolder, part));
  const foreign = there.filter(path => fs.statSync(path).uid !== uid);
  const open = secretParts.map(part => join(dataFolder, part)).filter(path => isOpen(path));
  return [
    ...foreign.map((path): Finding => ({
      about,
      status: 'mend',
      text: `${path} belongs to uid ${fs.statSync(path).uid}, and the server runs as ${uid}`,
      mend: `chown -R ${uid}:${gid} ${path}`,
    })),
    ...open.map((path): Finding => ({
      about,
      status: 'mend',
      text: `${path} holds secrets, and others may read it; its owner, uid ${uid}, can change that`,
      mend: `chmod -R go= ${path}`,
    })),
    ...(foreign.length + open.length === 0
      ? [{ about, status: 'ok', text: `${dataFolder} belongs to the server` } as const]
      : []),
  ];
}

/** Whether others may enter the folder, or read a file right below it. */
function isOpen(path: string): boolean {
  const found = fs.statSync(path, { throwIfNoEntry: false });
  return found !== undefined && (found.mode & 0o077) !== 0;
}

function checkRoot({ setting: about, path }: MailRoot, { uid, gid }: Owner): readonly Finding[] {
  const found = fs.statSync(path, { throwIfNoEntry: false });
  if (found === undefined) {
    const mend = `mkdir -p ${path} && chown ${uid}:${gid} ${path}`;
    return [{ about, status: 'mend', text: `${path} is not there: is its volume mounted?`, mend }];
  }
  const isWritable = found.uid === uid ? (found.mode & 0o300) === 0o300 : (found.mode & 0o003) === 0o003;
  if (isWritable || uid === 0) return [{ about, status: 'ok', text: `${path} can be written` }];
  const text = `${path} belongs to uid ${found.uid}, mode ${(found.mode & 0o777).toString(8)}: ${uid} cannot write it`;
  return [{ about, status: 'mend', text, mend: `chown -R ${uid}:${gid} ${path} && chmod 700 ${path}` }];
}

function checkSpace(path: string): readonly Finding[] {
  if (!fs.existsSync(path)) return [];
  const { bavail, blocks, bsize, ffree, files } = fs.statfsSync(path);
  const free = bavail * bsize;
  const about = 'space';
  if (free < leastBytes || bavail < blocks * leastShare) {
    const text = `${path} has ${Math.floor(free / 1024 / 1024)} MiB left: soon mail is refused with 452`;
    return [{ about, status: 'mend', text, mend: `du -xh ${path} | sort -h | tail` }];
  }
  if (files > 0 && ffree < files * leastShare)
    return [
      {
        about,
        status: 'mend',
        text: `${path} has ${ffree} inodes left`,
        mend: `du -x --inodes ${path} | sort -n | tail`,
      },
    ];
  return [{ about, status: 'ok', text: `${path} has ${Math.floor(free / 1024 ** 3)} GiB left` }];
}

/** A look that fails is a finding, too. */
function attempt(about: string, look: () => readonly Finding[]): readonly Finding[] {
  try {
    return look();
  } catch (error) {
    return [{ about, status: 'unknown', text: folderReason(error) }];
  }
}
