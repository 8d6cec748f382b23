-- An operator settles a difference of money, for example with a credit note in Stripe. The invoice still differs, but nobody has to look again.
alter table money_checks
    add column accepted_difference bigint,
    add column accepted_at timestamptz,
    add column accepted_reason text,
    add constraint money_checks_accepted check (
        (accepted_difference is null) = (accepted_at is null) and (accepted_at is null) = (accepted_reason is null));
comment on column money_checks.accepted_difference is 'an operator settled this difference: it is no alarm while it is the same; null: nobody did';
comment on column money_checks.accepted_at is 'when, by the database''s clock';
comment on column money_checks.accepted_reason is 'in the operator''s words';
