create table limit_overrides (
    account_id uuid not null references accounts (id),
    usage_type text not null,
    limit_units bigint not null check (limit_units >= 0),
    primary key (account_id, usage_type)
);

comment on table limit_overrides is 'Limits agreed with one account; they take the place of the plan''s.';
comment on column limit_overrides.account_id is 'whose';
comment on column limit_overrides.usage_type is 'the catalogue''s name, such as api_call';
comment on column limit_overrides.limit_units is 'units a period';
