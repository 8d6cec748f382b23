-- Work that must still happen in Stripe, and states in Stripe that an operator must solve.
create table stripe_tasks (
    id uuid primary key,
    account_id uuid not null references accounts (id),
    kind text not null check (kind in ('restore_plan')),
    args jsonb not null,
    state text not null default 'armed' check (state in ('armed', 'due', 'attention', 'done')),
    attempts integer not null default 0,
    next_attempt_at timestamptz not null,
    error text,
    created_at timestamptz not null default now(),
    done_at timestamptz,
    constraint stripe_tasks_done check ((state = 'done') = (done_at is not null))
);
-- A change that finds an unfinished task of its account takes it over.
create unique index stripe_tasks_open on stripe_tasks (account_id, kind) where state <> 'done';
create index stripe_tasks_due on stripe_tasks (next_attempt_at) where state <> 'done';
create index stripe_tasks_old on stripe_tasks (done_at) where state = 'done';

comment on table stripe_tasks is 'Work that must happen in Stripe even if the worker that began it dies. A change writes its task before its first call to Stripe. Repeating a task changes nothing.';
comment on column stripe_tasks.id is 'id of the task';
comment on column stripe_tasks.account_id is 'whose subscription; the task needs the account''s lease';
comment on column stripe_tasks.kind is 'restore_plan: a change undid a planned change first; complete the change, or plan again what was planned';
comment on column stripe_tasks.args is 'what the task needs to know, by kind';
comment on column stripe_tasks.state is 'armed: the change is in progress, or its worker died; due: an attempt failed, it is repeated; attention: it has failed for a day, and is repeated every hour; done: nothing is left to do';
comment on column stripe_tasks.attempts is 'failed attempts';
comment on column stripe_tasks.next_attempt_at is 'earliest time of the next attempt; of an armed task: when its change is over or dead';
comment on column stripe_tasks.error is 'why the last attempt failed';
comment on column stripe_tasks.created_at is 'when the first change wrote it';
comment on column stripe_tasks.done_at is 'when nothing was left to do';

create table findings (
    kind text not null,
    subject text not null,
    account_id uuid not null references accounts (id),
    text text not null,
    remedy text not null,
    first_seen_at timestamptz not null default now(),
    last_seen_at timestamptz not null default now(),
    resolved_at timestamptz,
    primary key (kind, subject)
);
create index findings_open on findings (first_seen_at) where resolved_at is null;
create index findings_account on findings (account_id) where resolved_at is null;

comment on table findings is 'States in Stripe that an operator must solve. Each is found again whenever the subscriptions of the account are stored, and resolved when it is gone.';
comment on column findings.kind is 'what is wrong, such as two_subscriptions';
comment on column findings.subject is 'id of the object in Stripe that has it';
comment on column findings.account_id is 'the account that it concerns';
comment on column findings.text is 'what is wrong, as a sentence';
comment on column findings.remedy is 'what the operator can do';
comment on column findings.first_seen_at is 'since when it is open';
comment on column findings.last_seen_at is 'when it was last seen';
comment on column findings.resolved_at is 'when it was gone; null: it is open';
