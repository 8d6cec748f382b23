create table checkout_sessions (
    id uuid primary key,
    account_id uuid not null references accounts (id),
    plan_id text not null references plans (id),
    session_id text unique,
    url text,
    expires_at timestamptz not null,
    ended_at timestamptz,
    created_at timestamptz not null default now()
);
-- One open session an account: two that are both paid would be two subscriptions.
create unique index checkout_sessions_open on checkout_sessions (account_id) where ended_at is null;

comment on table checkout_sessions is 'Sessions of Stripe''s hosted checkout that customers were sent to. One that a crash left behind in Stripe is here not, was shown to nobody, and expires.';
comment on column checkout_sessions.id is 'idempotency key of the creation';
comment on column checkout_sessions.account_id is 'who subscribes';
comment on column checkout_sessions.plan_id is 'to what';
comment on column checkout_sessions.session_id is 'cs_…';
comment on column checkout_sessions.url is 'where the customer pays';
comment on column checkout_sessions.expires_at is 'when Stripe closes it by itself';
comment on column checkout_sessions.ended_at is 'when it was completed, expired or replaced; null: open';
comment on column checkout_sessions.created_at is 'when the row was made';
