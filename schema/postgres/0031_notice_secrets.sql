create table notice_secrets (
    id uuid primary key,
    account_id uuid not null references notice_endpoints (account_id) on delete cascade,
    secret bytea not null check (length(secret) between 24 and 64),
    created_at timestamptz not null default now(),
    expires_at timestamptz
);
-- One takes over from the other: two that do not end would leave open which one its owner shall use.
create unique index notice_secrets_current on notice_secrets (account_id) where expires_at is null;
create index notice_secrets_account on notice_secrets (account_id);

comment on table notice_secrets is 'Secrets that notices of an account are signed with: the current one and, for an overlap, those that it replaced.';
comment on column notice_secrets.id is 'UUID version 7';
comment on column notice_secrets.account_id is 'whose';
comment on column notice_secrets.secret is 'the key of the HMAC itself, not a hash: each notice is signed with it. Whoever reads this column can sign in our name; it is shown to its owner once and is in no log';
comment on column notice_secrets.created_at is 'when it was made';
comment on column notice_secrets.expires_at is 'from when on nothing is signed with it; null: it is the current one';
