-- Existing runs have never spooled, or do so for the first time: either way the next time has a higher number.
alter table gateway_runs add column spooled bigint not null default 0;
comment on column gateway_runs.spooled is 'how often it began to spool: a statement about an earlier time that comes late changes nothing';
