-- A subscription may be paid for a year. Limits and included units are for a month in any case: the period of the subscription, and
-- each row of billing_periods, is then a slice, a month of the time that was paid. No invoice of the subscription bills usage of
-- slices. The billing worker charges it.
alter table subscriptions
    add column interval_months integer not null default 1 check (interval_months >= 0),
    add column paid_period_start timestamptz,
    add column paid_period_end timestamptz check (paid_period_end > paid_period_start);
create index subscriptions_slices on subscriptions (period_end) where is_current and interval_months <> 1;
comment on column subscriptions.interval_months is 'how many months an invoice of the plan pays for: 1, or 12; 0: an interval that is no number of months. Others than 1 and 12 are findings';
comment on column subscriptions.period_start is 'first moment of the known period, which limits are for: of the paid period, or of a month of it';
comment on column subscriptions.paid_period_start is 'first moment of the time that the last invoice of the plan pays for; null: period_start';
comment on column subscriptions.paid_period_end is 'first moment after it; null: period_end';

alter table billing_periods
    add column billed_by text not null default 'invoice' check (billed_by in ('invoice', 'charge')),
    add column interval_months integer not null default 1 check (interval_months >= 0),
    add column paid_period_start timestamptz,
    add column paid_period_end timestamptz;
create index billing_periods_to_charge on billing_periods ((coalesce(bills_at, period_end))) where billed_by = 'charge' and final_at is null;
comment on column billing_periods.billed_by is 'invoice: its units are reported to Stripe, and the invoice of the subscription bills them; charge: nothing is reported, and the billing worker charges its units after bills_at';
comment on column billing_periods.interval_months is 'how many months an invoice of the plan pays for, as in subscriptions';
comment on column billing_periods.bills_at is 'end of the period whose invoice bills the segment, or after which it is charged; null: period_end';
comment on column billing_periods.final_at is 'when its invoice became final, or when all of its usage was stored and charges began: units that come later are carried; null: it has not';
comment on column billing_periods.paid_period_start is 'start of the time that the plan was paid for, of which it is a slice; null: quota_start';
comment on column billing_periods.paid_period_end is 'end of the time that the plan was paid for; null: bills_at';

alter table segment_prices alter column price_id drop not null;
comment on column segment_prices.price_id is 'the metered price (price_…); null: its units are charged by these rates, no price in Stripe bills them';

alter table meter_carries
    drop constraint meter_carries_reason_check,
    add constraint meter_carries_reason_check check (reason in ('final', 'too_old', 'yearly'));
comment on column meter_carries.reason is 'final: the invoice of the period is final; too_old: its end is older than the timestamps that Stripe accepts; yearly: no invoice of the subscription bills the slice';
