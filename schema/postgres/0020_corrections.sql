-- Lowered usage: one row an event that was corrected, and one correcting event in the stream for each. The ledger that says
-- how much of an event is left to correct; written under the account's lock.
create table corrections (
    id uuid primary key,
    correction_id uuid not null,
    account_id uuid not null references accounts (id),
    event_id uuid not null,
    usage_type text not null,
    period_start timestamptz not null,
    cost_units bigint not null check (cost_units > 0),
    delta_units bigint not null check (delta_units < 0),
    units_after bigint not null check (units_after >= 0 and units_after - delta_units <= cost_units),
    leased boolean not null,
    original json not null,
    reason text not null check (reason <> ''),
    requested_by text not null check (requested_by <> ''),
    created_at timestamptz not null default now(),
    run_id uuid references gateway_runs (id),
    handed_at timestamptz,
    published_at timestamptz,
    pool_returned_units bigint check (pool_returned_units between 0 and -delta_units),
    pool_returned_at timestamptz,
    check ((run_id is null) = (handed_at is null)),
    check ((published_at is null) = (pool_returned_at is null)),
    unique (account_id, correction_id, event_id)
);
-- What is left of an event.
create index corrections_event on corrections (account_id, event_id);
create index corrections_trail on corrections (account_id, created_at, id);
create index corrections_waiting on corrections (created_at, id) where published_at is null;

-- A billing worker that publishes corrections is a writer to the stream as a gateway is.
comment on table gateway_runs is 'One start of one writer to the stream, the owner of lanes and leases: a gateway, or a billing worker while it publishes corrections.';
comment on column gateway_runs.id is 'made by the writer; part of its lanes'' subjects';
comment on column gateway_runs.gateway is 'the writer''s name, for people: a gateway''s own, or billing-worker';

comment on table corrections is 'Usage that was lowered afterwards, by event; each row is one event with negative cost_units in the stream.';
comment on column corrections.id is 'event_id of the correcting event, made from account, correction and event: publishing twice would be one event';
comment on column corrections.correction_id is 'given by who asked: the same one again corrects nothing more';
comment on column corrections.account_id is 'whose usage';
comment on column corrections.event_id is 'the event that is corrected; corrects in usage_events';
comment on column corrections.usage_type is 'of the event';
comment on column corrections.period_start is 'of the event: the units come off the period that it was charged to';
comment on column corrections.cost_units is 'units that the event was charged with at first';
comment on column corrections.delta_units is 'cost_units of the correcting event; with all others of one event never below -cost_units';
comment on column corrections.units_after is 'units of the event with all its corrections up to this one';
comment on column corrections.leased is 'the units came out of a pool, so they go back to it; false: of an overage or metered type';
comment on column corrections.original is 'what the correcting event copies of the event: endpoint, method, time and so on. Not jsonb: it refuses some texts';
comment on column corrections.reason is 'why, for people';
comment on column corrections.requested_by is 'who asked';
comment on column corrections.created_at is 'when it was decided';
comment on column corrections.run_id is 'the run of a billing worker whose lane the correcting event was given to; null: none yet, or it is certain that it is not stored there';
comment on column corrections.handed_at is 'when it was given to it';
comment on column corrections.published_at is 'when it was known that the correcting event is in the stream; null: not known yet';
comment on column corrections.pool_returned_units is 'units that went back to the pool; 0: there was none to give back to';
comment on column corrections.pool_returned_at is 'when they did, in one transaction with published_at';
