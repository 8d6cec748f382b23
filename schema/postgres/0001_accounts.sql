create table accounts (
    id uuid primary key,
    name text not null check (name <> ''),
    email text not null check (email like '%_@_%'),
    -- suspended: an operator's decision; every metered call answers 402
    status text not null default 'active' check (status in ('active', 'suspended')),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
-- One account an e-mail address, whatever its capitals: a sign-up sent twice must not make two.
create unique index accounts_email on accounts (lower(email));

comment on table accounts is 'A customer of the API: owns keys, a plan and counters.';
comment on column accounts.id is 'UUID version 7, made by the billing worker';
comment on column accounts.name is 'what people call the customer';
comment on column accounts.email is 'where invoices and notices go';
comment on column accounts.status is 'active, or suspended (every metered call answers 402)';
comment on column accounts.created_at is 'when the account was made';
comment on column accounts.updated_at is 'when a column of this row last changed';
