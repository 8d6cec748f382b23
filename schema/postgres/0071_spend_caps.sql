-- The most that an account wants to pay for usage in a period. Gateways take leases for usage that is billed while there is a cap.
create sequence spend_cap_revision;

create table spend_caps (
    account_id uuid primary key references accounts (id),
    cents bigint not null check (cents >= 0),
    revision bigint not null default nextval('spend_cap_revision'),
    set_by text not null,
    set_at timestamptz not null default now(),
    armed_at timestamptz,
    counted_at timestamptz not null default now()
);
create index spend_caps_unarmed on spend_caps (account_id) where armed_at is null;
comment on table spend_caps is 'The most that an account wants to pay for usage in a period. A row is locked by every grant of units that are billed.';
comment on column spend_caps.account_id is 'whose';
comment on column spend_caps.cents is 'in the smallest unit of the currency, before discounts and tax';
comment on column spend_caps.revision is 'grows with every change: a gateway says which one it knows';
comment on column spend_caps.set_by is 'through which interface it was set';
comment on column spend_caps.set_at is 'when this amount was set';
comment on column spend_caps.armed_at is 'from then on no call passes it: every gateway knows it, and all earlier usage is counted; null: not yet';
comment on column spend_caps.counted_at is 'when usage without a lease was last counted';

alter table quota_pool
    add column spend_period timestamptz,
    add column included_units bigint,
    add column unit_price_micros bigint,
    add column unleased_units bigint not null default 0,
    add constraint quota_pool_billed check ((spend_period is null) = (unit_price_micros is null)
        and (spend_period is null) = (included_units is null));
create index quota_pool_billed on quota_pool (account_id, spend_period) where spend_period is not null;
comment on table quota_pool is 'Units of one account, usage type and period: granted to gateways as leases, at most up to the limit. A billed pool (spend_period) has the billed units of one segment, up to the spend cap.';
comment on column quota_pool.usage_type is 'the catalogue''s name, such as api_call; of a billed pool with a prefix: billed:api_call';
comment on column quota_pool.period_start is 'first moment of the period, or of the segment of a billed pool; a new period is a new row, never a reset';
comment on column quota_pool.limit_units is 'the limit in force: the override''s or the plan''s; of a billed pool: what the plan includes, which is not a limit';
comment on column quota_pool.spend_period is 'of a billed pool: start of the period whose spend cap limits it; null: the pool has a limit';
comment on column quota_pool.included_units is 'of a billed pool: the first units of the segment cost nothing, this many';
comment on column quota_pool.unit_price_micros is 'of a billed pool: price of each further unit, in millionths of the currency';
comment on column quota_pool.unleased_units is 'of a billed pool: units without a lease, because they were admitted before there was a cap, or were moved here from an earlier period';
