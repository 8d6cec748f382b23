-- The truth for analysts and bills, for ever: plain `sum(cost_units)`, over closed days and open ones, whether the rows
-- behind are still there or not.
--   select usage_type, sum(cost_units) from usage where account_id = … and period_start = … group by usage_type
-- Both halves ask for `open_from` in the same words, so ClickHouse evaluates it once a query: a day that is closed
-- meanwhile is in one half, never in both or neither. (The rows of a day stay for hours after it was closed, so the
-- half that still reads them finds them.)
create view if not exists usage {on_cluster}
(
    account_id UUID comment 'who is charged',
    usage_type LowCardinality(String) comment 'what was used',
    period_start DateTime('UTC') comment 'first second of the billing period that the units are charged to',
    bill_day Date comment 'day (UTC) of the requests, as in usage_events',
    cost_units Int64 comment 'sum of cost_units of these events',
    events UInt64 comment 'how many events'
)
as
select account_id, usage_type, period_start, bill_day, cost_units, events
from usage_daily
where bill_day < (select open_from from usage_open_from)
    and (bill_day, close_id) in
        (select bill_day, argMin(close_id, (closed_at, close_id)) from usage_closed_days group by bill_day)
union all
-- Grouped like the projection p_month, so that it is read and not the rows.
select account_id, usage_type, period_start, bill_day, sum(cost_units) as cost_units, count() as events
from usage_events
where bill_day >= (select open_from from usage_open_from)
group by account_id, usage_type, period_start, bill_day
