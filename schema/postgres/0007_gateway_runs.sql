create table gateway_runs (
    id uuid primary key,
    gateway text not null,
    state text not null default 'live' check (state in ('live', 'spooling', 'fencing', 'closed', 'settled')),
    heartbeat bigint not null default 0,
    generation integer not null,
    shards integer not null check (shards > 0),
    started_at timestamptz not null default now(),
    heartbeat_at timestamptz not null default now(),
    ended_at timestamptz
);
create index gateway_runs_unsettled on gateway_runs (state) where state <> 'settled';

comment on table gateway_runs is 'One start of one gateway: the owner of lanes and leases.';
comment on column gateway_runs.id is 'made by the gateway; part of its lanes'' subjects';
comment on column gateway_runs.gateway is 'the gateway''s name, for people';
comment on column gateway_runs.state is 'live; spooling: NATS is away, it acknowledges from its spool; fencing: it is being ended and gets no lease; closed: it stopped cleanly, all it held is given back; settled: nothing of it is open';
comment on column gateway_runs.heartbeat is 'counts up while it lives; a watcher compares what it saw itself, so no clock is involved';
comment on column gateway_runs.generation is 'generation of the stream that its lanes are in';
comment on column gateway_runs.shards is 'how many lanes it has, one a shard';
comment on column gateway_runs.started_at is 'when it registered';
comment on column gateway_runs.heartbeat_at is 'when it last counted up, by the database''s clock; for people';
comment on column gateway_runs.ended_at is 'when it was closed or settled';
