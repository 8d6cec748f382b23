create table meter_carries (
    id uuid primary key,
    account_id uuid not null,
    usage_type text not null,
    from_period timestamptz not null,
    units bigint not null check (units <> 0),
    reason text not null check (reason in ('final', 'too_old')),
    policy text not null check (policy in ('next_period', 'credit_or_charge')),
    to_period timestamptz check (to_period > from_period),
    customer_id text not null,
    amount bigint,
    currency text,
    attempts integer not null default 0 check (attempts >= 0),
    first_sent_at timestamptz,
    invoice_item_id text,
    claimed_until timestamptz,
    next_attempt_at timestamptz not null,
    settled_at timestamptz,
    error text,
    created_at timestamptz not null,
    foreign key (account_id, from_period, usage_type) references meter_ledger (account_id, period_start, usage_type),
    foreign key (account_id, to_period, usage_type) references meter_ledger (account_id, period_start, usage_type)
);
create index meter_carries_waiting on meter_carries (account_id) where settled_at is null;
create index meter_carries_of_period on meter_carries (account_id, from_period);

comment on table meter_carries is 'Usage and corrections that came too late for their own period''s invoice, and where their units went.';
comment on column meter_carries.id is 'names the carry, in the invoice item''s metadata too';
comment on column meter_carries.account_id is 'whose';
comment on column meter_carries.usage_type is 'what was used';
comment on column meter_carries.from_period is 'the period that the usage events are stamped with';
comment on column meter_carries.units is 'how many; negative: a credit';
comment on column meter_carries.reason is 'final: the period''s invoice was finalized; too_old: its end is further back than Stripe takes timestamps';
comment on column meter_carries.policy is 'next_period: told in the account''s next billing period; credit_or_charge: an invoice item';
comment on column meter_carries.to_period is 'the period in which they are told; null: none yet, or an invoice item';
comment on column meter_carries.customer_id is 'whom Stripe charges (cus_…)';
comment on column meter_carries.amount is 'of the invoice item, in the currency''s smallest unit, by the tiers of the metered price; null: not calculated yet';
comment on column meter_carries.currency is 'of the amount, in Stripe''s words';
comment on column meter_carries.attempts is 'how often the invoice item was tried: part of its idempotency key';
comment on column meter_carries.first_sent_at is 'when the first attempt was begun whose outcome is not known; null: there is no such item';
comment on column meter_carries.invoice_item_id is 'the invoice item (ii_…)';
comment on column meter_carries.claimed_until is 'a worker is at it, until then; null: none is';
comment on column meter_carries.next_attempt_at is 'when the invoice item may be tried next';
comment on column meter_carries.settled_at is 'when the units had arrived where they belong; null: they wait';
comment on column meter_carries.error is 'why the last attempt failed, or why there was nothing to bill';
comment on column meter_carries.created_at is 'when it was written';
