create table billing_periods (
    account_id uuid not null references accounts (id),
    period_start timestamptz not null,
    period_end timestamptz not null check (period_end > period_start),
    customer_id text not null,
    stripe_subscription_id text not null,
    final_at timestamptz,
    frozen_at timestamptz,
    created_at timestamptz not null default now(),
    primary key (account_id, period_start)
);
create index billing_periods_open on billing_periods (period_end) where frozen_at is null;

comment on table billing_periods is 'Periods whose usage is told to Stripe: those of paid subscriptions. Usage events carry period_start.';
comment on column billing_periods.account_id is 'whose';
comment on column billing_periods.period_start is 'first moment; what usage events are stamped with';
comment on column billing_periods.period_end is 'first moment after it; earlier than planned where the subscription ended before';
comment on column billing_periods.customer_id is 'whom Stripe charges (cus_…)';
comment on column billing_periods.stripe_subscription_id is 'what for (sub_…)';
comment on column billing_periods.final_at is 'when Stripe finalized the period''s invoice: usage that comes later is carried; null: it has not';
comment on column billing_periods.frozen_at is 'when its totals were found equal in ClickHouse, here and in Stripe, and frozen; null: open';
comment on column billing_periods.created_at is 'when the row was made';
