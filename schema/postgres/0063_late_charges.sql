-- The policy of a carry says what happens to this carry, not what LATE_USAGE says: late usage that no period follows becomes a
-- charge. `credit_or_charge` is what workers of earlier versions write: as charge or credit, by the sign.
alter table meter_carries
    drop constraint meter_carries_policy_check,
    add constraint meter_carries_policy_check check (policy in ('next_period', 'charge', 'credit', 'credit_or_charge'));
update meter_carries set policy = case when units < 0 then 'credit' else 'charge' end where policy = 'credit_or_charge';

comment on column meter_carries.policy is 'next_period: reported in the next billing period of the account; charge: an invoice item; credit: an invoice item with a negative amount; credit_or_charge: one of both, from an earlier version';
comment on column meter_carries.amount is 'amount of the units, in the smallest unit of the currency, by the tiers of the metered price: open money until settled_at, then the amount of the invoice item; 0: they cost nothing; null: not calculated yet, or reported in another period';
