// The runner for the vectors of SRS (postsrsd): `forward ADDRESS` and `reverse ADDRESS` with its secret, its day and
// its short hash, by the code that the server uses.
import { type Plain, isMarked, restore, rewrite } from '../../src/forward/srs.ts';

export type SrsCase = Readonly<{ id: string; query: string; reply: string }>;

const srs = { secret: 'tops3cr3t', hashLength: 4 };
const now = Date.UTC(2020, 0, 1, 0, 1);
const own = 'example.com';

function divide(address: string): Plain | undefined {
  const at = address.lastIndexOf('@');
  return at > 0 ? { local: address.slice(0, at), domain: address.slice(at + 1) } : undefined;
}

/** The address that comes out; undefined: it is left as it is. */
function answer(query: string): string | undefined {
  const [verb, text = ''] = query.split(' ');
  const address = divide(text);
  if (address === undefined) return undefined;
  if (verb === 'forward') return address.domain === own ? undefined : `${rewrite(address, now, srs)}@${own}`;
  const found = isMarked(address.local) ? restore(address.local, now, srs) : undefined;
  return found && `${found.local}@${found.domain}`;
}

export async function* srsRunner(_folder: string, cases: readonly SrsCase[]) {
  for (const { id, query, reply } of cases) {
    const wanted = /^OK (.*)$/.exec(reply)?.[1];
    const found = answer(query);
    yield { id, isRight: found === wanted, found: found ?? 'left as it is' };
  }
}
