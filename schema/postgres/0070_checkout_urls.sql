-- A checkout that leads to other pages than the customer asked for is not handed out again.
alter table checkout_sessions
    add column success_url text,
    add column cancel_url text;

comment on column checkout_sessions.success_url is 'where the browser goes after the payment; null: a worker of an earlier version opened it';
comment on column checkout_sessions.cancel_url is 'where it goes if the customer leaves the page';
