create table meter_reports (
    id uuid primary key,
    identifier text not null unique check (length(identifier) between 1 and 100),
    account_id uuid not null,
    usage_type text not null,
    period_start timestamptz not null,
    customer_id text not null,
    from_units bigint not null,
    to_units bigint not null check (to_units <> from_units),
    reported_for timestamptz not null,
    state text not null default 'open' check (state in ('open', 'delivered', 'withdrawn', 'parked')),
    attempts integer not null default 0 check (attempts >= 0),
    first_sent_at timestamptz,
    last_attempt_at timestamptz,
    claimed_until timestamptz,
    next_attempt_at timestamptz not null,
    done_at timestamptz check ((done_at is null) = (state in ('open', 'parked'))),
    error text,
    created_at timestamptz not null,
    foreign key (account_id, period_start, usage_type) references meter_ledger (account_id, period_start, usage_type)
);
-- Stripe takes one call at a time for a customer and a meter; and what a report that is not done tells is in no sum yet.
create unique index meter_reports_one_open on meter_reports (customer_id, usage_type) where state in ('open', 'parked');
create index meter_reports_not_done on meter_reports (account_id) where state in ('open', 'parked');
create index meter_reports_done on meter_reports (done_at) where done_at is not null;

comment on table meter_reports is 'Meter events for Stripe. A row is written before its event is sent for the first time; reports that are done are deleted after some days, their sums are in meter_ledger.';
comment on column meter_reports.id is 'names the row in lists';
comment on column meter_reports.identifier is 'the meter event''s identifier, the same at every try: Stripe counts one of them once in at least 24 hours';
comment on column meter_reports.account_id is 'whose usage';
comment on column meter_reports.usage_type is 'what was used';
comment on column meter_reports.period_start is 'of which billing period';
comment on column meter_reports.customer_id is 'whom Stripe charges (cus_…)';
comment on column meter_reports.from_units is 'meter_ledger.reported_units before it';
comment on column meter_reports.to_units is 'and after it; the event''s value is the difference, negative where corrections took back more than was used';
comment on column meter_reports.reported_for is 'the meter event''s timestamp: inside the billing period';
comment on column meter_reports.state is 'open: to be sent, or sent with an outcome that is not known; delivered: Stripe has it; withdrawn: Stripe does not have it and shall not get it, its units are carried; parked: refused, for an operator to look at';
comment on column meter_reports.attempts is 'how often it was sent or compared with Stripe''s summaries';
comment on column meter_reports.first_sent_at is 'when the first attempt was begun that may have had an effect; null: Stripe has certainly not got it';
comment on column meter_reports.last_attempt_at is 'when the last attempt was begun';
comment on column meter_reports.claimed_until is 'a worker is at it, until then; null: none is';
comment on column meter_reports.next_attempt_at is 'when it may be tried next';
comment on column meter_reports.done_at is 'when it was delivered or withdrawn';
comment on column meter_reports.error is 'why the last attempt failed';
comment on column meter_reports.created_at is 'when it was written';
