// What a client of the HTTP server may cost. docs/security.md and docs/limits.md have the same numbers.

/** So many connections are open at once. A further one is closed. */
export const maxConnections = 250;
/** Requests that are being answered, those that wait for mail included. A further one is 503. */
export const maxRequests = 200;
/** Lines of a request's header together, in octets. */
export const maxHeaderOctets = 16 * 1024;
/** A header must have come in that time, a whole request in this. */
export const headerMs = 10_000;
export const requestMs = 60_000;
export const checkMs = 2_000;
/** A connection on which nothing moves for so long is closed; no request waits for longer. */
export const idleMs = 6 * 60_000;
/** An idle connection that has been answered is kept for so long. */
export const keepAliveMs = 5_000;
/** The body of a request, unless its route says otherwise; and of all requests together. */
export const maxBodyOctets = 1024 * 1024;
export const maxBodiesOctets = 160 * 1024 * 1024;
/** What the network process does not answer in that time is 503. */
export const askMs = 5_000;

/** So long the HTTP process may take to listen, and to end. */
export const startMs = 30_000;
export const stopMs = 1_000;
/**
 * A child that has ended is replaced after the first of these; the pause is doubled with each death, up to the second;
 * after a child that lived as long as the third it is as at first.
 */
export const firstPauseMs = 500;
export const lastPauseMs = 30_000;
export const longLifeMs = 60_000;
/** A child that takes longer to parse one message is killed. */
export const readingMs = 20_000;
export const childHeapMb = 512;

// Captured mail.

/** Requests may wait so long for mail, and until all that has come is parsed. */
export const maxWaitMs = 5 * 60_000;
export const maxSettleMs = 30_000;
/**
 * So many characters of the text of one message are searched, and so many of all together: beyond that the text of the
 * oldest is not searched.
 */
export const maxSearchedLength = 32 * 1024;
export const maxSearchedLengthInAll = 64 * 1024 * 1024;
/** Of names, addresses, subjects in the index so many characters are kept; of the addresses of a field so many. */
export const maxShownLength = 1_000;
export const maxPeople = 1_000;
/** A message that was looked at stays in memory for so long. */
export const openedMs = 30_000;
/** So many messages a list has at most. */
export const maxListed = 10_000;
/** The length of a search, and its terms. What is behind does not count. */
export const maxQueryLength = 2_000;
export const maxTerms = 50;
/** Listeners of events, and what may wait for one of them. */
export const maxListeners = 100;
export const maxUnsentOctets = 1024 * 1024;
/** Tags of a message, and the length of one. */
export const maxTags = 50;
export const maxTagLength = 100;
