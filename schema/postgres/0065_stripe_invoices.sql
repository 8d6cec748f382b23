-- Stripe's invoices are copied, so that nobody who reads them waits for Stripe. An event, a change and the daily comparison read an
-- invoice in Stripe and write it here, under the account's lease.
create table stripe_invoices (
    id text primary key,
    account_id uuid not null references accounts (id),
    customer_id text not null,
    subscription_id text,
    livemode boolean not null,
    number text,
    status text not null,
    billing_reason text,
    currency text not null,
    subtotal bigint not null,
    discount bigint not null,
    tax bigint not null,
    total bigint not null,
    amount_due bigint not null,
    amount_paid bigint not null,
    amount_remaining bigint not null,
    starting_balance bigint not null,
    ending_balance bigint,
    created_at timestamptz not null,
    finalized_at timestamptz,
    period_start timestamptz not null,
    period_end timestamptz not null,
    hosted_invoice_url text,
    invoice_pdf text,
    fetched_at timestamptz not null
);
create index stripe_invoices_account on stripe_invoices (account_id, created_at desc);
create index stripe_invoices_unsettled on stripe_invoices (account_id) where status in ('draft', 'open');

comment on table stripe_invoices is 'Copies of Stripe''s invoices. Amounts are in the smallest unit of the currency.';
comment on column stripe_invoices.id is 'in_…';
comment on column stripe_invoices.account_id is 'the account that pays it';
comment on column stripe_invoices.customer_id is 'its customer in Stripe (cus_…)';
comment on column stripe_invoices.subscription_id is 'sub_…; null: it belongs to no subscription';
comment on column stripe_invoices.livemode is 'false: of Stripe''s test mode';
comment on column stripe_invoices.number is 'the number that the customer sees; null: a draft';
comment on column stripe_invoices.status is 'in Stripe''s words: draft, open, paid, void or uncollectible';
comment on column stripe_invoices.billing_reason is 'why Stripe created it, in Stripe''s words';
comment on column stripe_invoices.currency is 'three letters, lower case';
comment on column stripe_invoices.subtotal is 'sum of the lines, before discounts and before tax that is added';
comment on column stripe_invoices.discount is 'sum of the discounts';
comment on column stripe_invoices.tax is 'sum of the taxes';
comment on column stripe_invoices.total is 'after discounts and taxes';
comment on column stripe_invoices.amount_due is 'the total, less what the customer''s balance pays';
comment on column stripe_invoices.amount_paid is 'what was paid so far';
comment on column stripe_invoices.amount_remaining is 'what is still to be paid';
comment on column stripe_invoices.starting_balance is 'the customer''s balance before it was finalized; negative: a credit';
comment on column stripe_invoices.ending_balance is 'the customer''s balance after it was finalized; null: a draft';
comment on column stripe_invoices.created_at is 'by Stripe''s clock';
comment on column stripe_invoices.finalized_at is 'when it became payable, by Stripe''s clock; from then on its lines do not change; null: a draft';
comment on column stripe_invoices.period_start is 'start of the time that its plan and usage lines are for; without such lines, of all lines';
comment on column stripe_invoices.period_end is 'end of that time';
comment on column stripe_invoices.hosted_invoice_url is 'Stripe''s page on which it can be paid; null: a draft';
comment on column stripe_invoices.invoice_pdf is 'null: a draft';
comment on column stripe_invoices.fetched_at is 'when it was last read from Stripe, by the worker''s clock';

create table stripe_invoice_lines (
    invoice_id text not null references stripe_invoices (id) on delete cascade,
    position integer not null,
    id text not null,
    kind text not null check (kind in ('plan', 'usage', 'proration', 'late_usage', 'other')),
    description text,
    plan text,
    usage_type text,
    price_id text,
    quantity bigint,
    unit_amount text,
    amount bigint not null,
    discount bigint not null,
    tax bigint not null,
    period_start timestamptz not null,
    period_end timestamptz not null,
    primary key (invoice_id, position)
);

comment on table stripe_invoice_lines is 'Lines of Stripe''s invoices.';
comment on column stripe_invoice_lines.invoice_id is 'the invoice';
comment on column stripe_invoice_lines.position is 'Stripe''s order, from 0';
comment on column stripe_invoice_lines.id is 'il_…';
comment on column stripe_invoice_lines.kind is 'plan: a plan''s price for a period; usage: units of a period; proration: the rest of a period after a change; late_usage: units after the invoice of their period was final; other';
comment on column stripe_invoice_lines.description is 'what the customer reads';
comment on column stripe_invoice_lines.plan is 'the plan of its price; null: none of ours';
comment on column stripe_invoice_lines.usage_type is 'the usage type that it bills; null: none';
comment on column stripe_invoice_lines.price_id is 'price_…; null: it has no price';
comment on column stripe_invoice_lines.quantity is 'units; of a plan 1';
comment on column stripe_invoice_lines.unit_amount is 'price of one unit: a decimal number of the smallest unit of the currency';
comment on column stripe_invoice_lines.amount is 'before the discount and before tax that is added; negative: a credit';
comment on column stripe_invoice_lines.discount is 'of this line';
comment on column stripe_invoice_lines.tax is 'of this line';
comment on column stripe_invoice_lines.period_start is 'start of the time that it is for';
comment on column stripe_invoice_lines.period_end is 'end of that time';

alter table stripe_customers add column invoices_copied_at timestamptz;
alter table stripe_customers add column upgrade_begun_at timestamptz;
comment on column stripe_customers.upgrade_begun_at is 'when an upgrade was sent to Stripe that may wait for its payment: if the payment fails, its invoice is voided; null: none waits';
comment on column stripe_customers.invoices_copied_at is 'when all older invoices were first copied; null: the next comparison with Stripe does it';

-- A subscription must be paid because of an invoice, not because of its status.
alter table subscriptions add column owed_invoice_id text;
-- Until a worker has read the invoices of an unpaid subscription again, it stays refused.
update subscriptions set grace_until = period_start where status = 'unpaid' and grace_until is null;

comment on column subscriptions.grace_until is 'a past-due or unpaid subscription keeps working until then; null: nothing is owed';
comment on column subscriptions.owed_invoice_id is 'the invoice that is owed for longest (in_…); null: nothing is owed';
