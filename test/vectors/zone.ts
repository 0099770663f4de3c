// The DNS of a test case: names to their records, with the answers and errors of node:dns.
import type { Records } from '../../src/system/dns.ts';

/** A name in lower case to the records of each type, or to what is said instead of an answer. */
export type Zone = Readonly<
  Record<string, Readonly<Record<string, readonly unknown[]>> | 'SILENT' | 'TIMEOUT' | 'SERVFAIL'>
>;

const error = (code: string): Error => Object.assign(new Error(code), { code });

export function recordsOf(zone: () => Zone): Records {
  return {
    async records(name, type) {
      let at = name.toLowerCase().replace(/\.$/, '');
      const all = zone();
      if (all['.'] === 'SILENT') return new Promise(() => {}); // nobody answers at all
      for (let aliases = 0; aliases < 8; aliases += 1) {
        if (at.split('.').some(label => label.length > 63)) throw error('EBADNAME');
        const found = all[at];
        if (found === undefined) throw error('ENOTFOUND');
        if (found === 'SILENT') return new Promise(() => {});
        if (typeof found === 'string') throw error(found === 'TIMEOUT' ? 'ETIMEOUT' : 'ESERVFAIL');
        const records = found[type];
        if (records?.[0] === 'TIMEOUT') throw error('ETIMEOUT');
        if (records !== undefined && records.length > 0) return records;
        const [alias] = found['CNAME'] ?? [];
        if (alias === undefined) throw error('ENODATA');
        at = String(alias).toLowerCase().replace(/\.$/, '');
      }
      throw error('ESERVFAIL');
    },
  };
}
