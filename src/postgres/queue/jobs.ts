// Statements about many jobs at once: what became of them, and whether they are leased still.
import type { JobPlan, LeasedJob } from '../../mail/queue-store.ts';
import type { Query } from '../pool.ts';
import { nameOf } from './leases.ts';
import { Replica } from './replica.ts';
import { type Lease, columnsOf } from './rows.ts';
import * as sql from './statements.ts';

export type Writing = Readonly<{ job: LeasedJob; lease: Lease; plan: JobPlan }>;

/**
 * Writes jobs whose turn is over, as done or as waiting. Resolves with which were written, and whether other jobs wait.
 */
export async function writeJobs(
  query: Query,
  me: string | undefined,
  items: readonly Writing[],
  isOver: boolean,
  firstRetrySeconds: number,
): Promise<{ readonly written: readonly boolean[]; readonly isWoken: boolean }> {
  const columns = items.map(({ plan }) => columnsOf(plan));
  const jobs = [
    items.map(({ job }) => job.record.id),
    items.map(({ job }) => job.destination),
    items.map(({ lease }) => lease.revision),
    items.map(({ job }) => job.seat ?? null),
  ];
  const plans = (['state', 'wait', 'wake', 'record'] as const).map(name => columns.map(each => each[name]));
  const values = isOver ? jobs : [...jobs, ...plans, firstRetrySeconds];
  type Row = { readonly message: string; readonly destination: string; readonly is_woken: boolean };
  const rows = (await query(isOver ? sql.settle : sql.put, [me, ...values])) as unknown as readonly Row[];
  const names = new Set(rows.map(({ message, destination }) => `${message} ${destination}`));
  return { written: items.map(({ job }) => names.has(nameOf(job))), isWoken: rows.some(row => row.is_woken) };
}

/** Resolves with which of these jobs are still leased, with time enough to send them. */
export async function checkJobs(query: Query, me: string | undefined, jobs: readonly LeasedJob[]) {
  const names = [jobs.map(({ record }) => record.id), jobs.map(({ destination }) => destination)];
  const rows = await query(sql.check, [me, ...names, Replica.marginSeconds]);
  const mine = new Set(rows.map(({ message, destination }) => `${message} ${destination}`));
  return jobs.map(job => mine.has(nameOf(job)));
}
