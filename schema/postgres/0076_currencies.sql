-- A plan can be sold in several currencies. A subscription, and so its usage and its invoices, is in one of them.
alter table subscriptions add column currency text not null default 'usd' check (length(currency) = 3);
comment on column subscriptions.currency is 'what it is paid in: three letters, lower case';

alter table checkout_sessions add column currency text not null default 'usd' check (length(currency) = 3);
comment on column checkout_sessions.currency is 'what is paid in: a session in another currency is not handed out again';

comment on column segment_prices.currency is 'currency of the subscription: three letters, lower case; null: not known';
comment on column spend_caps.cents is 'in the smallest unit of the currency that the account pays in, before discounts and tax';
