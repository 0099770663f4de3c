// Makes a fresh clone runnable: `node .node24/ensure.mjs start|test` installs what is missing or stale in node_modules
// and sees to it that the scripts run under Node 24; `… pam` (npm's postinstall) compiles authenticate-pam for that
// Node.
// Promises: nothing to do costs a few milliseconds; every failure is one clear line. Plain JavaScript that Node 18 can
// run, no dependencies. Never: writes package-lock.json, removes what a running server has loaded, or fails an
// installation for want of PAM.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const modules = join(root, 'node_modules');
const broughtNode = join(modules, '.bin', 'node');
const isNode24 = process.version.startsWith('v24.');

/** Installs for `start` (what the server needs) or `test` (everything); returns the Node 24 to run with. */
export function ensure(purpose) {
  const isFresh = !existsSync(join(modules, '.package-lock.json'));
  if (isFresh || isStale(purpose) || !node24()) install(isFresh, purpose);
  const node = node24();
  if (node) return node;
  console.error(
    `Node 24 is needed. This is ${process.version}, and npm has no Node 24 for ${process.platform} ${process.arch}: install it from https://nodejs.org/`,
  );
  process.exit(1);
}

function node24() {
  return existsSync(broughtNode) ? broughtNode : isNode24 ? process.execPath : undefined;
}

/**
 * By content, not by date: after `npm ci --omit=dev` the dates look right and the dev dependencies are missing all the
 * same.
 */
function isStale(purpose) {
  const packages = path => JSON.parse(readFileSync(path, 'utf8')).packages;
  const installed = packages(join(modules, '.package-lock.json'));
  return Object.entries(packages(join(root, 'package-lock.json'))).some(
    ([path, { version, dev, optional, devOptional }]) =>
      path.startsWith('node_modules/') &&
      !(optional || devOptional || (dev && purpose === 'start')) &&
      installed[path]?.version !== version,
  );
}

/**
 * npm must run under the host's own Node, not under the one that it brings: engines decide whether Node 24 is installed
 * at all. `npm install` where something is there already, because `npm ci` would first remove it, also from under a
 * server that runs from this folder.
 */
function install(isFresh, purpose) {
  const command = isFresh ? (purpose === 'start' ? ['ci', '--omit=dev'] : ['ci']) : ['install', '--no-save'];
  console.log(`Installing dependencies: npm ${command.join(' ')}`);
  const path = (process.env.PATH ?? '')
    .split(delimiter)
    .filter(folder => !folder.endsWith(join('node_modules', '.bin')));
  const { status, error } = spawnSync('npm', [...command, '--no-audit', '--no-fund', '--loglevel=error'], {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
    env: { ...process.env, PATH: path.join(delimiter) },
  });
  if (status === 0) return;
  console.error(`npm ${command.join(' ')} failed${error ? `: ${error.message}` : ''}; see above. Nothing was started.`);
  process.exit(1);
}

/**
 * Compiles authenticate-pam against the headers of this very Node: npm's own `nodedir` may name those of another
 * version.
 */
function buildPam() {
  const folder = join(modules, 'authenticate-pam');
  const without = reason => console.log(`Unix passwords (PAM) stay off on this machine: ${reason}`);
  const nodeGyp = process.env.npm_config_node_gyp;
  if (!existsSync(folder) || !nodeGyp) return;
  if (!existsSync('/usr/include/security/pam_appl.h'))
    return without('libpam headers are missing (Debian: libpam0g-dev).');
  const prefix = dirname(dirname(realpathSync(process.execPath)));
  const hasHeaders = existsSync(join(prefix, 'include', 'node', 'node_api.h'));
  const { status, stderr } = spawnSync(process.execPath, [nodeGyp, 'rebuild', '--silent'], {
    cwd: folder,
    encoding: 'utf8',
    env: { ...process.env, ...(hasHeaders && { npm_config_nodedir: prefix }) },
  });
  if (status !== 0)
    without(
      `authenticate-pam did not compile (Debian: build-essential, python3). ${stderr.split('\n').find(line => /error/i.test(line)) ?? ''}`,
    );
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const purpose = process.argv[2];
  if (purpose === 'pam') buildPam();
  else ensure(purpose);
}
