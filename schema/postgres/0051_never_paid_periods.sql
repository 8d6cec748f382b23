-- A subscription that was never paid for has no periods: no usage is stamped with them, and they would stay open for ever.
create temporary table never_paid on commit drop as
    select p.account_id, p.period_start from billing_periods p
        join subscriptions s on s.stripe_subscription_id = p.stripe_subscription_id and s.status = 'incomplete_expired'
    where not exists (select from meter_reports r where r.account_id = p.account_id and r.period_start = p.period_start)
        and not exists (select from meter_carries c
            where c.account_id = p.account_id and p.period_start in (c.from_period, c.to_period));
delete from meter_ledger l using never_paid n where l.account_id = n.account_id and l.period_start = n.period_start;
delete from billing_periods p using never_paid n where p.account_id = n.account_id and p.period_start = n.period_start;

create index webhook_events_old on webhook_events (done_at) where state in ('done', 'ignored');

comment on column billing_periods.stripe_subscription_id is 'what for (sub_…): one that was paid for, or is on trial';
