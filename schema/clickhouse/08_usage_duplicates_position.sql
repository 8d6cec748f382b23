-- Dropped events by position: an ingestor verifies those of a range, an audit compares with them, and the billing worker
-- reads behind the last one whose units it gave back. Without it each would read the whole table.
alter table usage_duplicates {on_cluster} add projection if not exists p_position
(
    select generation, shard, stream_seq, idx, event_id
    order by generation, shard, stream_seq, idx
)
