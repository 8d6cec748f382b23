-- Comments in plain English. Nothing else changes.

comment on table accounts is 'Customers of the API. An account owns keys, a plan and counters.';
comment on column accounts.name is 'name of the customer';
comment on column accounts.email is 'address for invoices and notices';
comment on column accounts.status is 'active, or suspended: every metered request is refused';
comment on column accounts.created_at is 'when the account was created';

comment on table api_keys is 'API keys by their public half. The key itself is not stored anywhere.';
comment on column api_keys.id is 'the id in the key text';
comment on column api_keys.account_id is 'the account that the key belongs to';
comment on column api_keys.name is 'name that the owner gave the key';
comment on column api_keys.created_at is 'when the key was created';
comment on column api_keys.expires_at is 'from this time on the key is refused; null: it does not expire. A rotation sets it for the old key';
comment on column api_keys.revoked_at is 'from this time on the key is refused; null: it is not revoked';

comment on table plans is 'The plans of the catalogue.';
comment on column plans.id is 'id in the catalogue, such as pro';
comment on column plans.retention_days is 'days for which events are kept; null: without end';
comment on column plans.position is 'order in the catalogue: a change to a plan with a higher position is an upgrade';

comment on table plan_limits is 'The allowance of each plan for each usage type in one period.';
comment on column plan_limits.usage_type is 'name in the catalogue, such as api_call';
comment on column plan_limits.limit_units is 'units for each period';
comment on column plan_limits.mode is 'limited: requests beyond the limit are refused; overage: requests beyond the limit are billed; metered: every unit is billed';

comment on table subscriptions is 'Subscriptions of accounts. An account without a current subscription is on the Free plan.';
comment on column subscriptions.id is 'on every event that it admits';
comment on column subscriptions.account_id is 'the account that subscribed';
comment on column subscriptions.plan_id is 'the current plan';
comment on column subscriptions.status is 'status as Stripe names it';
comment on column subscriptions.period_start is 'first moment of the last known period';
comment on column subscriptions.period_end is 'first moment after the last known period';
comment on column subscriptions.billing_anchor is 'anchor of the monthly periods; its day of the month is the billing day';
comment on column subscriptions.ends_at is 'when the subscription will end; null: it has no end';
comment on column subscriptions.grace_until is 'until when a past-due subscription keeps working';
comment on column subscriptions.is_current is 'false: another subscription replaced it';
comment on column subscriptions.created_at is 'when the row was written';
comment on column subscriptions.stripe_subscription_id is 'id of the subscription in Stripe (sub_…), from which this id is made; null: an operator assigned the plan';
comment on column subscriptions.cancel_at_period_end is 'the customer cancelled it; it ends at ends_at';
comment on column subscriptions.trial_ends_at is 'end of the trial; null: there was no trial';
comment on column subscriptions.stripe_schedule_id is 'schedule in Stripe (sub_sched_…) that changes the plan to then_plan_id at ends_at; null: none';
comment on column subscriptions.ended_at is 'when it ended in Stripe; null: it has not ended';

comment on table limit_overrides is 'Limits agreed with one account. They replace the limits of the plan.';
comment on column limit_overrides.account_id is 'the account';
comment on column limit_overrides.usage_type is 'name in the catalogue, such as api_call';
comment on column limit_overrides.limit_units is 'units for each period';

comment on table quota_pool is 'Pools: the units of one account, usage type and period. Writers take units from them as leases, at most up to the limit.';
comment on column quota_pool.account_id is 'the account';
comment on column quota_pool.usage_type is 'name in the catalogue, such as api_call';
comment on column quota_pool.period_start is 'first moment of the period; a new period is a new row, a row is never reset';
comment on column quota_pool.period_end is 'first moment after the period';
comment on column quota_pool.limit_units is 'limit in force: the override, or else the limit of the plan';
comment on column quota_pool.granted_units is 'units that are spent or held in live leases; can exceed limit_units only after the limit was lowered';

comment on table gateway_runs is 'Writers to the stream. Each row is one start of a gateway, or one session in which a billing worker publishes corrections. A writer owns lanes and leases.';
comment on column gateway_runs.id is 'created by the writer; part of the subjects of its lanes';
comment on column gateway_runs.gateway is 'name of the writer, for people: the name of a gateway, or billing-worker';
comment on column gateway_runs.state is 'live; spooling: NATS is away, the writer acknowledges events from its spool; fencing: it is being ended and gets no leases; closed: it stopped and gave back all its leases; settled: it has no live lease and no open lane';
comment on column gateway_runs.heartbeat is 'counts up while the writer lives; a watcher compares the values that it read itself, so no clocks are compared';
comment on column gateway_runs.generation is 'generation of the stream of its lanes';
comment on column gateway_runs.shards is 'number of its lanes, one in each shard';
comment on column gateway_runs.started_at is 'when the writer registered';
comment on column gateway_runs.heartbeat_at is 'when the heartbeat last counted up, by the clock of the database';
comment on column gateway_runs.ended_at is 'when the writer was closed or settled';
comment on column gateway_runs.spooled is 'how often the writer started to spool: a late statement about an earlier time changes nothing';

comment on table quota_leases is 'Leases: units that a writer took from a pool, to spend without asking again.';
comment on column quota_leases.id is 'created by the writer before it asks, so that asking twice grants once; on every event that the lease pays for';
comment on column quota_leases.run_id is 'the writer that holds the lease';
comment on column quota_leases.account_id is 'account of the pool';
comment on column quota_leases.usage_type is 'usage type of the pool';
comment on column quota_leases.period_start is 'period of the pool';
comment on column quota_leases.returned_units is 'units given back so far; the others are spent, or still held while the lease is live';
comment on column quota_leases.state is 'live: units may still be given back; returned: the writer gave back all unspent units; settled: the writer ended, and its unspent units were counted and given back for it';

comment on table stripe_customers is 'The Stripe customer of each account. The row is written before the call that creates the customer, so that a crash between the two does not create a second one.';
comment on column stripe_customers.account_id is 'the account';
comment on column stripe_customers.customer_id is 'id of the customer in Stripe (cus_…); null: the creation started and its outcome is not known yet';
comment on column stripe_customers.livemode is 'true: real money; a service ignores rows of the other mode';
comment on column stripe_customers.creation is 'number of the creation, part of its idempotency key; counts up after the customer was deleted in Stripe';
comment on column stripe_customers.requested_at is 'when the creation started: Stripe keeps its idempotency key for 24 hours from then';
comment on column stripe_customers.deleted_at is 'when Stripe reported that the customer was deleted; the next subscription creates a new one';
comment on column stripe_customers.created_at is 'when the row was written';

comment on table subscription_items is 'Items of a subscription in Stripe: the price of the plan, and a metered price for each billed usage type.';
comment on column subscription_items.stripe_item_id is 'id of the item in Stripe (si_…)';
comment on column subscription_items.subscription_id is 'the subscription';
comment on column subscription_items.price_id is 'price in Stripe (price_…)';
comment on column subscription_items.usage_type is 'usage type that the item bills; null: the item is the plan itself';
comment on column subscription_items.period_start is 'first moment of the period of the item; items of one subscription may differ';
comment on column subscription_items.period_end is 'first moment after the period';

comment on table billing_periods is 'Periods whose usage is reported to Stripe: those of paid subscriptions. Usage events carry period_start.';
comment on column billing_periods.account_id is 'the account';
comment on column billing_periods.period_start is 'first moment of the period; on every usage event of the period';
comment on column billing_periods.period_end is 'first moment after the period; earlier than planned if the subscription ended before';
comment on column billing_periods.customer_id is 'customer that Stripe charges (cus_…)';
comment on column billing_periods.stripe_subscription_id is 'subscription in Stripe (sub_…) that was paid for or is on trial';
comment on column billing_periods.final_at is 'when Stripe finalized the invoice of the period: later usage is carried; null: not finalized';
comment on column billing_periods.frozen_at is 'when the totals in ClickHouse, PostgreSQL and Stripe were found equal and frozen; null: open';
comment on column billing_periods.created_at is 'when the row was written';
comment on column billing_periods.prices is 'price (price_…) by usage type, as last used by the subscription in this period: the prices for late usage after a change of plan; null: not known';

comment on table checkout_sessions is 'Sessions of the hosted checkout of Stripe that customers were sent to. A session orphaned by a crash has no row, was never shown, and expires.';
comment on column checkout_sessions.id is 'idempotency key of the creation';
comment on column checkout_sessions.account_id is 'account that subscribes';
comment on column checkout_sessions.plan_id is 'plan that it subscribes to';
comment on column checkout_sessions.session_id is 'id of the session in Stripe (cs_…)';
comment on column checkout_sessions.url is 'page on which the customer pays';
comment on column checkout_sessions.expires_at is 'when Stripe closes the session';
comment on column checkout_sessions.ended_at is 'when the session was completed, expired or replaced; null: open';
comment on column checkout_sessions.created_at is 'when the row was written';
comment on column checkout_sessions.price_ids is 'prices (price_…) of the session; a session with other prices than the plan has now is not shown again';

comment on table webhook_events is 'Events from Stripe, each once, received by webhook or found by the hourly catch-up. Only ids are read from the payload: the objects are fetched from Stripe.';
comment on column webhook_events.id is 'id of the event (evt_…); for a signed body that could not be read: sha256: and its hash';
comment on column webhook_events.type is 'such as customer.subscription.updated; empty if it could not be read';
comment on column webhook_events.created_at is 'when the event happened, by the clock of Stripe';
comment on column webhook_events.livemode is 'true: real money';
comment on column webhook_events.api_version is 'API version of the payload; null: a thin event';
comment on column webhook_events.object_id is 'object of the event';
comment on column webhook_events.customer_id is 'customer of the event, if the payload has one';
comment on column webhook_events.subscription_id is 'subscription of the event, if the payload has one';
comment on column webhook_events.payload is 'the signed body';
comment on column webhook_events.received_at is 'when the event was first stored';
comment on column webhook_events.state is 'received: to be processed; done; ignored: its type has no effect here; unreadable: signed, but it could not be read; parked: given up after many attempts, an operator must look';
comment on column webhook_events.attempts is 'number of attempts to process the event';
comment on column webhook_events.next_attempt_at is 'earliest time of the next attempt';
comment on column webhook_events.done_at is 'when the event left the state received';

comment on table stripe_cursors is 'Progress of the periodic scans of Stripe.';
comment on column stripe_cursors.name is 'catch_up: undelivered events; comparison: the daily comparison of subscriptions';
comment on column stripe_cursors.at is 'everything before this time was read';

comment on table corrections is 'Usage that was lowered afterwards. Each row lowers one event and becomes one event with negative cost_units in the stream.';
comment on column corrections.id is 'event_id of the correcting event, made from account, correction and event, so that publishing it twice is still one event';
comment on column corrections.correction_id is 'id chosen by the caller: repeating it corrects nothing more';
comment on column corrections.account_id is 'the account';
comment on column corrections.event_id is 'event that is corrected; corrects in usage_events';
comment on column corrections.usage_type is 'usage type of the event';
comment on column corrections.period_start is 'period of the event, whose usage is lowered';
comment on column corrections.cost_units is 'units of the event before any correction';
comment on column corrections.delta_units is 'cost_units of the correcting event; the sum for one event is never below -cost_units';
comment on column corrections.units_after is 'units of the event after its corrections up to this one';
comment on column corrections.leased is 'true: the units came from a pool and go back to it; false: the usage type is overage or metered';
comment on column corrections.original is 'fields that the correcting event copies from the event, such as endpoint, method and time. Not jsonb, which refuses some texts';
comment on column corrections.reason is 'reason, for people';
comment on column corrections.requested_by is 'who requested the correction';
comment on column corrections.created_at is 'when the correction was made';
comment on column corrections.run_id is 'writer (a session of a billing worker) that got the correcting event to publish; null: none yet, or the event is certainly not in its lanes';
comment on column corrections.handed_at is 'when the writer got it';
comment on column corrections.published_at is 'when the correcting event was found to be in the stream; null: not known yet';
comment on column corrections.pool_returned_units is 'units that went back to the pool; 0: there was no pool';
comment on column corrections.pool_returned_at is 'when the units went back, in one transaction with published_at';

comment on table audit_log is 'Administrative changes. Rows are never updated or deleted.';
comment on column audit_log.actor is 'how the change came: admin api, command, service, customer (with an API key), stripe';
comment on column audit_log.actor_name is 'who made the change, as they said; null: not said';
comment on column audit_log.action is 'the change, such as account.suspend';
comment on column audit_log.account_id is 'account that changed; null: all accounts (the catalogue)';
comment on column audit_log.subject is 'object that changed: an id, a usage type, a plan';
comment on column audit_log.details is 'new values, without secrets';

comment on table notice_endpoints is 'The endpoint of each account for usage notices. The claim lets only one worker at a time deliver to an endpoint.';
comment on column notice_endpoints.account_id is 'the account; it has at most one endpoint';
comment on column notice_endpoints.url is 'notices are posted here; may contain a token of the owner, so no log shows it';
comment on column notice_endpoints.state is 'active, or disabled: nothing is sent until the URL is set again';
comment on column notice_endpoints.disabled_reason is 'why the endpoint is disabled, for people; null: it is active';
comment on column notice_endpoints.failing_since is 'time of the first of the current series of failures; null: the last attempt succeeded, or there was none';
comment on column notice_endpoints.lease_id is 'claim of the running delivery: a worker with another claim id has lost it and changes nothing; null: none';
comment on column notice_endpoints.leased_until is 'from this time on another worker may claim the endpoint, by the clock of the database';
comment on column notice_endpoints.created_at is 'when the endpoint was first set';

comment on table notice_secrets is 'Secrets that sign the notices of an account: the current one and, during a rotation, those that it replaced.';
comment on column notice_secrets.account_id is 'the account';
comment on column notice_secrets.secret is 'key of the HMAC itself, not a hash, because it signs each notice. Anyone who reads this column can sign in our name. Shown to the owner once, never logged';
comment on column notice_secrets.created_at is 'when the secret was created';
comment on column notice_secrets.expires_at is 'from this time on it signs nothing; null: it is the current secret';

comment on table notices is 'Usage notices for accounts: the outbox of the billing worker.';
comment on column notices.id is 'UUID version 7; the webhook-id, the same in every attempt and replay';
comment on column notices.account_id is 'account that gets the notice';
comment on column notices.kind is 'usage.threshold_reached, or usage.test (requested by an operator)';
comment on column notices.usage_type is 'usage type; null in a test, like period_start and threshold_percent';
comment on column notices.period_start is 'first moment of the period';
comment on column notices.threshold_percent is 'threshold that was reached, in percent of the limit then in force';
comment on column notices.body is 'exact bytes that are sent: each attempt signs them, and a receiver may compare them';
comment on column notices.state is 'pending: sent at next_attempt_at; delivered: the endpoint answered 2xx; failed: given up, see last_error; unaddressed: the account had no active endpoint';
comment on column notices.attempts is 'attempts since the notice was created or replayed';
comment on column notices.next_attempt_at is 'time of the next attempt while pending, by the clock of the database';
comment on column notices.last_error is 'error of the last failed attempt, for people; never contains a URL or a secret';
comment on column notices.created_at is 'when the threshold was found to be reached, or the test was requested';

comment on table duplicate_returns is 'Dropped duplicates whose units went back to their pool. One row for each.';
comment on column duplicate_returns.generation is 'generation of the stream of stream_seq; together with shard, stream_seq and idx it identifies the event, as in usage_duplicates';
comment on column duplicate_returns.stream_seq is 'stream sequence of the message with the event';
comment on column duplicate_returns.event_id is 'id of the event, shared with the event that counts';
comment on column duplicate_returns.account_id is 'account that is not charged';
comment on column duplicate_returns.usage_type is 'usage type of the event';
comment on column duplicate_returns.period_start is 'period of the event and of the pool';
comment on column duplicate_returns.lease_id is 'lease that the units came from; for it they stay spent';
comment on column duplicate_returns.returned_units is 'units that went back; less than cost_units only if the pool had fewer granted units';
comment on column duplicate_returns.returned_at is 'when the units went back';

comment on table duplicate_cursors is 'For each shard, the last dropped duplicate whose units were given back. A worker that gives units of a shard back locks its row.';
comment on column duplicate_cursors.stream_seq is 'stream sequence of the message with the duplicate; 0: none was read yet';
comment on column duplicate_cursors.idx is 'index of the duplicate in its batch';

comment on table meter_ledger is 'Usage reported to Stripe, by account, usage type and billing period: reported_units = sum(cost_units) in ClickHouse + carried_in - carried_out, once every report is delivered.';
comment on column meter_ledger.account_id is 'the account';
comment on column meter_ledger.usage_type is 'usage type; the event name of its meter is trendit_<usage_type>';
comment on column meter_ledger.period_start is 'first moment of the billing period';
comment on column meter_ledger.reported_units is 'sum of the delivered reports: the units that Stripe has for this meter and period';
comment on column meter_ledger.carried_in is 'units of earlier periods that are reported in this one; negative: credits';
comment on column meter_ledger.carried_out is 'units of this period that are reported in a later one or were billed as an invoice item; negative: credits';
comment on column meter_ledger.corrected_units is 'units of corrections and carried credits that delivered reports and carries have taken back; a decrease beyond the others is drift';
comment on column meter_ledger.reports is 'number of reports written; part of the identifier, so that no two reports share one';
comment on column meter_ledger.drift_units is 'how far ClickHouse is below the reported units without a correction that explains it; negative or 0';
comment on column meter_ledger.frozen_units is 'sum(cost_units) when the period was frozen, never summed again; null: open';

comment on table meter_reports is 'Meter events for Stripe. The row is written before its event is first sent. Finished reports are deleted after some days; their sums are in meter_ledger.';
comment on column meter_reports.id is 'id of the row in lists';
comment on column meter_reports.identifier is 'identifier of the meter event, the same in every attempt: Stripe counts one identifier once in at least 24 hours';
comment on column meter_reports.account_id is 'the account';
comment on column meter_reports.usage_type is 'usage type';
comment on column meter_reports.period_start is 'first moment of the billing period';
comment on column meter_reports.customer_id is 'customer that Stripe charges (cus_…)';
comment on column meter_reports.from_units is 'meter_ledger.reported_units before the report';
comment on column meter_reports.to_units is 'meter_ledger.reported_units after the report; the value of the event is the difference, negative if corrections took back more than was used';
comment on column meter_reports.reported_for is 'timestamp of the meter event, within the billing period';
comment on column meter_reports.state is 'open: to be sent, or sent with an unknown outcome; delivered: Stripe has it; withdrawn: Stripe does not have it and must not get it, its units are carried; parked: refused, an operator must look';
comment on column meter_reports.attempts is 'how often the report was sent or compared with the summaries of Stripe';
comment on column meter_reports.first_sent_at is 'start of the first attempt that may have had an effect; null: Stripe certainly does not have the report';
comment on column meter_reports.last_attempt_at is 'start of the last attempt';
comment on column meter_reports.claimed_until is 'a worker has claimed the report until then; null: none has';
comment on column meter_reports.next_attempt_at is 'earliest time of the next attempt';
comment on column meter_reports.done_at is 'when the report was delivered or withdrawn';
comment on column meter_reports.created_at is 'when the row was written';

comment on table meter_carries is 'Usage and corrections that came too late for the invoice of their period, and where their units went.';
comment on column meter_carries.id is 'id of the carry, also in the metadata of the invoice item';
comment on column meter_carries.account_id is 'the account';
comment on column meter_carries.usage_type is 'usage type';
comment on column meter_carries.from_period is 'period of the usage events';
comment on column meter_carries.units is 'number of units; negative: a credit';
comment on column meter_carries.reason is 'final: the invoice of the period was finalized; too_old: the period ended longer ago than Stripe accepts timestamps for';
comment on column meter_carries.policy is 'next_period: reported in the next billing period of the account; credit_or_charge: an invoice item';
comment on column meter_carries.to_period is 'period in which the units are reported; null: none yet, or an invoice item';
comment on column meter_carries.customer_id is 'customer that Stripe charges (cus_…)';
comment on column meter_carries.amount is 'amount of the invoice item, in the smallest unit of the currency, by the tiers of the metered price; null: not calculated yet';
comment on column meter_carries.currency is 'currency of the amount, as Stripe names it';
comment on column meter_carries.attempts is 'attempts to create the invoice item; part of its idempotency key';
comment on column meter_carries.first_sent_at is 'start of the first attempt with an unknown outcome; null: there is no such item';
comment on column meter_carries.invoice_item_id is 'id of the invoice item (ii_…)';
comment on column meter_carries.claimed_until is 'a worker has claimed the carry until then; null: none has';
comment on column meter_carries.next_attempt_at is 'earliest time of the next attempt to create the invoice item';
comment on column meter_carries.settled_at is 'when the units were reported or billed; null: they wait';
comment on column meter_carries.created_at is 'when the row was written';
