// What npm packs is the module for tests, without the server and its dependencies: while it packs, module/package.json
// stands in the place of the project's own. `node module/manifest.mjs swap` before, `… restore` after (scripts prepack
// and postpack). Plain JavaScript that Node 20 can run.
import { copyFileSync, existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const path = name => fileURLToPath(new URL(name, import.meta.url));
const [own, kept, packed] = [path('../package.json'), path('../package.json.kept'), path('package.json')];

const actions = {
  swap() {
    // Left by a run that was killed: what is kept is the project's own.
    if (existsSync(kept)) actions.restore();
    const { version } = JSON.parse(readFileSync(own, 'utf8'));
    copyFileSync(own, kept);
    writeFileSync(own, `${JSON.stringify({ ...JSON.parse(readFileSync(packed, 'utf8')), version }, null, 2)}\n`);
  },
  restore() {
    renameSync(kept, own);
  },
};
actions[process.argv[2]]();
