create table notice_endpoints (
    account_id uuid primary key references accounts (id),
    url text not null,
    state text not null default 'active' check (state in ('active', 'disabled')),
    disabled_reason text check ((state = 'disabled') = (disabled_reason is not null)),
    failing_since timestamptz,
    lease_id uuid,
    leased_until timestamptz check ((lease_id is null) = (leased_until is null)),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

comment on table notice_endpoints is 'Where an account wants to be told of its usage. The lease keeps deliveries to one endpoint one after the other, with any number of workers.';
comment on column notice_endpoints.account_id is 'whose; an account has one at the most';
comment on column notice_endpoints.url is 'notices are posted to it; may carry a token of its owner''s, so it is in no log';
comment on column notice_endpoints.state is 'active, or disabled (nothing is sent until its URL is set again)';
comment on column notice_endpoints.disabled_reason is 'why it is disabled, for people; null: it is not';
comment on column notice_endpoints.failing_since is 'when the first of the failures in a row was; null: the last attempt worked, or there was none';
comment on column notice_endpoints.lease_id is 'the delivery under way; what settles another one has lost its lease and changes nothing; null: none';
comment on column notice_endpoints.leased_until is 'from when on another worker may take over, by the database''s clock';
comment on column notice_endpoints.created_at is 'when it was set first';
comment on column notice_endpoints.updated_at is 'when its URL or its state last changed';
