-- Usage notices look at the pools of running periods every few seconds, and old periods stay in the table. A column that
-- never changes: updates of granted_units stay heap-only.
create index quota_pool_running on quota_pool (period_end);
