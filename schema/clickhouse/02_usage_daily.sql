-- The sums of closed days, which stay when the rows behind them go. Written by the ingestor when it closes a day; read
-- through the view `usage`, never alone: an attempt that died half-way has left rows here, and only usage_closed_days
-- knows the attempt (close_id) that counts.
create table if not exists usage_daily {on_cluster}
(
    bill_day Date codec(ZSTD(1)) comment 'the closed day (UTC), as in usage_events',
    close_id UUID codec(ZSTD(1)) comment 'the attempt to close the day that wrote the row; rows of attempts that usage_closed_days does not name count for nothing',
    account_id UUID codec(ZSTD(1)) comment 'who is charged',
    usage_type LowCardinality(String) comment 'what was used',
    period_start DateTime('UTC') codec(ZSTD(1)) comment 'first second of the billing period that the units are charged to',
    cost_units Int64 codec(ZSTD(1)) comment 'sum of cost_units of these events; corrections may make it 0 or negative',
    events UInt64 codec(ZSTD(1)) comment 'how many events'
)
-- Not SummingMergeTree: it drops rows whose sum is 0, and merges attempts. Not ReplacingMergeTree: it is exact only with
-- FINAL.
engine = {merge_tree}
partition by toYYYYMM(bill_day)
order by (account_id, usage_type, period_start, bill_day)
settings
    -- The rows behind these sums will be deleted: they have to be on disk first.
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1
comment 'Sums of closed days; read them through the view usage.'
