// The servers that are compared, each as it comes, except limits that would refuse the load and look-ups in the DNS.
// One runs at a time, on loopback.
// Promises: each takes mail for u@bench.test and 1u@… to 1000u@…, one Maildir each below `mail`, and relays other mail
// to the sink, without TLS. A server that forwards or stores later says so (`answersFrom`): for it the clock runs until
// the last message is in its Maildir.
import { chownSync, copyFileSync, cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { nodeFlags } from './flags.ts';
import { dnsAddress, signer } from './judged.ts';
import { type Command, run } from './processes.ts';
import { type Place, npmPeers, owner } from './setup.ts';

export const sinkPort = 2699;
const users = ['u', ...Array.from({ length: 1000 }, (_, i) => `${i + 1}u`)];

/** What a run asks of a server besides. */
export type Wish = {
  readonly sessions?: number;
  readonly settings?: Record<string, string>;
  readonly keepsQueue?: boolean;
};
export type Peer = {
  readonly name: string;
  readonly version: string;
  readonly port: number;
  readonly mail: string;
  /** Folders of mail that waits, emptied before each start: none of another measurement's mail arrives in this one. */
  readonly queue: readonly string[];
  readonly answersFrom: 'queue' | 'Maildir';
  readonly cannot: readonly string[];
  /** Of a workload's messages: a rate stays a rate, and nobody waits for minutes. */
  readonly share: Readonly<Record<string, number>>;
  /** Writes its configuration. */
  command(wish?: Wish): Command;
};

const asOwner = ['setpriv', '--reuid', `${owner}`, '--regid', `${owner}`, '--clear-groups'];

export const peers: Record<string, (place: Place) => Promise<Peer>> = {
  async slimsmtp(place) {
    // As it names the Maildirs of a table's rows.
    const [folder, mail] = ownFolders(place, 'slimsmtp', 'mail/bench.test');
    return {
      name: 'slimsmtp',
      port: 2606,
      mail,
      queue: [join(folder, 'data/queue')],
      answersFrom: 'Maildir',
      cannot: [],
      share: {},
      version: `SlimSMTP ${JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')).version}`,
      command({ settings = {} } = {}) {
        const storages = join(folder, 'storages');
        writeFileSync(storages, users.map(user => `${user}@bench.test=${mail}/${user}\n`).join(''));
        const env = {
          UV_THREADPOOL_SIZE: '16',
          SLIM_DOMAINS: 'bench.test',
          SLIM_HOSTNAME: 'mx.bench.test',
          SLIM_LISTEN: 'smtp://127.0.0.1:2606',
          SLIM_TLS_CERT_FILE: place.certificate,
          SLIM_TLS_KEY_FILE: place.certificate,
          SLIM_DATA: join(folder, 'data'),
          SLIM_MAIL_ROOT: dirname(mail),
          SLIM_STORAGES_FILE: storages,
          SLIM_TRUSTED_NETWORKS: '127.0.0.0/8',
          SLIM_MAX_SESSIONS: '0',
          SLIM_MAX_SESSIONS_PER_CLIENT: '0',
          SLIM_MAX_SIZE: '60M',
          SLIM_RELAY_HOST: '127.0.0.1',
          SLIM_RELAY_PORT: `${sinkPort}`,
          SLIM_RELAY_TLS: 'none',
          SLIM_DKIM: 'off',
          SLIM_VERIFY: 'off',
          ...settings,
        };
        return { argv: [...asOwner, place.node, ...nodeFlags, place.bundle, 'serve'], env };
      },
    };
  },

  postfix: place => postfix(place, { name: 'postfix', port: 2601, cannot: ['W9', 'W10'] }),

  /** Signs what leaves: OpenDKIM as milter, RSA of 2048 bits. */
  'postfix-dkim': place =>
    postfix(place, {
      name: 'postfix-dkim',
      port: 2607,
      cannot: allBut('W9'),
      packages: ['opendkim', 'opendkim-tools'],
      main: { smtpd_milters: 'inet:127.0.0.1:2697', milter_default_action: 'tempfail' },
      prepare(root) {
        const keys = 'test -e r1.private || opendkim-genkey -b 2048 -d bench.test -s r1 -D .; chmod 600 r1.private';
        writeFileSync(
          join(root, 'etc/opendkim.conf'),
          [
            'Mode s',
            'Domain bench.test',
            'Selector r1',
            'KeyFile /etc/dkim/r1.private',
            'Canonicalization relaxed/relaxed',
            'Socket inet:2697@127.0.0.1',
            'InternalHosts 127.0.0.0/8',
            'RequireSafeKeys no',
            '',
          ].join('\n'),
        );
        return `mkdir -p /etc/dkim && cd /etc/dkim && { ${keys}; } && opendkim -x /etc/opendkim.conf`;
      },
    }),

  /**
   * Judges what comes: OpenDKIM and OpenDMARC as milters, policyd-spf as policy service. The keys of senders come from
   * a file: its resolver asks no server on loopback.
   */
  'postfix-judge': place =>
    postfix(place, {
      name: 'postfix-judge',
      port: 2608,
      cannot: allBut('W10'),
      packages: ['opendkim', 'opendmarc', 'postfix-policyd-spf-python'],
      main: {
        mynetworks: '192.0.2.1',
        smtpd_recipient_restrictions: 'reject_unauth_destination, check_policy_service unix:private/policyd-spf',
        'policyd-spf_time_limit': '3600',
        smtpd_milters: 'inet:127.0.0.1:2698, inet:127.0.0.1:2696',
        milter_default_action: 'tempfail',
      },
      master: 'policyd-spf unix - n n - 0 spawn user=nobody argv=/usr/bin/policyd-spf /etc/policyd.conf\n',
      prepare(root) {
        const files = {
          'resolv.conf': `nameserver ${dnsAddress}\n`,
          testkeys: `${signer.selector}._domainkey.${signer.domain} ${signer.record}\n`,
          'opendkim.conf':
            'Mode v\nSocket inet:2698@127.0.0.1\nInternalHosts 192.0.2.1\nTestPublicKeys /etc/testkeys\n',
          'opendmarc.conf':
            'Socket inet:2696@127.0.0.1\nAuthservID mx.bench.test\nTrustedAuthservIDs mx.bench.test\nRejectFailures true\n' +
            'IgnoreHosts /etc/opendmarc.ignore\n',
          'opendmarc.ignore': '192.0.2.1\n',
          'policyd.conf':
            'debugLevel = 0\nHELO_reject = False\nMail_From_reject = Fail\nskip_addresses = 192.0.2.1\n' +
            'Header_Type = AR\nAuthserv_Id = mx.bench.test\n',
        };
        for (const [name, text] of Object.entries(files)) writeFileSync(join(root, 'etc', name), text);
        return 'opendkim -x /etc/opendkim.conf && opendmarc -c /etc/opendmarc.conf';
      },
    }),

  async opensmtpd(place) {
    const root = await place.root('opensmtpd', 'opensmtpd');
    return {
      ...(await debian(root, 'opensmtpd', 'OpenSMTPD', 'smtpd/queue')),
      name: 'opensmtpd',
      port: 2602,
      cannot: ['W8', 'W9', 'W10'],
      share: { W1: 0.1, W2: 0.5, W7: 0.2 },
      command() {
        // It looks its clients up: from a file, not in the DNS.
        writeFileSync(join(root, 'etc/hosts'), '127.0.0.1 localhost mx.bench.test\n');
        writeFileSync(join(root, 'etc/resolv.conf'), 'lookup file\n');
        const table = users.map(user => `${user} ${owner}:${owner}:/srv/mail/${user}\n`);
        writeFileSync(join(root, 'etc/boxes'), table.join(''));
        writeFileSync(
          join(root, 'etc/smtpd.conf'),
          `table boxes file:/etc/boxes
smtp max-message-size 60M
smtp limit max-mails 1000000
listen on 127.0.0.1 port 2602 hostname mx.bench.test
action keep maildir "/srv/mail/%{user.username}" userbase <boxes>
action forward relay host smtp://127.0.0.1:${sinkPort}
match from any for domain bench.test action keep
match from local for any action forward
`,
        );
        return { argv: ['chroot', root, 'smtpd', '-d'] };
      },
    };
  },

  async exim(place) {
    const root = await place.root('exim', 'exim4-daemon-light');
    return {
      ...(await debian(root, 'exim4-daemon-light', 'Exim', 'exim4/input', 'exim4/msglog')),
      name: 'exim',
      port: 2603,
      cannot: ['W8', 'W9', 'W10', 'idle'],
      share: { W1: 0.4, W2: 0.4, W3: 0.3, W7: 0.3 },
      command() {
        writeFileSync(join(root, 'etc/exim4/boxes'), users.map(user => `${user}: ${user}\n`).join(''));
        writeFileSync(
          join(root, 'etc/exim4/exim4.conf'),
          `primary_hostname = mx.bench.test
domainlist ours = bench.test
local_interfaces = 127.0.0.1
daemon_smtp_ports = 2603
smtp_accept_max = 20000
smtp_accept_max_per_connection = 0
smtp_accept_queue_per_connection = 0
message_size_limit = 60M
split_spool_directory = true
host_lookup =
rfc1413_query_timeout = 0s
tls_advertise_hosts =
acl_smtp_rcpt = accept_all
begin acl
accept_all:
  accept hosts = 127.0.0.0/8
begin routers
ours:
  driver = accept
  domains = +ours
  transport = maildir
others:
  driver = manualroute
  route_list = * 127.0.0.1
  self = send
  transport = sink
begin transports
maildir:
  driver = appendfile
  maildir_format
  create_directory
  directory = /srv/mail/\${lookup{$local_part}lsearch{/etc/exim4/boxes}}
  user = vmail
  group = vmail
sink:
  driver = smtp
  port = ${sinkPort}
  allow_localhost
  hosts_override
begin retry
* * F,1d,15m
`,
        );
        const owned = 'chown -R Debian-exim:Debian-exim /run/exim4 /var/log/exim4 /var/spool/exim4';
        const start = `mkdir -p /run/exim4 && ${owned} && exec exim4 -bdf -q1h`;
        return { argv: ['chroot', root, 'sh', '-c', start] };
      },
    };
  },

  async haraka(place) {
    await place.npm();
    const [folder, mail] = ownFolders(place, 'haraka');
    const home = join(place.modules, 'Haraka');
    return {
      name: 'haraka',
      port: 2604,
      mail,
      queue: [join(folder, 'queue')],
      answersFrom: 'Maildir',
      cannot: ['W8', 'W9', 'W10'],
      share: {},
      version: `Haraka ${npmPeers.Haraka}`,
      command() {
        for (const part of ['config', 'plugins', 'queue']) mkdirSync(join(folder, part), { recursive: true });
        cpSync(join(home, 'config'), join(folder, 'config'), { recursive: true });
        copyFileSync(new URL('peers/haraka.cjs', import.meta.url), join(folder, 'plugins', 'bench.js'));
        copyFileSync(new URL('peers/maildir.cjs', import.meta.url), join(folder, 'maildir.cjs'));
        const connection = readFileSync(join(home, 'config', 'connection.ini'), 'utf8');
        const config = {
          plugins: 'bench\n',
          me: 'mx.bench.test\n',
          loglevel: 'LOGNOTICE\n',
          'smtp.ini': 'listen=127.0.0.1:2604\nnodes=0\n',
          'connection.ini': connection.replace(/^bytes\s*=.*$/m, 'bytes=60000000'),
          'outbound.ini': 'enable_tls=false\nconcurrency_max=50\n',
        };
        for (const [name, text] of Object.entries(config)) writeFileSync(join(folder, 'config', name), text);
        chownTree(folder);
        const env = { HOME: folder, MAIL: mail, SINK: `${sinkPort}`, MAILDIR: join(folder, 'maildir.cjs') };
        return { argv: [...asOwner, place.node, join(home, 'bin', 'haraka'), '-c', folder], env };
      },
    };
  },

  async 'smtp-server'(place) {
    await place.npm();
    const [folder, mail] = ownFolders(place, 'smtp-server');
    return {
      name: 'smtp-server',
      port: 2605,
      mail,
      queue: [],
      answersFrom: 'Maildir',
      cannot: ['W7', 'W9', 'W10'],
      share: {},
      version: `smtp-server ${npmPeers['smtp-server']}`,
      command() {
        for (const name of ['maildir.cjs', 'smtp-server.cjs'])
          copyFileSync(new URL(`peers/${name}`, import.meta.url), join(folder, name));
        const env = { PORT: '2605', MAIL: mail, MODULES: place.modules, CERTIFICATE: place.certificate };
        return { argv: [...asOwner, place.node, join(folder, 'smtp-server.cjs')], env };
      },
    };
  },
};

type PostfixOptions = {
  readonly name: string;
  readonly port: number;
  readonly cannot: readonly string[];
  /** Besides Postfix itself. */
  readonly packages?: readonly string[];
  readonly main?: Readonly<Record<string, string>>;
  readonly master?: string;
  /** Writes what these packages need, and gives the command that starts them. */
  readonly prepare?: (root: string) => string;
};

async function postfix(place: Place, options: PostfixOptions): Promise<Peer> {
  const { name, port, cannot, packages = [], main: more = {}, master: services = '', prepare } = options;
  const root = await place.root(name, 'postfix', ...packages);
  return {
    ...(await debian(root, 'postfix', 'Postfix', 'postfix/incoming', 'postfix/active', 'postfix/deferred')),
    name,
    port,
    cannot,
    share: { idle: 0.1 },
    command({ sessions = 50 } = {}) {
      copyFileSync(place.certificate, join(root, 'etc/postfix/bench.pem'));
      writeFileSync(join(root, 'etc/postfix/boxes'), users.map(user => `${user}@bench.test ${user}/\n`).join(''));
      const main = {
        compatibility_level: '3.6',
        myhostname: 'mx.bench.test',
        mydestination: '',
        mynetworks: '127.0.0.0/8',
        inet_interfaces: '127.0.0.1',
        inet_protocols: 'ipv4',
        maillog_file: '/var/log/postfix.log',
        alias_maps: '',
        virtual_mailbox_domains: 'bench.test',
        virtual_mailbox_base: '/srv/mail',
        virtual_mailbox_maps: 'texthash:/etc/postfix/boxes',
        virtual_mailbox_limit: '0',
        virtual_uid_maps: `static:${owner}`,
        virtual_gid_maps: `static:${owner}`,
        message_size_limit: '60000000',
        smtpd_recipient_restrictions: 'permit_mynetworks, reject',
        smtpd_peername_lookup: 'no',
        smtpd_tls_chain_files: '/etc/postfix/bench.pem',
        smtpd_tls_security_level: 'may',
        relayhost: `[127.0.0.1]:${sinkPort}`,
        smtp_dns_support_level: 'disabled',
        smtp_tls_security_level: 'none',
        // Each session is a process; the default is 100.
        default_process_limit: `${sessions + 50}`,
        ...more,
      };
      const lines = Object.entries(main).map(([key, value]) => `${key} = ${value}\n`);
      writeFileSync(join(root, 'etc/postfix/main.cf'), lines.join(''));
      // Debian's own, with our port in place of smtp, and nothing chrooted: it is in a root already.
      const master = readFileSync(join(root, 'usr/share/postfix/master.cf.dist'), 'utf8')
        .replace(/^smtp(\s+inet)/m, `127.0.0.1:${port}$1`)
        .replace(/^(\w\S*\s+(?:inet|unix|fifo|unix-dgram)\s+\S+\s+\S+\s+)y/gm, '$1n');
      writeFileSync(join(root, 'etc/postfix/master.cf'), master + services);
      const before = prepare ? `${prepare(root)} && ` : '';
      return { argv: ['chroot', root, 'sh', '-c', `${before}exec postfix start-fg`] };
    },
  };
}

/** What a peer that is there for some workloads cannot do. */
const allBut = (...names: readonly string[]): string[] =>
  ['W1', 'W2', 'W3', 'W4', 'W5', 'W7', 'W8', 'W9', 'W10', 'idle', 'latency'].filter(name => !names.includes(name));

async function debian(root: string, packageName: string, name: string, ...spools: string[]) {
  const version = await run(['chroot', root, 'dpkg-query', '-W', '-f', '${Version}', packageName]);
  const mail = join(root, 'srv/mail');
  mkdirSync(mail, { recursive: true });
  chownSync(mail, owner, owner);
  const queue = spools.map(spool => join(root, 'var/spool', spool));
  return { version: `${name} ${version}`, mail, queue, answersFrom: 'queue' as const };
}

/** Of one who runs without a root of its own: fresh, and in the owner's hands. */
function ownFolders({ mount }: Place, name: string, maildirs = 'mail'): [folder: string, mail: string] {
  const folder = join(mount, name);
  rmSync(folder, { recursive: true, force: true });
  const mail = join(folder, maildirs);
  mkdirSync(mail, { recursive: true });
  for (let path = mail; path !== mount; path = dirname(path)) chownSync(path, owner, owner);
  return [folder, mail];
}

function chownTree(folder: string): void {
  for (const part of ['', 'config', 'plugins', 'queue']) chownSync(join(folder, part), owner, owner);
}
