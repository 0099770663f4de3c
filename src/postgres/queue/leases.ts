// The jobs that this replica has leased, and what the store knows of each.
import type { LeasedJob } from '../../mail/queue-store.ts';
import type { Lease } from './rows.ts';

/** The name of a job. */
export const nameOf = ({ record, destination }: LeasedJob): string => `${record.id} ${destination}`;

export class Leases {
  readonly #leases = new Map<LeasedJob, Lease>();
  readonly #byName = new Map<string, LeasedJob>();

  get jobs(): readonly LeasedJob[] {
    return [...this.#leases.keys()];
  }

  get(job: LeasedJob): Lease | undefined {
    return this.#leases.get(job);
  }

  /** The leased job that has the message and the destination of this one. */
  same(job: LeasedJob): LeasedJob | undefined {
    return this.#byName.get(nameOf(job));
  }

  /** Whether a job has a seat at that destination. */
  isSeatedAt(destination: string): boolean {
    for (const job of this.#leases.keys()) if (job.destination === destination && job.seat !== undefined) return true;
    return false;
  }

  hold(job: LeasedJob, lease: Lease): void {
    this.#leases.set(job, lease);
    this.#byName.set(nameOf(job), job);
  }

  release(job: LeasedJob): void {
    this.#leases.delete(job);
    if (this.same(job) === job) this.#byName.delete(nameOf(job));
  }

  /** For the end of a life: releases all jobs, and returns them. */
  lose(): readonly LeasedJob[] {
    const lost = this.jobs;
    this.#leases.clear();
    this.#byName.clear();
    return lost;
  }
}
