create table quota_pool (
    account_id uuid not null references accounts (id),
    usage_type text not null,
    period_start timestamptz not null,
    period_end timestamptz not null check (period_end > period_start),
    limit_units bigint not null check (limit_units >= 0),
    granted_units bigint not null default 0 check (granted_units >= 0),
    primary key (account_id, usage_type, period_start)
)
-- Rows are updated often and no indexed column changes: room for heap-only updates keeps the index out of it.
with (fillfactor = 50);

comment on table quota_pool is 'Units of one account, usage type and period: granted to gateways as leases, at most up to the limit.';
comment on column quota_pool.account_id is 'whose';
comment on column quota_pool.usage_type is 'the catalogue''s name, such as api_call';
comment on column quota_pool.period_start is 'first moment of the period; a new period is a new row, never a reset';
comment on column quota_pool.period_end is 'first moment after it';
comment on column quota_pool.limit_units is 'the limit in force: the override''s or the plan''s';
comment on column quota_pool.granted_units is 'spent, or held in live leases; above limit_units only after the limit was lowered';
