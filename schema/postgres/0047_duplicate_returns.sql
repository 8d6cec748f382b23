-- Units of events that were dropped as duplicates of one Idempotency-Key: one row for each whose units went back to the pool
-- that its lease had taken them from. Written by the billing worker in the transaction that gives them back, so they go back
-- once, whoever dies in between.
create table duplicate_returns (
    generation bigint not null,
    shard integer not null,
    stream_seq bigint not null,
    idx bigint not null,
    event_id uuid not null,
    account_id uuid not null,
    usage_type text not null,
    period_start timestamptz not null,
    lease_id uuid not null,
    cost_units bigint not null check (cost_units > 0),
    returned_units bigint not null check (returned_units between 0 and cost_units),
    returned_at timestamptz not null default now(),
    primary key (generation, shard, stream_seq, idx)
);
-- Rows are removed when nobody can ask for them any more.
create index duplicate_returns_age on duplicate_returns (returned_at);

comment on table duplicate_returns is 'Dropped duplicates whose units went back to their pool, one row each.';
comment on column duplicate_returns.generation is 'generation of the stream that stream_seq counts in; with the next three it names the event, as in usage_duplicates';
comment on column duplicate_returns.shard is 'shard of the stream';
comment on column duplicate_returns.stream_seq is 'sequence in the stream of the message that carried the event';
comment on column duplicate_returns.idx is 'index of the event in its batch';
comment on column duplicate_returns.event_id is 'id that it has in common with the event that was kept';
comment on column duplicate_returns.account_id is 'who is not charged';
comment on column duplicate_returns.usage_type is 'of the event';
comment on column duplicate_returns.period_start is 'of the event: the pool of that period';
comment on column duplicate_returns.lease_id is 'lease that the units came from; it has spent them for good';
comment on column duplicate_returns.cost_units is 'units of the event';
comment on column duplicate_returns.returned_units is 'units that went back; less than cost_units only if the pool had less granted';
comment on column duplicate_returns.returned_at is 'when';
