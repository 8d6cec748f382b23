//! The only SQL on `quota_pool`, `quota_leases` and `gateway_runs`, and the one owner of their lock order.
