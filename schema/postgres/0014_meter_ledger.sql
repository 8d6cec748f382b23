create table meter_ledger (
    account_id uuid not null,
    usage_type text not null,
    period_start timestamptz not null,
    reported_units bigint not null default 0,
    carried_in bigint not null default 0,
    carried_out bigint not null default 0,
    corrected_units bigint not null default 0 check (corrected_units <= 0),
    reports integer not null default 0 check (reports >= 0),
    drift_units bigint not null default 0,
    drift_since timestamptz check ((drift_since is null) = (drift_units = 0)),
    frozen_units bigint,
    primary key (account_id, period_start, usage_type),
    foreign key (account_id, period_start) references billing_periods (account_id, period_start)
)
-- A row is updated with each of its reports, and no indexed column changes.
with (fillfactor = 80);
create index meter_ledger_drift on meter_ledger (account_id) where drift_units <> 0;

comment on table meter_ledger is 'What was told to Stripe, per account, usage type and billing period: reported_units = sum(cost_units) in ClickHouse + carried_in - carried_out, once every report is delivered.';
comment on column meter_ledger.account_id is 'whose';
comment on column meter_ledger.usage_type is 'what was used; its meter''s event name is trendit_<usage_type>';
comment on column meter_ledger.period_start is 'of which billing period';
comment on column meter_ledger.reported_units is 'sum of the delivered reports: what Stripe has for this meter and period';
comment on column meter_ledger.carried_in is 'units of earlier periods that are told in this one; negative: credits';
comment on column meter_ledger.carried_out is 'units of this period that are told in a later one or were billed as an invoice item; negative: credits';
comment on column meter_ledger.corrected_units is 'how much of the corrections and carried credits has been taken back by delivered reports and carries; what goes further down than the rest explains is drift';
comment on column meter_ledger.reports is 'how many reports were written: part of the identifier, so that none is ever used for two reports';
comment on column meter_ledger.drift_units is 'how far ClickHouse lies below what was told and no correction explains it; negative or 0';
comment on column meter_ledger.drift_since is 'when drift_units was first found; null: no drift';
comment on column meter_ledger.frozen_units is 'sum(cost_units) when the period was frozen: never summed again; null: open';
