-- Every metered request, once: a row is an event at its position in the stream. `sum(cost_units)` is the truth.
-- Written by the ingestor alone, one sealed range (manifest) an insert; its rows go when their retention is over
-- (account_retention.sql), so sums over more than the last days are read from the view `usage`.
create table if not exists usage_events {on_cluster}
(
    generation UInt32 codec(ZSTD(1)) comment 'generation of the stream that stream_seq counts in; raised by an operator when the stream was restored or reset',
    shard UInt16 codec(ZSTD(1)) comment 'shard of the stream: a hash of account_id',
    stream_seq UInt64 codec(Delta, ZSTD(1)) comment 'sequence in the stream of the message that carried the event; a message is a batch',
    idx UInt32 codec(ZSTD(1)) comment 'index of the event in its batch, from 0; (generation, shard, stream_seq, idx) names a row',
    event_id UUID codec(ZSTD(1)) comment 'id of the event; the same for every try of one Idempotency-Key of one account',
    account_id UUID codec(ZSTD(1)) comment 'who is charged',
    key_id UUID codec(ZSTD(1)) comment 'API key of the request; zero: none (a correction)',
    subscription_id UUID codec(ZSTD(1)) comment 'subscription in force at admission; zero: none, the Free plan',
    lease_id UUID codec(ZSTD(1)) comment 'lease that the units came from; zero: none was needed (overage, metered, correction)',
    run_id UUID codec(ZSTD(1)) comment 'the start of a service that wrote the event: a row of gateway_runs',
    corrects UUID codec(ZSTD(1)) comment 'event that this one corrects; zero: it is no correction',
    period_start DateTime('UTC') codec(ZSTD(1)) comment 'first second of the billing period, stamped at admission; every sum of a period groups by it, never by ts',
    usage_type LowCardinality(String) comment 'what was used: a name of the catalogue, such as api_call',
    cost_units Int64 codec(ZSTD(1)) comment 'units charged; 0: admitted, then failed; negative: a correction',
    -- No LowCardinality for what clients choose. On 4 M rows, against String with ZSTD: 300 different values 8 instead of
    -- 9 MB and a group by 4 times as fast; 50,000 values 26 instead of 14 MB and 1.6 times as slow; all different 82
    -- instead of 41 MB and 2.4 times as slow. Paths carry ids, and one client may send a new agent each time.
    endpoint String codec(ZSTD(1)) comment 'path of the request',
    method LowCardinality(String) comment 'HTTP method',
    status UInt16 codec(ZSTD(1)) comment 'HTTP status that was answered',
    request_id String codec(ZSTD(1)) comment 'id of the request, as in the answer and in the logs',
    ip_address IPv6 codec(ZSTD(1)) comment 'address of the client; IPv4 in its mapped form, ::ffff:a.b.c.d',
    user_agent String codec(ZSTD(1)) comment 'User-Agent of the request; empty: none',
    ts DateTime64(3, 'UTC') codec(Delta, ZSTD(1)) comment 'when the request was admitted, in milliseconds; of a correction: the time of what it corrects',
    idempotency_key String codec(ZSTD(1)) comment 'Idempotency-Key of the request; empty: none',
    ingested_at DateTime64(3, 'UTC') codec(Delta, ZSTD(1)) comment 'when the range was sealed (the manifest says so), in milliseconds; never now(), so that a replay is the same block in the same partition',
    insert_id UUID codec(ZSTD(1)) comment 'the attempt that inserted the row: tells two insertions of one range apart, should there ever be two',
    bill_day Date default least(greatest(toDate(ts), toDate(ingested_at) - 5), toDate(ingested_at)) codec(ZSTD(1)) comment 'day (UTC) under which usage_daily keeps the row: that of ts, but at most 5 days before it was sealed and never after, so that days can be closed',

    -- What one lease paid for and what one event was: 11 and 17 ms in an account's rows, 41 and 86 ms without the account
    -- (50 M rows). An idempotency key needs no index: event_id is made from it. Not for a thousand ids at once: filter
    -- on account_id and ts then.
    index i_lease lease_id type bloom_filter(0.001) granularity 1,
    index i_event event_id type bloom_filter(0.001) granularity 1,

    -- Sums of periods. A projection is part of its part: written with the block or not at all, swallowed with it when a
    -- token comes twice. 50 M rows: one account's period 11 ms, all accounts' 34 ms (481 ms without).
    projection p_month
    (
        select account_id, usage_type, period_start, bill_day, sum(cost_units), count()
        group by account_id, usage_type, period_start, bill_day
    ),
    -- Is a range there, wholly and once? 14 ms, 45 without; 0.24 bytes a row.
    projection p_position
    (
        select generation, shard, stream_seq, idx, insert_id
        order by generation, shard, stream_seq, idx
    )
)
engine = {merge_tree}
-- All rows of a block have one ingested_at: a block is one part, and a part is there or not, also after kill -9.
partition by toYYYYMM(ingested_at)
-- One account's requests in the order of time. Positions, leases and events are found by the means above.
order by (account_id, ts)
settings
    -- Off by default. A retried token is a no-op for as long as it is among the last 100,000: at 8 shards with a block a
    -- second each, three and a half hours, far more than an ingestor that was paused may write without looking at its
    -- manifest again.
    non_replicated_deduplication_window = 100000,
    replicated_deduplication_window = 100000,
    -- An hour by default; thirty days.
    replicated_deduplication_window_seconds = 2592000,
    -- Deleting rows rebuilds the projections; the default refuses to delete.
    lightweight_mutation_projection_mode = 'rebuild',
    -- An insert that returned survives a power failure; so does a merge that replaced it.
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1
comment 'Every metered request, once: sum(cost_units) is the truth, without FINAL or de-duplication.'
