-- How far the billing worker has read usage_duplicates, by shard: within one, duplicates are stored in the order of the stream.
create table duplicate_cursors (
    generation bigint not null,
    shard integer not null,
    stream_seq bigint not null default 0,
    idx bigint not null default 0,
    primary key (generation, shard)
);

comment on table duplicate_cursors is 'The last dropped duplicate of each shard whose units were given back; whoever gives units of a shard back holds its row.';
comment on column duplicate_cursors.generation is 'generation of the stream';
comment on column duplicate_cursors.shard is 'shard of the stream';
comment on column duplicate_cursors.stream_seq is 'sequence in the stream of the message that carried it; 0: none was read yet';
comment on column duplicate_cursors.idx is 'its index in its batch';
