-- A plan has prices by interval and by currency. They are terms of its version, and so they never change.
alter table plan_versions
    add column prices jsonb not null default '{}',
    add column usage_billing text not null default 'monthly' check (usage_billing in ('monthly', 'year_end'));
alter table plan_version_limits add column unit_prices jsonb not null default '{}';
alter table plan_version_prices add column interval_months integer not null default 1 check (interval_months > 0);

comment on column plan_versions.price_cents is 'price per month, in US cents';
comment on column plan_versions.prices is 'the other prices, in the smallest unit of the currency: by interval (month, year), then by currency';
comment on column plan_versions.usage_billing is 'when usage of a subscription that is paid per year is charged: monthly: after each month; year_end: after the year';
comment on column plan_version_limits.unit_prices is 'price of a billed unit in other currencies, in millionths, by currency';
comment on column plan_version_prices.interval_months is 'of the plan itself: how many months it pays for, 1 or 12';

drop trigger plan_versions_terms on plan_versions;
create trigger plan_versions_terms
    before update of plan_id, version, terms_hash, origin, price_cents, retention_days, burst_per_second, burst_size, prices,
        usage_billing
    on plan_versions for each row execute function refuse_other_terms();

create or replace view plan_version_terms as
    select v.id as version_id, v.plan_id, v.version,
        jsonb_build_object(
            'price_cents', v.price_cents,
            'retention_days', v.retention_days,
            'burst', case when v.burst_size is not null
                then jsonb_build_object('per_second', v.burst_per_second, 'size', v.burst_size) end,
            'usage', coalesce((
                select jsonb_object_agg(l.usage_type, jsonb_build_object(
                    'limit', l.limit_units, 'mode', l.mode, 'unit_price_micros', l.unit_price_micros))
                from plan_version_limits l where l.version_id = v.id), '{}'),
            'prices', v.prices,
            'usage_billing', v.usage_billing,
            'unit_prices', coalesce((
                select jsonb_object_agg(l.usage_type, l.unit_prices)
                from plan_version_limits l where l.version_id = v.id and l.unit_prices <> '{}'), '{}')) as terms
    from plan_versions v;
