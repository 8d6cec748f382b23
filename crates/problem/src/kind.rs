//! The catalogue: every problem type of every API, with its status code.

use http::StatusCode;

/// The APIs that use a problem type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// More than one API.
    Every,
    Gateway,
    /// The public billing API.
    Billing,
    Admin,
}

macro_rules! kinds {
    ($($area:ident { $($kind:ident $status:ident $error:literal $title:literal $meaning:literal $remedy:literal)* })*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind {
            $($(#[doc = $meaning] $kind,)*)*
        }

        impl Kind {
            pub const ALL: &[Self] = &[$($(Self::$kind),*),*];

            pub fn area(self) -> Area {
                match self { $($(Self::$kind)|* => Area::$area,)* }
            }

            pub fn status(self) -> StatusCode {
                match self { $($(Self::$kind => StatusCode::$status,)*)* }
            }

            /// The stable name: `error` in the body, for programs to branch on, and the anchor of its documentation.
            pub fn error(self) -> &'static str {
                match self { $($(Self::$kind => $error,)*)* }
            }

            pub fn title(self) -> &'static str {
                match self { $($(Self::$kind => $title,)*)* }
            }

            /// What happened: a sentence of the documentation.
            pub fn meaning(self) -> &'static str {
                match self { $($(Self::$kind => $meaning,)*)* }
            }

            /// What the client can do: the next sentence of the documentation.
            pub fn remedy(self) -> &'static str {
                match self { $($(Self::$kind => $remedy,)*)* }
            }
        }
    };
}

kinds! {
    Every {
        InvalidRequest BAD_REQUEST "invalid_request" "Invalid request"
            "The request is malformed, or a field has a value that is not allowed."
            "`message` names the field, what it must be, and what was sent. Correct the request; the same request fails again."
        MissingKey UNAUTHORIZED "missing_api_key" "Missing API key"
            "The request has no `Authorization` header."
            "Send `Authorization: Bearer <API key>`."
        InvalidKey UNAUTHORIZED "invalid_api_key" "Invalid API key"
            "The API key is malformed, unknown, expired or revoked."
            "Check that the whole key is sent. If it is, ask the operator for a new key."
        KeyInUrl UNAUTHORIZED "api_key_in_url" "API key in the URL"
            "API keys must not be sent in the URL, because URLs are logged."
            "Send the key in the `Authorization` header, and revoke this one if the URL was logged."
        ScopeMissing FORBIDDEN "scope_missing" "API key lacks a scope"
            "The API key is valid, but does not have the scope that the request needs. Nothing was counted or changed."
            "`message` names the scope. Use a key that has it, or ask the operator to add it: `billing-worker keys scope <key> --add <scope>`, or `POST /admin/keys/{key}/scopes`."
        UnknownRoute NOT_FOUND "unknown_route" "Unknown route"
            "No route has this method and path."
            "Check both: the [API](#api) lists every route."
        UnknownUsageType NOT_FOUND "unknown_usage_type" "Unknown usage type"
            "The plan catalogue has no such usage type."
            "`message` lists the known ones."
        MethodNotAllowed METHOD_NOT_ALLOWED "method_not_allowed" "Method not allowed"
            "The path does not allow this method."
            "`message` and the header `Allow` list the allowed methods."
        BodyTimeout REQUEST_TIMEOUT "body_timeout" "Body timeout"
            "The request's body arrived too slowly, or stopped. Nothing was counted."
            "Send it again."
        TooLarge PAYLOAD_TOO_LARGE "too_large" "Request too large"
            "The body has too many bytes, or a batch has too many events."
            "`message` says how many are allowed. Send several smaller requests."
        UriTooLong URI_TOO_LONG "uri_too_long" "URI too long"
            "The request's URI has more than 65,534 bytes, and `HEAD_BYTES_MAX` allows so large a head. With its default (32,768) such a request gets a 431. The connection is closed."
            "Send the data in the body."
        HeadTooLarge REQUEST_HEADER_FIELDS_TOO_LARGE "head_too_large" "Request head too large"
            "The request's head has too many bytes (`HEAD_BYTES_MAX`, by default 32,768; 16,384 on admin ports), more than 100 headers, or an impossible `Content-Length`. The connection is closed."
            "`message` says which limit it is. Send fewer or smaller headers, or a shorter URL."
        Internal INTERNAL_SERVER_ERROR "internal_error" "Internal error"
            "The service failed. The failure is in its log, with the request's id."
            "Report the request's id to the operator."
        KeyUnchecked SERVICE_UNAVAILABLE "authentication_unavailable" "API keys cannot be checked"
            "The database is unavailable, and the key is not cached, or a change of the key or its account is not read yet. Nothing was counted."
            "Try again after `Retry-After` seconds."
    }
    Gateway {
        SubscriptionRequired PAYMENT_REQUIRED "subscription_required" "Subscription required"
            "The account's subscription is not paid."
            "Pay the open invoice: `hosted_invoice_url` is its page. Without it, `upgrade_url` shows where."
        AccountSuspended FORBIDDEN "account_suspended" "Account suspended"
            "The operator suspended the account. Its requests are neither forwarded nor counted."
            "Ask the operator why. A payment does not end a suspension."
        KeyUnderWay CONFLICT "idempotency_key_under_way" "Request still in progress"
            "Another request with the same `Idempotency-Key` is not answered yet."
            "Try again after `Retry-After` seconds to get its answer."
        UnsupportedMediaType UNSUPPORTED_MEDIA_TYPE "unsupported_media_type" "Unsupported media type"
            "The body must be uncompressed JSON."
            "Send `Content-Type: application/json`, and no `Content-Encoding`."
        KeyReused UNPROCESSABLE_ENTITY "idempotency_key_reused" "Idempotency-Key reused"
            "The `Idempotency-Key` was sent before, with another request."
            "Use a new key for each new request."
        RateLimitExceeded TOO_MANY_REQUESTS "rate_limit_exceeded" "Monthly limit reached"
            "The plan's limit for the usage type leaves fewer units than the request costs. Nothing was counted."
            "Wait for the next period (`Retry-After`), send a cheaper request, or change the plan at `upgrade_url`. `message` says if further units need [a paid subscription](billing.md#usage-without-a-payer)."
        SpendCapReached TOO_MANY_REQUESTS "spend_cap_reached" "Spend cap reached"
            "The request would cost more than the account wants to pay for usage in this period ([spend cap](billing.md#spend-cap)). Nothing was counted."
            "Raise or remove the cap (`PUT` or `DELETE /billing/spend-cap`), or wait for the next period (`resets_at`, `Retry-After`)."
        BurstLimitExceeded TOO_MANY_REQUESTS "burst_limit_exceeded" "Too many requests per second"
            "The API key sent more requests per second than its plan allows. Nothing was counted."
            "Try again after `Retry-After` seconds, and send more slowly."
        UpgradeNotSupported NOT_IMPLEMENTED "upgrade_not_supported" "Protocol upgrade not supported"
            "The gateway does not pass on protocol upgrades such as WebSocket."
            "Send the request without the `Upgrade` header."
        UpstreamUnreachable BAD_GATEWAY "upstream_unreachable" "Upstream unreachable"
            "The API behind the gateway cannot be reached. Nothing was charged."
            "Try again later."
        UpstreamInvalid BAD_GATEWAY "upstream_invalid_response" "Invalid upstream response"
            "The API behind the gateway sent an invalid response. Nothing was charged."
            "Try again later. The upstream may have done what the request asked."
        QuotaUnavailable SERVICE_UNAVAILABLE "quota_unavailable" "Quota unavailable"
            "The quota cannot be checked now. Nothing was counted."
            "Try again after `Retry-After` seconds."
        RecordingUnavailable SERVICE_UNAVAILABLE "recording_unavailable" "Recording unavailable"
            "Usage cannot be recorded now. Nothing was counted."
            "Try again after `Retry-After` seconds."
        ClockWrong SERVICE_UNAVAILABLE "clock_wrong" "Clock wrong"
            "The clock of this gateway is wrong, so it admits no requests. Nothing was counted."
            "Try again after `Retry-After` seconds. Other gateways may answer."
        NotRecorded SERVICE_UNAVAILABLE "not_recorded" "Usage not recorded"
            "The upstream answered, but the usage could not be recorded. Nothing was charged."
            "Try again after `Retry-After` seconds. The upstream may have done what the request asked."
        UpstreamTimeout GATEWAY_TIMEOUT "upstream_timeout" "Upstream timeout"
            "The API behind the gateway did not answer in time. Nothing was charged."
            "Try again later. The upstream may have done what the request asked."
        OutcomeUnknown GATEWAY_TIMEOUT "outcome_unknown" "Outcome unknown"
            "The gateway does not know yet whether the usage was recorded. It is counted at most once."
            "Send the request again with the same `Idempotency-Key`: it is counted once."
    }
    Billing {
        AlreadySubscribed CONFLICT "already_subscribed" "Already subscribed"
            "The account has a subscription."
            "Change it with `POST /billing/upgrade`, or cancel it."
        UnknownSubscription CONFLICT "unknown_subscription" "Unknown subscription"
            "The account's customer in Stripe pays for a subscription to none of the plans. A second one would be billed as well."
            "The operator cancels the subscription, moves it to a plan, or marks it as one for another product."
        NotSubscribed CONFLICT "not_subscribed" "Not subscribed"
            "The account has no subscription."
            "Start one with `POST /billing/create-checkout-session`."
        SamePlan CONFLICT "same_plan" "Same plan"
            "The account is on this plan already."
            "No action is needed."
        NotForSale UNPROCESSABLE_ENTITY "not_for_sale" "Plan not for sale"
            "Nobody can subscribe to this plan through the API."
            "`message` says what to do instead."
        IntervalNotOffered UNPROCESSABLE_ENTITY "interval_not_offered" "Interval not offered"
            "The plan is not sold for this `interval`. Nothing was changed."
            "`message` lists the intervals that the plan is sold for."
        IntervalChangeRefused CONFLICT "interval_change_refused" "Change of the interval refused"
            "A subscription changes between monthly and yearly payments only with the next period, and only if neither plan bills units. Nothing was changed."
            "Send `\"when\": \"period_end\"`. If a plan bills units, cancel the subscription with the end of its period, and subscribe again from then on."
        Conflict CONFLICT "conflict" "Conflict"
            "The account's state does not allow this now, often because another change is in progress."
            "`message` gives the reason."
        ChangedTooOften CONFLICT "changed_too_often" "Plan changed too often"
            "The usage prices of the billing period changed as often as they can: the usage of each plan is billed at its own prices. Nothing was changed."
            "Try again when the usage of the period is billed, or change the plan with the next period. `message` says when."
        SpendCapBelowUsage UNPROCESSABLE_ENTITY "spend_cap_below_usage" "Spend cap below usage"
            "The usage of the billing period already costs more than the cap. Nothing was changed."
            "Set the cap to `used_cents`, so that no further usage is billed, or to more."
        PreviewExpired UNPROCESSABLE_ENTITY "preview_expired" "Preview expired"
            "No preview with this `proration_date` is valid: it is older than `valid_until`, for another plan, or there was none. Nothing was changed."
            "Ask for another preview, and send its `proration_date`."
        PreviewOutdated CONFLICT "preview_outdated" "Preview outdated"
            "The upgrade costs something else than the preview said, because an invoice item or the customer's balance changed. Nothing was changed."
            "Ask for another preview, and send its `proration_date`."
        TooManyRequests TOO_MANY_REQUESTS "too_many_requests" "Too many requests at once"
            "Too many requests are in progress: of this API key, of its account, of all accounts, or to Stripe for the account. Nothing was changed."
            "Try again after `Retry-After` seconds, with fewer requests at the same time."
        PaymentRequired PAYMENT_REQUIRED "payment_required" "Invoice not paid"
            "The account owes an invoice (`invoice_id`). Nothing was changed."
            "Pay it on its page (`hosted_invoice_url`), or in the customer portal (`POST /billing/portal-session`). Then try again."
        PaymentActionRequired PAYMENT_REQUIRED "payment_action_required" "Payment must be confirmed"
            "The bank asks the customer to confirm the payment. The plan has not changed yet, and nothing was charged."
            "Confirm the payment in a payment form with `client_secret`, or on the page of the invoice (`hosted_invoice_url`). The plan then changes. `expires_at` is the latest time for that."
        PaymentFailed PAYMENT_REQUIRED "payment_failed" "Payment failed"
            "The payment method was declined. The plan did not change, and no invoice stays open."
            "Use another payment method."
        PricesMissing SERVICE_UNAVAILABLE "prices_missing" "Prices missing in Stripe"
            "Stripe has no price for the plan."
            "The operator runs `billing-worker stripe sync`."
        WrongMode CONFLICT "wrong_mode" "Wrong Stripe mode"
            "The account is a customer in Stripe's live mode, and this service uses the test mode, or vice versa."
            "The operator uses the key of the right mode."
        UsageNotStored SERVICE_UNAVAILABLE "usage_not_stored" "Usage not stored yet"
            "The change bills the usage so far, and some acknowledged usage is not in ClickHouse yet. Nothing was changed."
            "Try again after `Retry-After` seconds. If it lasts, an operator looks at the ingestors, and at gateways that spool."
        UsageNotReported SERVICE_UNAVAILABLE "usage_not_reported" "Usage not reported yet"
            "Before the change, all usage must be reported to Stripe. Before a cancellation at once, Stripe must also have counted it. That failed. Nothing was changed."
            "Try again after `Retry-After` seconds."
        CurrencyNotOffered UNPROCESSABLE_ENTITY "currency_not_offered" "Plan not sold in this currency"
            "The plan has no price in the currency. Nothing was changed."
            "`message` names the currencies of the plan. Send one of them, or choose another plan: `GET /billing/plans` shows all prices."
        CurrencyBound CONFLICT "currency_bound" "Account pays in another currency"
            "The account pays in one currency, always in that of the first plan that it paid for. The request asks for another one, or for a plan that is not sold in it. Nothing was changed."
            "`message` names the currency. Leave out `currency`, or choose a plan that is sold in it (`GET /billing/plans`)."
        CurrencyMismatch CONFLICT "currency_mismatch" "Currency mismatch"
            "The customer has a subscription or an open item in Stripe in another currency than the plan's price."
            "End what uses the other currency in the customer portal (`POST /billing/portal-session`), or ask the operator."
        PaymentMethodUnsupported CONFLICT "payment_method_unsupported" "Payment method not supported"
            "The account's payment method, such as a bank debit, does not allow this change. The plan did not change."
            "Add a card in the customer portal (`POST /billing/portal-session`), or change the plan with the next period: send `\"when\": \"period_end\"`."
        PriceInactive CONFLICT "price_inactive" "Price not active"
            "A price of the plan or of the subscription is archived in Stripe. The plan did not change."
            "The operator activates the price in Stripe, or runs `billing-worker stripe sync`."
        PortalNotConfigured CONFLICT "portal_not_configured" "Customer portal not configured"
            "Stripe's customer portal has no configuration."
            "The operator runs `billing-worker stripe sync`."
        MissingInStripe CONFLICT "missing_in_stripe" "Missing in Stripe"
            "An object that the request needs, such as the account's customer, does not exist in Stripe, or only in the other mode (live or test)."
            "The operator checks that `STRIPE_SECRET_KEY` belongs to the right Stripe account and mode, and runs `billing-worker stripe sync`."
        AmountNotChargeable UNPROCESSABLE_ENTITY "amount_not_chargeable" "Amount not chargeable"
            "The amount is below the smallest or above the largest amount that Stripe charges."
            "Choose another plan. The operator changes the plan's price."
        BillingAddressMissing UNPROCESSABLE_ENTITY "billing_address_missing" "Billing address missing"
            "Stripe calculates tax, and the customer has no valid billing address."
            "Use the checkout, which asks for it, or add it in the customer portal."
        StripeRefused UNPROCESSABLE_ENTITY "stripe_refused" "Stripe refused the request"
            "Stripe refuses what the request needs, and refuses it again if you repeat the request."
            "Report the request's id to the operator: the log of the billing worker has Stripe's reason."
        UnknownInvoice NOT_FOUND "unknown_invoice" "Unknown invoice"
            "The account has no such invoice."
            "Check the id: `GET /billing/invoices` lists them."
        ContradictoryTier UNPROCESSABLE_ENTITY "contradictory_tier" "Contradictory tier"
            "The query string and the body name different plans in `tier`."
            "Send `tier` in one place."
        StripeNotConfigured SERVICE_UNAVAILABLE "stripe_not_configured" "Stripe not configured"
            "The service has no Stripe key, or one that Stripe does not accept."
            "The operator sets `STRIPE_SECRET_KEY`."
        StripeUnavailable SERVICE_UNAVAILABLE "stripe_unavailable" "Stripe unavailable"
            "Stripe did not answer. Nothing is billed twice."
            "Try again after `Retry-After` seconds."
        WebhookRefused BAD_REQUEST "webhook_refused" "Webhook refused"
            "The webhook has no valid signature, or is too old."
            "Check that `STRIPE_WEBHOOK_SECRETS` has the endpoint's secret, and that the clocks are right."
        WebhooksClosed SERVICE_UNAVAILABLE "webhooks_closed" "Webhooks closed"
            "The service has no webhook secret, so it accepts no webhook."
            "The operator sets `STRIPE_WEBHOOK_SECRETS`."
        UnknownPlan NOT_FOUND "unknown_plan" "Unknown plan"
            "The plan catalogue has no such plan."
            "`message` lists the known ones."
        DatabaseUnavailable SERVICE_UNAVAILABLE "database_unavailable" "Database unavailable"
            "The database cannot be reached. Nothing was changed."
            "Try again after `Retry-After` seconds."
        ClickHouseUnavailable SERVICE_UNAVAILABLE "clickhouse_unavailable" "ClickHouse unavailable"
            "The recorded usage cannot be read now."
            "Try again after `Retry-After` seconds."
    }
    Admin {
        Unauthorized UNAUTHORIZED "unauthorized" "Admin token required"
            "The `Authorization` header is missing or malformed, or its token is not the service's `ADMIN_TOKEN`."
            "Send `Authorization: Bearer <ADMIN_TOKEN>`."
        AdminClosed FORBIDDEN "admin_closed" "Admin API closed"
            "The service was started without an admin token."
            "The operator sets `ADMIN_TOKEN`."
        Starting SERVICE_UNAVAILABLE "starting" "Service starting"
            "The service is starting."
            "Try again after `Retry-After` seconds."
        UnknownAccount NOT_FOUND "unknown_account" "Unknown account"
            "There is no such account."
            "Check the account's id: `GET /admin/accounts` lists them."
        UnknownCustomer NOT_FOUND "unknown_customer" "Unknown customer"
            "Stripe has no such customer, or has deleted it."
            "Check its id (`cus_…`), and that it belongs to the Stripe account and mode of the service's key."
        UnknownKey NOT_FOUND "unknown_key" "Unknown API key"
            "There is no API key with this id."
            "Check the id: `GET /admin/accounts/{account}/keys` lists them."
        UnknownEvent NOT_FOUND "unknown_event" "Unknown event"
            "The account has no such usage event in ClickHouse."
            "A new event needs about a second to arrive. An event whose retention is over cannot be corrected."
        UnknownStripeEvent NOT_FOUND "unknown_stripe_event" "Unknown Stripe event"
            "There is no such Stripe event that failed."
            "Check the id. The log of the billing worker names each event that it parked."
        UnknownReport NOT_FOUND "unknown_report" "Unknown report"
            "There is no such meter report."
            "Check the identifier: `GET /admin/reports` lists them."
        UnknownRun NOT_FOUND "unknown_run" "Unknown run"
            "There is no such run of a gateway."
            "Check the id: `GET /admin/runs` lists them."
        UnknownNotice NOT_FOUND "unknown_notice" "Unknown notice"
            "There is no such usage notice."
            "Check the id."
        NoNoticeEndpoint NOT_FOUND "no_notice_endpoint" "No notice endpoint"
            "The account has no endpoint for usage notices."
            "Set one first."
        NoticeEndpointDisabled CONFLICT "notice_endpoint_disabled" "Notice endpoint disabled"
            "The account's endpoint for usage notices is disabled, because it failed too often."
            "Set its URL again to enable it."
        EmailTaken CONFLICT "email_taken" "E-mail address taken"
            "Another account has this e-mail address."
            "Use another address, or that account."
        CustomerTaken CONFLICT "customer_taken" "Customer linked elsewhere"
            "The customer in Stripe, or the account, has another link. Nothing was changed."
            "`message` says whose it is. `\"replace\": true` replaces the account's customer, if that one pays for no plan."
        KeyEnded CONFLICT "key_ended" "API key ended"
            "The API key is expired or revoked."
            "Create a new key."
        PlanInUse CONFLICT "plan_in_use" "Plan in use"
            "Accounts have a plan that the catalogue does not contain."
            "Keep the plan in the catalogue, or move the accounts first."
        VersionGone UNPROCESSABLE_ENTITY "version_gone" "Plan version gone"
            "The version of the plan does not exist, or is not the current one. Nothing was changed."
            "`billing-worker plans list` shows all versions. Accounts can only get the current version of a plan."
        OverrideNotBillable CONFLICT "override_not_billable" "Override has no price"
            "The account's plan bills the usage type. A limit of the account's own would not change what its price includes. Nothing was changed."
            "Sell the account [a plan of its own](billing.md#terms-for-one-account): with `listed = false` it is not in the price list."
        CorrectsCorrection UNPROCESSABLE_ENTITY "corrects_correction" "Event is a correction"
            "The event is a correction itself."
            "Correct the event that it corrects."
        NothingToCorrect CONFLICT "nothing_to_correct" "Nothing to correct"
            "The event has no units left to take back."
            "No action is needed."
        NotLower UNPROCESSABLE_ENTITY "not_lower" "Correction does not lower the units"
            "A correction can only lower the units of an event."
            "Send `cost_units` from 0 to less than the event has."
        CorrectionTaken CONFLICT "correction_taken" "Correction id taken"
            "The `correction_id` belongs to a correction of other events or units."
            "Use a new `correction_id`."
        ReportNotParked CONFLICT "report_not_parked" "Report not parked"
            "Only a parked report can be tried again by hand."
            "Wait: the service itself tries all other reports again."
        RunNotSpooling CONFLICT "run_not_spooling" "Run not spooling"
            "Only a run that is spooling can be given up by hand."
            "Wait: a run without heartbeats is found and settled automatically."
    }
}

impl Kind {
    /// The same request can succeed soon.
    pub fn is_temporary(self) -> bool {
        self.status() == StatusCode::SERVICE_UNAVAILABLE || matches!(self, Self::KeyUnderWay | Self::TooManyRequests)
    }

    /// The default of `detail`: [`Self::meaning`] without its full stop.
    pub fn detail(self) -> &'static str {
        match self {
            Self::UnknownRoute => "no route has this method and path: see /docs/api.md",
            other => other.meaning().trim_end_matches('.'),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_and_titles_are_unique() {
        for name in [Kind::error, Kind::title] {
            let names: HashSet<_> = Kind::ALL.iter().map(|kind| name(*kind)).collect();
            assert_eq!(names.len(), Kind::ALL.len());
        }
    }

    #[test]
    fn the_types_of_the_gateway_come_first() {
        let is_others = |kind: &Kind| matches!(kind.area(), Area::Billing | Area::Admin);
        assert!(Kind::ALL.is_sorted_by_key(is_others));
    }

    #[test]
    fn codes_are_anchors() {
        for kind in Kind::ALL {
            let is_anchor = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            assert!(kind.error().bytes().all(is_anchor), "{kind:?}");
            assert!(
                kind.meaning().ends_with('.') && kind.remedy().ends_with('.'),
                "{kind:?}"
            );
        }
    }
}
