-- A customer can see which upgrade waits for a payment, and where to confirm it.
alter table stripe_customers
    add column upgrade_invoice_id text check (upgrade_invoice_id is null or upgrade_begun_at is not null),
    add column upgrade_plan_id text,
    add column upgrade_until timestamptz;

comment on column stripe_customers.upgrade_invoice_id is 'the invoice of an upgrade whose payment the customer must confirm (in_…); null: no upgrade waits';
comment on column stripe_customers.upgrade_plan_id is 'the plan of that upgrade; null: unknown';
comment on column stripe_customers.upgrade_until is 'Stripe discards that upgrade then';
