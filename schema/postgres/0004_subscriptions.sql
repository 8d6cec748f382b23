create table subscriptions (
    id uuid primary key,
    account_id uuid not null references accounts (id),
    plan_id text not null references plans (id),
    status text not null check (status in ('active', 'trialing', 'past_due', 'unpaid', 'paused', 'canceled', 'incomplete', 'incomplete_expired')),
    period_start timestamptz not null,
    period_end timestamptz not null check (period_end > period_start),
    billing_anchor timestamptz not null,
    ends_at timestamptz,
    then_plan_id text references plans (id),
    grace_until timestamptz,
    is_current boolean not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
-- At most one says what the account may do; the others are history.
create unique index subscriptions_current on subscriptions (account_id) where is_current;

comment on table subscriptions is 'What an account subscribed to. Accounts without a current row are on the Free plan.';
comment on column subscriptions.id is 'stamped on every event that it admits';
comment on column subscriptions.account_id is 'the subscriber';
comment on column subscriptions.plan_id is 'the plan of this period';
comment on column subscriptions.status is 'in Stripe''s words';
comment on column subscriptions.period_start is 'first moment of the period last known';
comment on column subscriptions.period_end is 'first moment after it';
comment on column subscriptions.billing_anchor is 'where the monthly periods are anchored; its day of the month is the billing day';
comment on column subscriptions.ends_at is 'due to end then; null: goes on';
comment on column subscriptions.then_plan_id is 'the plan after ends_at; null: Free';
comment on column subscriptions.grace_until is 'a past-due subscription goes on until then';
comment on column subscriptions.is_current is 'false: replaced by another, kept as history';
comment on column subscriptions.created_at is 'when the row was made';
comment on column subscriptions.updated_at is 'when the row last changed';
