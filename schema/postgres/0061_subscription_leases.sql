-- Locks that were held across calls to Stripe, ClickHouse and NATS become leases: a row with a deadline, in the database's time.
create table subscription_leases (
    account_id uuid primary key references accounts (id),
    holder uuid not null,
    held_until timestamptz not null,
    taken_at timestamptz not null default now()
);

comment on table subscription_leases is 'Who may read and change an account''s subscriptions in Stripe now: one holder at a time. No row, or a deadline in the past: nobody. A transaction that stores the result checks the holder first.';
comment on column subscription_leases.account_id is 'whose subscriptions';
comment on column subscription_leases.holder is 'random, new each time the lease is taken';
comment on column subscription_leases.held_until is 'from then on another may take the lease; the holder renews it while it works';
comment on column subscription_leases.taken_at is 'when this holder took it';

alter table webhook_events
    add column claimed_by uuid,
    add column claimed_until timestamptz,
    add constraint webhook_events_claim check ((claimed_by is null) = (claimed_until is null));
create index webhook_events_claimed on webhook_events (customer_id) where claimed_until is not null;

comment on column webhook_events.claimed_by is 'the claim of the worker that works on the event; null: nobody does';
comment on column webhook_events.claimed_until is 'from then on another worker may claim the event; the worker renews its claim while it works';
comment on column webhook_events.attempts is 'how many times a worker claimed the event and worked on it';

alter table notices add column publish_claimed_until timestamptz;
comment on column notices.publish_claimed_until is 'a worker publishes the notice on NATS; from then on another may; null: none does';

comment on table checkout_sessions is 'Sessions of Stripe''s hosted checkout. The row exists before the session; session_id and url follow. A session that a crash leaves in Stripe without its id here was shown to nobody, and expires.';
