-- Who changed what. A row is written in the transaction of the change, so there is one if and only if it happened. It
-- refers to nothing: a key must be revoked at once, also while somebody holds the lock of its account.
create table audit_log (
    id uuid primary key,
    at timestamptz not null default now(),
    actor text not null check (actor <> ''),
    actor_name text check (actor_name <> ''),
    action text not null check (action <> ''),
    account_id uuid,
    subject text not null,
    details json not null
);
create index audit_log_account on audit_log (account_id, id);

comment on table audit_log is 'Administrative changes, for ever; never updated.';
comment on column audit_log.id is 'UUID version 7: sorted by time';
comment on column audit_log.at is 'when the transaction of the change began';
comment on column audit_log.actor is 'the way it came: admin api, command, service, customer (with an API key), stripe';
comment on column audit_log.actor_name is 'who, as far as they said it; null: not said';
comment on column audit_log.action is 'what was done, such as account.suspend';
comment on column audit_log.account_id is 'the account that was changed; null: all of them (the catalogue)';
comment on column audit_log.subject is 'what was changed: an id, a usage type, a plan';
comment on column audit_log.details is 'what it was changed to; no secret';
