-- One row: the first day that is not closed. Sums come from usage_daily before it and from usage_events from it on.
create view if not exists usage_open_from {on_cluster}
(
    open_from Date comment 'first day (UTC) that is not closed; 1970-01-02: none is closed'
)
as select max(bill_day) + 1 as open_from from usage_closed_days
