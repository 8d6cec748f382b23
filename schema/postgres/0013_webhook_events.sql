create table webhook_events (
    id text primary key,
    type text not null,
    created_at timestamptz not null,
    livemode boolean not null,
    api_version text,
    object_id text,
    customer_id text,
    subscription_id text,
    payload bytea not null,
    received_at timestamptz not null default now(),
    state text not null default 'received' check (state in ('received', 'done', 'ignored', 'unreadable', 'parked')),
    attempts integer not null default 0 check (attempts >= 0),
    next_attempt_at timestamptz not null default now(),
    done_at timestamptz,
    error text
);
create index webhook_events_due on webhook_events (next_attempt_at) where state = 'received';
create index webhook_events_attention on webhook_events (received_at) where state in ('unreadable', 'parked');

comment on table webhook_events is 'What Stripe told us, once an event, whether it came by webhook or was found by the hourly catch-up. Of the payload only ids are used: the objects are fetched afresh.';
comment on column webhook_events.id is 'evt_…; of a signed body that could not be read: sha256: and its hash';
comment on column webhook_events.type is 'such as customer.subscription.updated; empty where it could not be read';
comment on column webhook_events.created_at is 'when it happened, by Stripe''s clock';
comment on column webhook_events.livemode is 'real money';
comment on column webhook_events.api_version is 'version that the payload was rendered in; null: a thin event';
comment on column webhook_events.object_id is 'the object that it is about';
comment on column webhook_events.customer_id is 'the customer that it is about, as far as the payload names one';
comment on column webhook_events.subscription_id is 'the subscription that it is about, as far as the payload names one';
comment on column webhook_events.payload is 'the body as it was signed';
comment on column webhook_events.received_at is 'when it was first stored here';
comment on column webhook_events.state is 'received: to be worked on; done; ignored: nothing here depends on its type; unreadable: signed, and not understood; parked: given up after many attempts, for an operator to look at';
comment on column webhook_events.attempts is 'how often it was worked on';
comment on column webhook_events.next_attempt_at is 'when it may be worked on next';
comment on column webhook_events.done_at is 'when it left the state received';
comment on column webhook_events.error is 'why the last attempt failed';

create table stripe_cursors (
    name text primary key,
    at timestamptz not null
);
comment on table stripe_cursors is 'How far this service has looked through Stripe by itself.';
comment on column stripe_cursors.name is 'catch_up: undelivered events; comparison: the daily comparison of subscriptions';
comment on column stripe_cursors.at is 'everything before was seen';
