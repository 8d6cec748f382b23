-- An account keeps the version of the plan that it subscribed to. A version never changes: other terms make another version.
create table plan_versions (
    id uuid primary key,
    plan_id text not null references plans (id) on delete cascade,
    version integer not null check (version > 0),
    terms_hash bytea not null check (length(terms_hash) = 32),
    origin text not null check (origin in ('catalogue', 'stored', 'stripe')),
    price_cents bigint not null check (price_cents >= 0),
    retention_days integer check (retention_days >= 0),
    burst_per_second integer check (burst_per_second > 0),
    burst_size integer check (burst_size > 0),
    is_current boolean not null default false,
    created_at timestamptz not null default now(),
    unique (plan_id, version),
    unique (plan_id, terms_hash),
    constraint plan_versions_burst check ((burst_per_second is null) = (burst_size is null))
);
create unique index plan_versions_current on plan_versions (plan_id) where is_current;

comment on table plan_versions is 'Versions of plans. Whoever subscribes gets the current one and keeps it. Billing workers write them at their start.';
comment on column plan_versions.id is 'id of the version';
comment on column plan_versions.plan_id is 'the plan';
comment on column plan_versions.version is 'counted from 1 for each plan: pro@1, pro@2';
comment on column plan_versions.terms_hash is 'SHA-256 of the terms: equal terms are one version. Prices in Stripe carry the first 8 bytes of it (trendit_version)';
comment on column plan_versions.origin is 'catalogue: a worker''s catalogue had these terms; stored: plan_limits had them before there were versions; stripe: a price that was made before there were versions';
comment on column plan_versions.price_cents is 'price per month';
comment on column plan_versions.retention_days is 'how many days events are kept; null: forever';
comment on column plan_versions.burst_per_second is 'requests per second of each key; null: no burst limit';
comment on column plan_versions.burst_size is 'requests at once of each key; null: no burst limit';
comment on column plan_versions.is_current is 'new subscribers get this one; at most one of each plan';
comment on column plan_versions.created_at is 'when a worker first saw these terms';

create table plan_version_limits (
    version_id uuid not null references plan_versions (id) on delete cascade,
    usage_type text not null,
    limit_units bigint not null check (limit_units >= 0),
    mode text not null check (mode in ('limited', 'overage', 'metered')),
    unit_price_micros bigint not null check (unit_price_micros >= 0),
    primary key (version_id, usage_type)
);

comment on table plan_version_limits is 'What a version allows and bills of each usage type in one period.';
comment on column plan_version_limits.version_id is 'the version';
comment on column plan_version_limits.usage_type is 'name in the catalogue, such as api_call';
comment on column plan_version_limits.limit_units is 'units for each period; metered: 0, because no units are included';
comment on column plan_version_limits.mode is 'limited: requests beyond the limit are refused; overage: requests beyond the limit are billed; metered: every unit is billed';
comment on column plan_version_limits.unit_price_micros is 'price of a billed unit, in millionths of a dollar; limited: 0';

create table plan_version_prices (
    price_id text not null,
    version_id uuid not null references plan_versions (id) on delete cascade,
    usage_type text,
    created_at timestamptz not null default now(),
    primary key (price_id, version_id)
);
create unique index plan_version_prices_plan on plan_version_prices (price_id) where usage_type is null;
create index plan_version_prices_version on plan_version_prices (version_id);

comment on table plan_version_prices is 'Prices in Stripe by version. The price of the plan itself belongs to one version, and so tells which version a subscription has.';
comment on column plan_version_prices.price_id is 'price_…';
comment on column plan_version_prices.version_id is 'the version';
comment on column plan_version_prices.usage_type is 'the usage type that it bills; null: the plan itself';
comment on column plan_version_prices.created_at is 'when it was first seen here';

create function refuse_other_terms() returns trigger language plpgsql as
    $$ begin raise exception 'a plan version never changes: other terms make another version'; end $$;
create trigger plan_versions_terms
    before update of plan_id, version, terms_hash, origin, price_cents, retention_days, burst_per_second, burst_size
    on plan_versions for each row execute function refuse_other_terms();
create trigger plan_version_limits_terms before update on plan_version_limits for each row execute function refuse_other_terms();

create view plan_version_terms as
    select v.id as version_id, v.plan_id, v.version,
        jsonb_build_object(
            'price_cents', v.price_cents,
            'retention_days', v.retention_days,
            'burst', case when v.burst_size is not null
                then jsonb_build_object('per_second', v.burst_per_second, 'size', v.burst_size) end,
            'usage', coalesce((
                select jsonb_object_agg(l.usage_type, jsonb_build_object(
                    'limit', l.limit_units, 'mode', l.mode, 'unit_price_micros', l.unit_price_micros))
                from plan_version_limits l where l.version_id = v.id), '{}')) as terms
    from plan_versions v;

comment on view plan_version_terms is 'Plan versions as gateways and billing workers read them: each with its terms as one JSON object.';

alter table subscriptions
    add column version_id uuid references plan_versions (id),
    add column then_version_id uuid references plan_versions (id),
    add column then_price_ids text[] not null default '{}';
create index subscriptions_version on subscriptions (version_id) where is_current;

comment on column subscriptions.version_id is 'version of the plan; null: the account follows the catalogue, because an operator assigned the plan, or this service did not make the price';
comment on column subscriptions.then_version_id is 'version of the plan after ends_at; null: as for version_id';
comment on column subscriptions.then_price_ids is 'price_… of the phases of its schedule in Stripe, which stay active; empty: it has no schedule';
comment on table plan_limits is 'The allowance of the current version of each plan for each usage type, for gateways of the previous release and for accounts without a version.';

alter table stripe_tasks drop constraint stripe_tasks_kind_check,
    add constraint stripe_tasks_kind_check check (kind in ('restore_plan', 'migrate'));
comment on column stripe_tasks.kind is 'restore_plan: a change undid a planned change first; complete the change, or plan again what was planned. migrate: an account gets another version of its plan';
