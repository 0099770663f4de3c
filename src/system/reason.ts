// Why something failed, for the log and for people.

/** The sentence of an error. What is thrown need not be an Error. */
export const reasonOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
