-- Whether what Stripe's invoices ask for is what the usage and the plans cost: checked once a day, and after each final invoice.
create table money_checks (
    account_id uuid not null,
    period_start timestamptz not null,
    checked_at timestamptz not null,
    is_fresh boolean not null,
    state text not null check (state in ('free', 'ok', 'pending', 'open', 'difference')),
    currency text not null,
    owed bigint not null,
    invoiced bigint not null,
    credited bigint not null,
    pending bigint not null,
    open bigint not null,
    waived bigint not null,
    difference bigint not null,
    differences text[] not null,
    primary key (account_id, period_start),
    foreign key (account_id, period_start) references billing_periods on delete cascade
);
create index money_checks_difference on money_checks (checked_at) where state = 'difference';

comment on table money_checks is 'The last check of the money of each segment. Amounts are in the smallest unit of the currency, before discounts and tax. owed = invoiced - credited + pending + open + waived - difference.';
comment on column money_checks.account_id is 'whose';
comment on column money_checks.period_start is 'the segment';
comment on column money_checks.checked_at is 'when, by the worker''s clock';
comment on column money_checks.is_fresh is 'true: with invoices, credit notes and summaries as Stripe had them then; false: with the copies';
comment on column money_checks.state is 'free: nobody pays for it; ok: each cent is explained; pending: not invoiced yet, and not due; open: late usage or a correction that is on no invoice; difference: differences says what is wrong';
comment on column money_checks.currency is 'three letters, lower case';
comment on column money_checks.owed is 'what the units cost by their prices, corrections included, and what the plan costs';
comment on column money_checks.invoiced is 'lines of final invoices';
comment on column money_checks.credited is 'what credit notes for corrections returned';
comment on column money_checks.pending is 'on no final invoice, and not due yet';
comment on column money_checks.open is 'late usage and corrections that are on no invoice; negative: a credit';
comment on column money_checks.waived is 'void invoices; negative: credits for which an invoice had nothing left';
comment on column money_checks.difference is 'invoiced too much; negative: too little';
comment on column money_checks.differences is 'one sentence for each difference';

create table money_sweeps (
    livemode boolean primary key,
    claimed_until timestamptz,
    after_account uuid,
    started_at timestamptz,
    completed_at timestamptz
);
comment on table money_sweeps is 'The daily check of all accounts: one worker does a page at a time, and another one continues where it stops.';
comment on column money_sweeps.livemode is 'false: of Stripe''s test mode';
comment on column money_sweeps.claimed_until is 'a worker checks a page, until then; null: none does';
comment on column money_sweeps.after_account is 'the last account of the pages that are done; null: none is';
comment on column money_sweeps.started_at is 'when the running check began, by the worker''s clock; null: none runs';
comment on column money_sweeps.completed_at is 'when the last check of all accounts ended, by the worker''s clock';

create index billing_periods_final on billing_periods (final_at) where final_at is not null;

alter table stripe_reversals add column subtotal bigint;
comment on column stripe_reversals.subtotal is 'of a credit note: what it credits of the lines, before discounts and tax; null: not known';

alter table meter_carries add column units_before bigint;
comment on column meter_carries.units_before is 'of a charge or a credit: units of its line that were billed, charged or credited before it; its price begins there; null: not priced yet, or an earlier version did it';
