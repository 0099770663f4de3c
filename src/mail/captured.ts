// A message that was captured (SLIM_CAPTURE): what is known of it besides its content, and what people have made of it.
// Plain data: it lies in a file beside the message, and goes to the HTTP process.

export type Captured = Readonly<{
  /** The one in our 250 and in Received; also the name of its file. Letters and digits; it begins with its time. */
  id: string;
  /** Reverse-path, without brackets; '' is the null one. */
  from: string;
  /** The addresses as they stood in RCPT, without brackets. */
  recipients: readonly string[];
  helo: string;
  client: string;
  /** TLS version and cipher. */
  tls?: string | undefined;
  /** The name of the login, and the address that it may send from. */
  login?: string | undefined;
  loginAddress?: string | undefined;
  /** Whether its addresses or header may be UTF-8 (SMTPUTF8). */
  isUtf8: boolean;
  receivedAt: number;
  /** The size of the message with our trace lines, as it lies in the Maildir. */
  sizeBytes: number;
}>;

export type Marks = Readonly<{ isRead: boolean; tags: readonly string[] }>;
/** A captured message that is still there. */
export type Kept = { readonly mail: Captured } & Marks;

/** What has changed, for whoever shows captured mail. */
export type Change =
  | { readonly kind: 'arrived'; readonly kept: Kept }
  /** `why`: somebody wanted it, or newer mail needed the place. */
  | { readonly kind: 'removed'; readonly ids: readonly string[]; readonly why: 'deleted' | 'pruned' }
  | ({ readonly kind: 'marked'; readonly ids: readonly string[] } & Partial<Marks>);
