create table notices (
    id uuid primary key,
    account_id uuid not null references accounts (id),
    kind text not null check (kind in ('usage.threshold_reached', 'usage.test')),
    usage_type text,
    period_start timestamptz,
    threshold_percent integer check (threshold_percent > 0),
    body text not null,
    state text not null check (state in ('pending', 'delivered', 'failed', 'unaddressed')),
    attempts integer not null default 0 check (attempts >= 0),
    next_attempt_at timestamptz not null default now(),
    last_error text,
    delivered_at timestamptz,
    published_at timestamptz,
    created_at timestamptz not null default now(),
    -- Once, for ever, whichever worker saw it first. Tests have nulls here, which are all different.
    constraint notices_once unique (account_id, usage_type, period_start, threshold_percent),
    check ((kind = 'usage.threshold_reached') = (usage_type is not null and period_start is not null and threshold_percent is not null))
);
create index notices_account on notices (account_id, id);
create index notices_pending on notices (next_attempt_at) where state = 'pending';
create index notices_unpublished on notices (id) where published_at is null;

comment on table notices is 'What accounts are told of their usage: the outbox of the billing worker.';
comment on column notices.id is 'UUID version 7; the webhook-id, the same in every attempt and replay';
comment on column notices.account_id is 'who is told';
comment on column notices.kind is 'usage.threshold_reached, or usage.test (asked for by an operator)';
comment on column notices.usage_type is 'of which type; null in a test, like the next two';
comment on column notices.period_start is 'of which period: its first moment';
comment on column notices.threshold_percent is 'the threshold that was reached, in per cent of the limit that was in force';
comment on column notices.body is 'what is sent, to the byte: an attempt signs what it sends, and a receiver may compare';
comment on column notices.state is 'pending: to be sent at next_attempt_at; delivered: the endpoint answered 2xx; failed: given up (last_error says why); unaddressed: the account had no endpoint in use';
comment on column notices.attempts is 'attempts since it was made or replayed';
comment on column notices.next_attempt_at is 'when it is sent next, while pending; by the database''s clock';
comment on column notices.last_error is 'what the last attempt that failed met, for people; never a URL or a secret';
comment on column notices.delivered_at is 'when it was last delivered; null: never';
comment on column notices.published_at is 'when it was published on NATS; null: not yet';
comment on column notices.created_at is 'when the threshold was seen to be reached, or the test asked for';
