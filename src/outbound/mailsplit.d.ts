// The part of mailsplit that reencode.ts uses; the package brings no types.
declare module 'mailsplit' {
  import type { Transform } from 'node:stream';
  export type MimeNode = {
    readonly type: 'node';
    readonly contentType: string | false;
    readonly encoding: string;
    readonly _boundary: Buffer | false;
    readonly headers: {
      readonly changed: boolean;
      hasHeader(name: string): boolean;
      add(name: string, value: string, index: number): void;
      update(name: string, value: string): void;
      build(lineEnd?: string): Buffer;
    };
    getEncoder(encoding: string): Transform;
  };
  export type Part = MimeNode | { readonly type: 'body' | 'data'; readonly node: MimeNode; readonly value?: Buffer };
  export const Splitter: new (options: { readonly defaultInlineEmbedded: boolean }) => Transform;
}
