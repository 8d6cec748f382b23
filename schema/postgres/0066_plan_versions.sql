-- Prices in Stripe that are planned for a subscription stay active.
alter table subscriptions add column then_price_ids text[] not null default '{}';

comment on column subscriptions.then_price_ids is 'price_… of the phases of its schedule in Stripe; empty: it has no schedule';
