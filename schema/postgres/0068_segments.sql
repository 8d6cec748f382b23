-- A segment is a part of a billing period with one set of usage prices. Usage events are stamped with the start of their segment,
-- which is the start of the period unless the prices changed within it. Each segment has a row in billing_periods, and a meter slot
-- of its own: segments whose times overlap share no meter. Limits and quota_pool keep the whole period.
alter table subscriptions add column segment_start timestamptz;
comment on column subscriptions.segment_start is 'when the usage prices changed within the running period: usage that is admitted from then on is stamped with it; null: they did not';

alter table billing_periods
    add column quota_start timestamptz,
    add column bills_at timestamptz,
    add column meter_slot smallint not null default 0 check (meter_slot between 0 and 2),
    add column plan_id text,
    add column version_id uuid references plan_versions (id),
    add column reports_from timestamptz,
    add column is_held boolean not null default false;
update billing_periods p set plan_id = s.plan_id, version_id = s.version_id from subscriptions s
    where s.stripe_subscription_id = p.stripe_subscription_id and s.period_start = p.period_start and p.final_at is null;
comment on table billing_periods is 'Segments whose usage is reported to Stripe: the periods of paid subscriptions, or parts of them with one set of usage prices. Usage events carry period_start.';
comment on column billing_periods.period_start is 'first moment of the segment; usage events are stamped with it';
comment on column billing_periods.period_end is 'first moment after it: the end of the period, or the start of the next segment';
comment on column billing_periods.quota_start is 'start of the period that the segment is a part of, which limits are for; null: period_start';
comment on column billing_periods.bills_at is 'end of the period whose invoice bills the segment; null: period_end';
comment on column billing_periods.meter_slot is 'the meters of its usage types: 0 is trendit_…, 1 trendit2_…, 2 trendit3_…';
comment on column billing_periods.reports_from is 'earliest timestamp of its meter events: when its metered prices were added to the subscription; null: period_start';
comment on column billing_periods.is_held is 'true: its metered prices are not in the subscription yet, so its usage waits';
comment on column billing_periods.plan_id is 'the plan whose usage prices it has; null: not known, because no event arrived in time';
comment on column billing_periods.version_id is 'the version of that plan; null: not known, or this service did not make the price';

create table segment_prices (
    account_id uuid not null,
    period_start timestamptz not null,
    usage_type text not null,
    price_id text not null,
    included_units bigint,
    unit_price_micros bigint,
    currency text,
    primary key (account_id, period_start, usage_type),
    foreign key (account_id, period_start) references billing_periods
);
-- billing_periods.prices stays for workers of the previous version.
insert into segment_prices (account_id, period_start, usage_type, price_id)
    select p.account_id, p.period_start, price.key, price.value
    from billing_periods p cross join jsonb_each_text(p.prices) as price where p.prices is not null;
comment on table segment_prices is 'What the usage of a segment costs. A usage type that is not billed has no row.';
comment on column segment_prices.account_id is 'whose';
comment on column segment_prices.period_start is 'the segment';
comment on column segment_prices.usage_type is 'what was used';
comment on column segment_prices.price_id is 'the metered price (price_…)';
comment on column segment_prices.included_units is 'the first units cost nothing, this many; null: not known';
comment on column segment_prices.unit_price_micros is 'price of each further unit, in millionths of the currency; null: not known';
comment on column segment_prices.currency is 'three letters, lower case; null: not known';

alter table stripe_tasks
    drop constraint stripe_tasks_kind_check,
    add constraint stripe_tasks_kind_check check (kind in ('restore_plan', 'complete_upgrade', 'remove_items', 'migrate'));
comment on column stripe_tasks.kind is 'restore_plan: a change undid a planned change first; complete the change, or plan again what was planned. complete_upgrade: add the metered prices of a larger plan once it has begun. remove_items: remove metered items of an earlier plan once their usage is billed. migrate: an account gets another version of its plan';
comment on column stripe_tasks.state is 'armed: the change is in progress, its worker died, or the task waits for something else; due: an attempt failed, it is repeated; attention: it has failed for a day, and is repeated every hour; done: nothing is left to do';

create table upgrade_previews (
    account_id uuid not null references accounts (id),
    price_id text not null,
    proration_date timestamptz not null,
    valid_until timestamptz not null,
    amount_due bigint not null,
    currency text not null,
    primary key (account_id, price_id, proration_date)
);
comment on table upgrade_previews is 'What an upgrade costs, as a customer was shown. A preview that is no longer valid is deleted by the next one of its account.';
comment on column upgrade_previews.account_id is 'whose';
comment on column upgrade_previews.price_id is 'the price of the larger plan (price_…)';
comment on column upgrade_previews.proration_date is 'the price counts from then';
comment on column upgrade_previews.valid_until is 'the upgrade can be made for this price until then';
comment on column upgrade_previews.amount_due is 'due at once, in the smallest unit of the currency';
comment on column upgrade_previews.currency is 'three letters, lower case';
