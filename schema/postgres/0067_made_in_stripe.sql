-- What people make in Stripe's dashboard: customers, pauses, refunds, credit notes. What banks make: disputes.
alter table findings alter column account_id drop not null;
comment on column findings.account_id is 'the account that it concerns; null: the customer in Stripe belongs to no account';

alter table subscriptions add column paid_until timestamptz;
comment on column subscriptions.paid_until is 'end of the time that is paid, of a subscription whose invoices are not collected; from then on it must be paid; null: they are collected, or PAUSED_COLLECTION=allow';

create table stripe_reversals (
    id text primary key,
    kind text not null check (kind in ('credit_note', 'refund', 'dispute')),
    account_id uuid not null references accounts (id),
    invoice_id text,
    livemode boolean not null,
    number text,
    status text not null,
    currency text not null,
    amount bigint not null,
    reason text,
    is_ours boolean not null,
    created_at timestamptz not null,
    due_at timestamptz,
    fetched_at timestamptz not null
);
create index stripe_reversals_invoice on stripe_reversals (invoice_id);
create index stripe_reversals_account on stripe_reversals (account_id, created_at);

comment on table stripe_reversals is 'Copies of what takes an invoice back after it is final: credit notes, refunds and disputes. Amounts are in the smallest unit of the currency.';
comment on column stripe_reversals.id is 'cn_…, re_…, or dp_…';
comment on column stripe_reversals.kind is 'credit_note, refund or dispute';
comment on column stripe_reversals.account_id is 'the account that paid';
comment on column stripe_reversals.invoice_id is 'in_…; null: the payment was for no invoice';
comment on column stripe_reversals.livemode is 'false: of Stripe''s test mode';
comment on column stripe_reversals.number is 'of a credit note: the number that the customer sees';
comment on column stripe_reversals.status is 'in Stripe''s words, such as issued, succeeded, needs_response or lost';
comment on column stripe_reversals.currency is 'three letters, lower case';
comment on column stripe_reversals.amount is 'what the customer gets back, or claims';
comment on column stripe_reversals.reason is 'in Stripe''s words';
comment on column stripe_reversals.is_ours is 'true: a credit note that this service made for a correction, so no operator needs to look at it';
comment on column stripe_reversals.created_at is 'by Stripe''s clock';
comment on column stripe_reversals.due_at is 'of a dispute: until then it can be answered in Stripe';
comment on column stripe_reversals.fetched_at is 'when it was last read from Stripe, by the worker''s clock';

create table stripe_objects (
    name text not null check (name in ('portal_configuration')),
    livemode boolean not null,
    id text not null,
    stored_at timestamptz not null default now(),
    primary key (name, livemode)
);
comment on table stripe_objects is 'Objects in Stripe that `stripe sync` makes once, so that a request needs no search for them.';
comment on column stripe_objects.name is 'portal_configuration: what customers can do in Stripe''s portal';
comment on column stripe_objects.livemode is 'false: of Stripe''s test mode';
comment on column stripe_objects.id is 'its id in Stripe, such as bpc_…';
comment on column stripe_objects.stored_at is 'when `stripe sync` last found or made it';
