-- Keys get scopes. A key that exists keeps what it can do: both scopes. A new key has only `usage` if nothing else is said, also one
-- that a billing worker of the previous release makes.
alter table api_keys
    add column scopes text[] not null default '{usage,billing}',
    add constraint api_keys_scopes check (scopes <@ '{usage,billing}' and cardinality(scopes) > 0);
alter table api_keys alter column scopes set default '{usage}';

comment on column api_keys.scopes is 'what the key allows. usage: calls through a gateway; billing: changes of the subscription and of payment methods';
