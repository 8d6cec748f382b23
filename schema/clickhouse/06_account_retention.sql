-- From which day on the rows of an account are kept. The billing worker pushes one generation a day, of all accounts, from
-- PostgreSQL: the plan that each has now, so that an upgrade saves old rows. Then it deletes by that generation.
create table if not exists account_retention {on_cluster}
(
    push_id UUID comment 'the generation; one is never changed, so every replica deletes the same rows by it',
    account_id UUID comment 'whose rows; an account that is missing keeps all',
    keep_from Date comment 'rows are deleted only if both their bill_day and their period_start lie before this day (UTC)',
    pushed_at DateTime('UTC') codec(Delta, ZSTD(1)) comment 'when the generation was pushed'
)
engine = {merge_tree}
-- Read by generation; within it accounts of one keep_from together, which is how they are deleted.
order by (push_id, keep_from, account_id)
-- Old generations are kept for a week, for people who ask why a row is gone.
ttl pushed_at + interval 7 day
comment 'How long rows of usage_events are kept, by account.'
