// The judgement of a message of which nothing could be found out.
import type { Judgement } from '../mail/judgement.ts';

export function temperror(why: string): Judgement {
  const reason = why.replace(/[^ -'*-[\]-~]+/g, ' ').slice(0, 200);
  return {
    dkim: [],
    arc: { result: 'temperror', reason },
    dmarc: { result: 'temperror', policy: 'none', reason },
    results: [`spf=temperror (${reason})`, `dkim=temperror (${reason})`, `dmarc=temperror (${reason})`],
  };
}
