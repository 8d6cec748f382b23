-- Which days are closed, one after the other without a gap, and by which attempt. A day is recorded here after its sums in
-- usage_daily were compared with the rows; nothing that is sealed later can fall on it.
create table if not exists usage_closed_days {on_cluster}
(
    bill_day Date comment 'the closed day (UTC)',
    close_id UUID comment 'the attempt whose rows in usage_daily count',
    cost_units Int64 comment 'sum of cost_units of the day, all accounts, when it was closed',
    events UInt64 comment 'events of the day, all accounts, when it was closed',
    closed_at DateTime64(6, 'UTC') comment 'when it was recorded, by the clock of ClickHouse; of two records of one day the first counts, for ever'
)
-- A row a day. Two ingestors that close a day at once leave two rows: readers take the first, because rows may have been
-- deleted by the time of the second.
engine = {merge_tree}
order by (bill_day, closed_at)
settings
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1
comment 'Closed days, and the attempt that closed each.'
