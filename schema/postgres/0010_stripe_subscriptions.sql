alter table subscriptions
    add column stripe_subscription_id text unique,
    add column cancel_at_period_end boolean not null default false,
    add column trial_ends_at timestamptz,
    add column stripe_schedule_id text,
    add column ended_at timestamptz;

comment on column subscriptions.stripe_subscription_id is 'which subscription of Stripe''s it is (sub_…), and `id` is made from it; null: an operator assigned the plan';
comment on column subscriptions.cancel_at_period_end is 'its owner cancelled it; ends_at says for when';
comment on column subscriptions.trial_ends_at is 'last moment of a trial; null: there was none';
comment on column subscriptions.stripe_schedule_id is 'Stripe''s schedule (sub_sched_…) that brings then_plan_id at ends_at; null: none';
comment on column subscriptions.ended_at is 'when it ended in Stripe; null: it has not';

create table subscription_items (
    stripe_item_id text primary key,
    subscription_id uuid not null references subscriptions (id),
    price_id text not null,
    usage_type text,
    period_start timestamptz not null,
    period_end timestamptz not null check (period_end > period_start)
);
create index subscription_items_subscription on subscription_items (subscription_id);

comment on table subscription_items is 'What a subscription consists of in Stripe: the plan''s price, and a metered price for each usage type that is billed.';
comment on column subscription_items.stripe_item_id is 'si_…';
comment on column subscription_items.subscription_id is 'of which subscription';
comment on column subscription_items.price_id is 'price_…';
comment on column subscription_items.usage_type is 'the usage type that it bills; null: the plan itself';
comment on column subscription_items.period_start is 'first moment of the item''s period: items of one subscription may differ';
comment on column subscription_items.period_end is 'first moment after it';
