-- The demo's routing table (docs/routing.md). PostgreSQL runs this once, when its data volume is new.
CREATE TABLE IF NOT EXISTS smtp (id bigserial PRIMARY KEY, mailbox varchar(255), domain varchar(255),
  account_backend varchar(20), UNIQUE (mailbox, domain));
INSERT INTO smtp (mailbox, domain, account_backend) VALUES('anton', 'example.com', 'PAM');
INSERT INTO smtp (mailbox, domain, account_backend) VALUES('anton', '@SOCIAL', 'ALIAS');
INSERT INTO smtp (mailbox, domain, account_backend) VALUES('facebook', 'example.com', '@SOCIAL');
INSERT INTO smtp (mailbox, domain, account_backend) VALUES('twitter', 'example.com', '@SOCIAL');
-- Logins for SLIM_USERS=@POSTGRESQL; `slimsmtp password` makes the verifiers that stand in `password`.
CREATE TABLE IF NOT EXISTS users (username varchar(255) PRIMARY KEY, password text NOT NULL);
