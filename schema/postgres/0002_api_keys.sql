create table api_keys (
    id uuid primary key,
    account_id uuid not null references accounts (id),
    secret_sha256 bytea not null check (length(secret_sha256) = 32),
    name text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz
);
create index api_keys_account on api_keys (account_id);

comment on table api_keys is 'API keys by their public half; the key itself is nowhere.';
comment on column api_keys.id is 'the id inside the key text';
comment on column api_keys.account_id is 'who the key speaks for';
comment on column api_keys.secret_sha256 is 'SHA-256 of the whole key text';
comment on column api_keys.name is 'what its owner calls it';
comment on column api_keys.created_at is 'when it was made';
comment on column api_keys.expires_at is 'from when on it is refused; null: never. Set by a rotation to let the old key run out';
comment on column api_keys.revoked_at is 'from when on it is refused, for ever; null: not revoked';
