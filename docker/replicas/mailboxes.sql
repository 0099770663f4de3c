-- Replicas have no Unix accounts: the demo's anton gets a Maildir on the shared volume.
UPDATE smtp SET account_backend = 'MAILDIR' WHERE account_backend = 'PAM';
