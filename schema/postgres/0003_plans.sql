-- A copy of the catalogue (plans.toml), written by the billing worker at its start, so that grants see the same limits
-- in every gateway and in every statement.
create table plans (
    id text primary key,
    name text not null,
    price_cents bigint not null check (price_cents >= 0),
    retention_days integer check (retention_days > 0),
    position integer not null
);

create table plan_limits (
    plan_id text not null references plans (id),
    usage_type text not null,
    limit_units bigint not null check (limit_units >= 0),
    mode text not null check (mode in ('limited', 'overage', 'metered')),
    primary key (plan_id, usage_type)
);

comment on table plans is 'Plans, as the catalogue has them.';
comment on column plans.id is 'the catalogue''s id, such as pro';
comment on column plans.name is 'the name on the price list';
comment on column plans.price_cents is 'price a month, in US cents';
comment on column plans.retention_days is 'days for which events are kept; null: without end';
comment on column plans.position is 'order in the catalogue: a higher one is an upgrade';
comment on table plan_limits is 'What a plan allows of a usage type in one period.';
comment on column plan_limits.plan_id is 'the plan';
comment on column plan_limits.usage_type is 'the catalogue''s name, such as api_call';
comment on column plan_limits.limit_units is 'units a period';
comment on column plan_limits.mode is 'limited: refused past the limit; overage: billed past it; metered: billed from the first unit';
