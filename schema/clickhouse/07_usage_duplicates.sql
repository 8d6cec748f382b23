-- Events that were dropped as duplicates: tries of one Idempotency-Key of one account that reached two gateways, both of which
-- were answered with success and name one event. The first is in usage_events; the others are here, and their units went
-- back to the pool. Written by the ingestor alone, before the range that they were dropped from counts as done.
create table if not exists usage_duplicates {on_cluster}
(
    generation UInt32 codec(ZSTD(1)) comment 'generation of the stream that stream_seq counts in',
    shard UInt16 codec(ZSTD(1)) comment 'shard of the stream: a hash of account_id',
    stream_seq UInt64 codec(Delta, ZSTD(1)) comment 'sequence in the stream of the message that carried the event',
    idx UInt32 codec(ZSTD(1)) comment 'index of the event in its batch, from 0; (generation, shard, stream_seq, idx) names a dropped event, also in the manifest',
    event_id UUID codec(ZSTD(1)) comment 'id that it has in common with the event that was kept',
    account_id UUID codec(ZSTD(1)) comment 'who is not charged',
    lease_id UUID codec(ZSTD(1)) comment 'lease that the units came from; zero: none was needed',
    run_id UUID codec(ZSTD(1)) comment 'the start of a gateway that wrote it: a row of gateway_runs',
    period_start DateTime('UTC') codec(ZSTD(1)) comment 'first second of the billing period, stamped at admission',
    usage_type LowCardinality(String) comment 'what was used',
    cost_units Int64 codec(ZSTD(1)) comment 'units that went back to the pool',
    request_id String codec(ZSTD(1)) comment 'id of the request',
    idempotency_key String codec(ZSTD(1)) comment 'Idempotency-Key of the request',
    ts DateTime64(3, 'UTC') codec(Delta, ZSTD(1)) comment 'when the request was admitted, in milliseconds',
    ingested_at DateTime64(3, 'UTC') codec(Delta, ZSTD(1)) comment 'when the range was sealed that it was dropped from, in milliseconds',
    insert_id UUID codec(ZSTD(1)) comment 'the attempt that inserted the row',

    -- What a lease that is settled had spent: stored and dropped events both.
    index i_lease lease_id type bloom_filter(0.001) granularity 1
)
engine = {merge_tree}
-- As usage_events: a block is one part. Sums are over distinct positions, should a range ever be inserted twice.
partition by toYYYYMM(ingested_at)
order by (account_id, ts)
settings
    non_replicated_deduplication_window = 100000,
    replicated_deduplication_window = 100000,
    replicated_deduplication_window_seconds = 2592000,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1
comment 'Events that were dropped as duplicates of one Idempotency-Key; their units went back to the pool.'
