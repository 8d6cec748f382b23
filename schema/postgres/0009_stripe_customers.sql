create table stripe_customers (
    account_id uuid primary key references accounts (id),
    customer_id text unique,
    livemode boolean not null,
    creation integer not null default 1 check (creation > 0),
    requested_at timestamptz not null default now(),
    deleted_at timestamptz,
    created_at timestamptz not null default now()
);

comment on table stripe_customers is 'The one customer that an account is in Stripe. The row is there before the call that creates it, so that a crash in between makes no second one.';
comment on column stripe_customers.account_id is 'who it is here';
comment on column stripe_customers.customer_id is 'who it is there (cus_…); null: the creation was begun and its outcome is not known yet';
comment on column stripe_customers.livemode is 'real money; a row of the other mode is none of this service''s';
comment on column stripe_customers.creation is 'which creation this is: part of its idempotency key; counts up when Stripe''s customer was deleted';
comment on column stripe_customers.requested_at is 'when the creation was begun: Stripe remembers its idempotency key for 24 hours from then';
comment on column stripe_customers.deleted_at is 'when Stripe told that the customer is deleted; the next subscription makes a new one';
comment on column stripe_customers.created_at is 'when the row was made';
