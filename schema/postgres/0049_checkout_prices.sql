alter table checkout_sessions add column price_ids text[] not null default '{}';

comment on column checkout_sessions.price_ids is 'price_… of what is paid for: a session with others than the plan has now is not handed out again';
