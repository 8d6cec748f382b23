-- The units of a yearly plan are on invoices that this service makes. In Stripe those belong to no subscription, but it is the subscription
-- that stops working while they are not paid.
alter table stripe_invoices add column charges_subscription_id text;
comment on column stripe_invoices.charges_subscription_id is 'the subscription (sub_…) whose usage this invoice bills, if this service made it; null: another invoice';
