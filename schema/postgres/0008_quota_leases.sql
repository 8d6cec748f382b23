create table quota_leases (
    id uuid primary key,
    run_id uuid not null references gateway_runs (id),
    account_id uuid not null,
    usage_type text not null,
    period_start timestamptz not null,
    units bigint not null check (units > 0),
    returned_units bigint not null default 0 check (returned_units between 0 and units),
    state text not null default 'live' check (state in ('live', 'returned', 'settled')),
    created_at timestamptz not null default now(),
    foreign key (account_id, usage_type, period_start) references quota_pool (account_id, usage_type, period_start)
);
create index quota_leases_live on quota_leases (run_id) where state = 'live';
create index quota_leases_held on quota_leases (account_id) where state = 'live';

comment on table quota_leases is 'Units that a run took from a pool, to spend without asking again.';
comment on column quota_leases.id is 'made by the gateway before it asked, so that asking twice grants once; stamped on every event it pays for';
comment on column quota_leases.run_id is 'who holds it';
comment on column quota_leases.account_id is 'whose units';
comment on column quota_leases.usage_type is 'of which type';
comment on column quota_leases.period_start is 'of which period';
comment on column quota_leases.units is 'units granted';
comment on column quota_leases.returned_units is 'units given back so far; the rest is spent, or still held while the lease is live';
comment on column quota_leases.state is 'live: more may be given back; returned: the run gave back all it did not spend; settled: the run died, and what it had not spent was counted and given back for it';
comment on column quota_leases.created_at is 'when it was granted';
