-- A correction of usage that an invoice billed is returned by credit notes of that invoice.
alter table meter_carries add column credit_note_ids text[] not null default '{}';

comment on column meter_carries.credit_note_ids is 'credit notes (cn_…) that return the amount of a correction; empty: none';
comment on column meter_carries.policy is 'next_period: reported in the next billing period of the account; charge: an invoice item; credit: credit notes, or an invoice item with a negative amount from an earlier version; credit_or_charge: one of both, from an earlier version';
comment on column meter_carries.amount is 'amount of the units, in the smallest unit of the currency, by the tiers of the metered price: open money until settled_at, then what was charged or returned; 0: they cost nothing; null: not calculated yet, or reported in another period';
comment on column meter_carries.units is 'how many; negative: a correction';
