// Every target. A new one is a file of its own and a line here.
import { addressList } from './address-list.ts';
import { address } from './address.ts';
import { body } from './body.ts';
import { canonical } from './canonical.ts';
import { claims } from './claims.ts';
import { client } from './client.ts';
import { control } from './control.ts';
import { fields } from './fields.ts';
import type { Target } from './fuzzer.ts';
import { header } from './header.ts';
import { auth } from './login.ts';
import { notice } from './notice.ts';
import { proxy } from './proxy.ts';
import { queue } from './queue.ts';
import { reencode } from './reencode.ts';
import { session } from './session.ts';
import { settings } from './settings.ts';
import { steward } from './steward.ts';

export const targets: readonly Target[] = [
  session,
  body,
  address,
  client,
  header,
  notice,
  reencode,
  settings,
  auth,
  steward,
  queue,
  control,
  addressList,
  canonical,
  fields,
  claims,
  proxy,
];
