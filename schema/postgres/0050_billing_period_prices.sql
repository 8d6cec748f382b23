alter table billing_periods add column prices jsonb;

comment on column billing_periods.prices is 'price (price_…) by usage type, as the subscription had them last in it: what late usage costs when another plan has followed; null: not known';

-- What lowers a period's usage.
create index corrections_period on corrections (account_id, period_start);
create index meter_carries_into_period on meter_carries (account_id, to_period) where to_period is not null;
