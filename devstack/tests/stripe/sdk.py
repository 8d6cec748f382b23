"""Stripe's own SDK calls the fake Stripe as a billing service does, from the catalogue to the cancellation.

Called by sdk.rs with the double's URL, key and webhook secret; `/_double` controls time and the customer's clicks.
"""

import hashlib
import hmac
import json
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import stripe

URL, KEY, SECRET = sys.argv[1:4]
MONTH = 31 * 86_400
client = stripe.StripeClient(
    KEY,
    base_addresses={"api": URL},
    http_client=stripe.UrllibClient(),
    max_network_retries=0,
)
v1 = client.v1


def double(path, body=None, method=None):
    """One call to `/_double`."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{URL}/_double{path}", data, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def now():
    return double("/clock")["now"]


def turn(**by):
    return double("/clock", by)["now"]


def eventually(what, holds):
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, f"not within 30 s: {what}"
        time.sleep(0.01)


def raises(kind, call, **expected):
    try:
        call()
    except kind as error:
        for name, value in expected.items():
            assert getattr(error, name) == value, (name, getattr(error, name), str(error))
        return error
    raise AssertionError(f"no {kind.__name__}")


# --- a receiver of webhooks that accepts only what the SDK can verify
received = {}


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        event = stripe.Webhook.construct_event(body, self.headers["stripe-signature"], SECRET)
        received[event.id] = event
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


receiver = HTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=receiver.serve_forever, daemon=True).start()
endpoint = double("/webhooks", {"url": f"http://127.0.0.1:{receiver.server_port}/"})

# --- authentication
stranger = stripe.StripeClient("sk_test_wrong", base_addresses={"api": URL}, http_client=stripe.UrllibClient())
raises(stripe.AuthenticationError, lambda: stranger.v1.customers.list(), http_status=401)

# --- customers
customer = v1.customers.create(
    {"email": "ada@example.com", "name": "Ada", "metadata": {"account": "a1"}},
    {"idempotency_key": "customer-1"},
)
again = v1.customers.create(
    {"name": "Ada", "metadata": {"account": "a1"}, "email": "ada@example.com"},
    {"idempotency_key": "customer-1"},
)
assert again.id == customer.id
assert again.last_response.headers["idempotent-replayed"] == "true"
raises(
    stripe.IdempotencyError,
    lambda: v1.customers.create({"email": "bob@example.com"}, {"idempotency_key": "customer-1"}),
    http_status=400,
)
assert [c.id for c in v1.customers.list({"email": "ada@example.com"}).data] == [customer.id]
assert v1.customers.update(customer.id, {"metadata": {"tier": "gold"}}).metadata.to_dict() == {"account": "a1", "tier": "gold"}
raises(stripe.InvalidRequestError, lambda: v1.customers.retrieve("cus_none"), code="resource_missing", http_status=404)

# --- the catalogue
meter = v1.billing.meters.create(
    {
        "display_name": "API calls",
        "event_name": "api_call",
        "default_aggregation": {"formula": "sum"},
        "customer_mapping": {"type": "by_id", "event_payload_key": "stripe_customer_id"},
        "value_settings": {"event_payload_key": "value"},
    }
)


def plan(name, cents, included):
    product = v1.products.create({"name": name, "metadata": {"plan": name.lower()}})
    base = v1.prices.create(
        {
            "product": product.id,
            "currency": "usd",
            "unit_amount": cents,
            "recurring": {"interval": "month"},
            "lookup_key": f"{name.lower()}_month",
        }
    )
    metered = v1.prices.create(
        {
            "product": product.id,
            "currency": "usd",
            "billing_scheme": "tiered",
            "tiers_mode": "graduated",
            "tiers": [{"up_to": included, "unit_amount": 0}, {"up_to": "inf", "unit_amount_decimal": "0.5"}],
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
            "lookup_key": f"{name.lower()}_api_call",
        }
    )
    return base, metered


pro, pro_calls = plan("Pro", 2_900, 1_000)
enterprise, enterprise_calls = plan("Enterprise", 29_900, 10_000)
found = v1.prices.list({"lookup_keys": ["pro_month", "enterprise_month"], "active": True})
assert {p.lookup_key: p.id for p in found.data} == {"pro_month": pro.id, "enterprise_month": enterprise.id}
with_tiers = v1.prices.retrieve(pro_calls.id, {"expand": ["tiers", "product"]})
assert [t.up_to for t in with_tiers.tiers] == [1_000, None] and with_tiers.product.name == "Pro"
raises(
    stripe.InvalidRequestError,
    lambda: v1.prices.create(
        {
            "product": pro.product,
            "currency": "usd",
            "unit_amount": 1,
            "recurring": {"interval": "month"},
            "lookup_key": "pro_month",
        }
    ),
    param="lookup_key",
)

# --- checkout, which creates the subscription when it is completed
session = v1.checkout.sessions.create(
    {
        "mode": "subscription",
        "customer": customer.id,
        "line_items": [{"price": pro.id, "quantity": 1}, {"price": pro_calls.id}],
        "success_url": "https://example.com/done?session={CHECKOUT_SESSION_ID}",
        "cancel_url": "https://example.com/plans",
        "client_reference_id": "a1",
        "subscription_data": {"metadata": {"account": "a1"}},
    }
)
assert session.status == "open" and session.subscription is None and session.amount_total == 2_900
page = urllib.request.urlopen(session.url, timeout=30).read().decode()
assert "Pay $29.00" in page and "Pay with a failing card" in page
declined = urllib.request.urlopen(session.url + "/decline", b"", timeout=30).read().decode()
assert "Your card was declined." in declined
assert v1.subscriptions.list({"customer": customer.id}).data == []
double(f"/checkout/{session.id}/complete", {})
session = v1.checkout.sessions.retrieve(session.id, {"expand": ["subscription", "line_items"]})
assert session.status == "complete" and session.payment_status == "paid" and len(session.line_items.data) == 2
subscription = session.subscription
assert subscription.status == "active" and subscription.metadata["account"] == "a1"
items = {item.price.id: item for item in subscription["items"].data}
start, end = items[pro.id].current_period_start, items[pro.id].current_period_end
assert 28 * 86_400 <= end - start <= MONTH and not hasattr(subscription, "current_period_end")

# --- usage
for n, units in enumerate([1, 10, 100, 1_000]):
    event = {"event_name": "api_call", "identifier": f"report-{n}", "timestamp": start + 60 * n}
    event["payload"] = {"stripe_customer_id": customer.id, "value": str(units)}
    assert v1.billing.meter_events.create(event).identifier == f"report-{n}"
error = raises(stripe.InvalidRequestError, lambda: v1.billing.meter_events.create(event), http_status=400, code=None)
assert "An event already exists with identifier report-3" in str(error)
assert error.headers["stripe-should-retry"] == "false"
late = {"event_name": "api_call", "payload": {"stripe_customer_id": customer.id, "value": "1"}}
raises(stripe.InvalidRequestError, lambda: v1.billing.meter_events.create({**late, "timestamp": now() - 36 * 86_400}))
raises(stripe.InvalidRequestError, lambda: v1.billing.meter_events.create({**late, "timestamp": now() + 400}))
raises(
    stripe.InvalidRequestError,
    lambda: v1.billing.meter_events.create({**late, "payload": {"stripe_customer_id": customer.id, "value": "1.5"}}),
)
mistake = {**late, "identifier": "mistake", "payload": {"stripe_customer_id": customer.id, "value": "5000"}}
v1.billing.meter_events.create({**mistake, "timestamp": start + 30})
v1.billing.meter_event_adjustments.create({"event_name": "api_call", "type": "cancel", "cancel": {"identifier": "mistake"}})
span = {"customer": customer.id, "start_time": start // 60 * 60, "end_time": end // 60 * 60 + 60}
summaries = v1.billing.meters.event_summaries.list(meter.id, span).data
assert sum(s.aggregated_value for s in summaries) == 1_111
raises(
    stripe.InvalidRequestError,
    lambda: v1.billing.meters.event_summaries.list(meter.id, {**span, "start_time": span["start_time"] + 1}),
)

# --- an upgrade in the middle of a period, previewed and then made
half = turn(to=(start + end) // 2)
change = {
    "items": [{"id": items[pro.id].id, "price": enterprise.id}, {"id": items[pro_calls.id].id, "price": enterprise_calls.id}],
    "proration_behavior": "always_invoice",
}
preview = v1.invoices.create_preview({"subscription": subscription.id, "subscription_details": change})
amounts = sorted(line.amount for line in preview.lines.data)
assert amounts[0] < 0 < amounts[-1] and preview.id.startswith("upcoming_in_")
assert abs(preview.total - (29_900 - 2_900) / 2 - 56) < 2, preview.total  # and 111 calls past the 1,000 included at half a cent
double(f"/customers/{customer.id}/card", {"card": "declines"})
waiting = v1.subscriptions.update(
    subscription.id, {**change, "payment_behavior": "pending_if_incomplete", "expand": ["latest_invoice"]}
)
assert waiting.pending_update is not None and waiting.latest_invoice.status == "open"
assert pro.id in [item.price.id for item in waiting["items"].data]
raises(
    stripe.InvalidRequestError,
    lambda: v1.subscriptions.update(subscription.id, {"metadata": {"x": "y"}, "payment_behavior": "pending_if_incomplete"}),
    param="metadata",
)
double(f"/customers/{customer.id}/card", {"card": "ok"})
assert v1.invoices.pay(waiting.latest_invoice.id).status == "paid"
upgraded = v1.subscriptions.retrieve(subscription.id)
assert upgraded.pending_update is None
assert {item.price.id for item in upgraded["items"].data} == {enterprise.id, enterprise_calls.id}
assert {item.current_period_end for item in upgraded["items"].data} == {end}

# --- a downgrade at the end of the period, by a schedule
schedule = v1.subscription_schedules.create({"from_subscription": subscription.id})
phase = schedule.phases[0]
here = {"items": [{"price": i.price, "quantity": i.quantity} if i.quantity else {"price": i.price} for i in phase["items"]]}
v1.subscription_schedules.update(
    schedule.id,
    {
        "end_behavior": "release",
        "phases": [
            {**here, "start_date": phase.start_date, "end_date": phase.end_date},
            {"items": [{"price": pro.id, "quantity": 1}, {"price": pro_calls.id}], "duration": {"interval": "month"}},
        ],
    },
)
error = raises(stripe.InvalidRequestError, lambda: v1.subscriptions.update(subscription.id, {"cancel_at_period_end": True}))
assert schedule.id in str(error)
v1.billing.meter_events.create(
    {
        "event_name": "api_call",
        "identifier": "late",
        "timestamp": now(),
        "payload": {"stripe_customer_id": customer.id, "value": "10200"},
    }
)
turn(to=end + 60)
renewed = v1.subscriptions.retrieve(subscription.id, {"expand": ["latest_invoice"]})
assert {item.price.id for item in renewed["items"].data} == {pro.id, pro_calls.id}
draft = renewed.latest_invoice
assert draft.status == "draft" and draft.billing_reason == "subscription_cycle"
assert draft.parent.subscription_details.subscription == subscription.id
assert draft.total == 2_900 + 100, draft.total  # 200 calls past the 10,000 included, at half a cent
# During the draft hour, late usage of the period still counts.
last = {"event_name": "api_call", "identifier": "last", "timestamp": end - 1}
v1.billing.meter_events.create({**last, "payload": {"stripe_customer_id": customer.id, "value": "200"}})
turn(by=3_600)
paid = v1.invoices.retrieve(draft.id)
assert paid.status == "paid" and paid.total == 2_900 + 200 and paid.amount_paid == paid.total
lines = list(v1.invoices.line_items.list(draft.id).auto_paging_iter())
assert sum(line.amount for line in lines) == paid.total

# --- the schedule ends after its second phase
turn(by=MONTH)
assert v1.subscription_schedules.retrieve(schedule.id).status == "released"
assert v1.subscriptions.retrieve(subscription.id).schedule is None

# --- a portal session, and lists in pages
cancels = {"subscription_cancel": {"enabled": True}}
configuration = v1.billing_portal.configurations.create({"features": cancels, "metadata": {"trendit": "1"}})
assert configuration.features.subscription_cancel.mode == "at_period_end" and not configuration.is_default
portal = v1.billing_portal.sessions.create(
    {"customer": customer.id, "return_url": "https://example.com/", "configuration": configuration.id}
)
assert "Cancel at the end of the period" in urllib.request.urlopen(portal.url, timeout=30).read().decode()
v1.invoice_items.create({"customer": customer.id, "amount": 500, "currency": "usd", "description": "Late usage"})
assert "Late usage" in [line.description for line in v1.invoices.create_preview({"customer": customer.id}).lines.data]
listed = [invoice.id for invoice in v1.invoices.list({"customer": customer.id, "limit": 1}).auto_paging_iter()]
assert len(listed) == len(set(listed)) >= 4

# --- the cancellation, which bills usage and pending items
turn(by=60)
v1.billing.meter_events.create(
    {**late, "identifier": "very-last", "payload": {"stripe_customer_id": customer.id, "value": "1100"}}
)
turn(by=60)
canceled = v1.subscriptions.cancel(subscription.id, {"invoice_now": True, "prorate": True, "expand": ["latest_invoice"]})
assert canceled.status == "canceled" and canceled.ended_at is not None
final = {line.description: line.amount for line in canceled.latest_invoice.lines.data}
assert final["Late usage"] == 500 and any(amount < 0 for amount in final.values()), final
assert any("Tier 2" in what and amount == 50 for what, amount in final.items()), final

# --- incomplete first payments
bob = v1.customers.create({"email": "bob@example.com"})
incomplete = v1.subscriptions.create(
    {
        "customer": bob.id,
        "items": [{"price": pro.id}],
        "payment_behavior": "default_incomplete",
        "expand": ["latest_invoice.confirmation_secret", "latest_invoice.payments"],
    }
)
assert incomplete.status == "incomplete"
assert "_secret_" in incomplete.latest_invoice.confirmation_secret.client_secret
assert incomplete.latest_invoice.payments.data[0].payment.payment_intent.startswith("pi_")
double(f"/invoices/{incomplete.latest_invoice.id}/pay", {})
assert v1.subscriptions.retrieve(incomplete.id).status == "active"
assert v1.customers.delete(bob.id).deleted is True
assert v1.subscriptions.retrieve(incomplete.id).status == "canceled"

# --- the events, in the list and at the endpoint
events = list(v1.events.list({"limit": 100}).auto_paging_iter())
kinds = {event.type for event in events}
for kind in [
    "customer.created",
    "customer.updated",
    "customer.deleted",
    "checkout.session.completed",
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "customer.subscription.pending_update_applied",
    "invoice.created",
    "invoice.finalized",
    "invoice.paid",
    "invoice.payment_succeeded",
    "invoice.payment_failed",
    "invoice.upcoming",
    "subscription_schedule.created",
    "subscription_schedule.updated",
    "subscription_schedule.released",
]:
    assert kind in kinds, kind
eventually("every event is delivered", lambda: {event.id for event in events} <= set(received))
eventually("all are acknowledged", lambda: v1.events.list({"delivery_success": False}).data == [])
some = next(event for event in events if event.type == "customer.subscription.updated")
assert v1.events.retrieve(some.id).data.object.object == "subscription"
ended = v1.events.list({"type": "customer.subscription.deleted", "created": {"gte": half}}).data
assert len(ended) == 2

# --- own endpoints: a secret that is shown once, and a fixed version
mine = v1.webhook_endpoints.create(
    {"url": f"http://127.0.0.1:{receiver.server_port}/", "enabled_events": ["invoice.paid"], "api_version": "2026-09-30.endive"}
)
assert mine.secret.startswith("whsec_") and not hasattr(v1.webhook_endpoints.retrieve(mine.id), "secret")
assert mine.api_version == "2026-09-30.endive"
assert v1.webhook_endpoints.delete(mine.id).deleted is True
signed = f"t={int(time.time())},v1=" + hmac.new(SECRET.encode(), b"0.{}", hashlib.sha256).hexdigest()
raises(stripe.SignatureVerificationError, lambda: stripe.Webhook.construct_event("{}", signed, SECRET))

# --- a discount, a test clock, a credit note and the balance
off = v1.coupons.create({"percent_off": 10, "duration": "forever"})
code = v1.promotion_codes.create({"promotion": {"type": "coupon", "coupon": off.id}, "code": "TENTH"})
clock = v1.test_helpers.test_clocks.create({"frozen_time": now() - 40 * 86_400})
cleo = v1.customers.create({"payment_method": "pm_card_visa", "test_clock": clock.id})
discounted = v1.subscriptions.create(
    {
        "customer": cleo.id,
        "items": [{"price": pro.id}],
        "discounts": [{"promotion_code": code.id}],
        "expand": ["latest_invoice", "discounts"],
    }
)
first = discounted.latest_invoice
assert first.total == 2_610 and discounted.discounts[0].source.coupon == off.id
line = {"type": "invoice_line_item", "invoice_line_item": first.lines.data[0].id, "amount": 1_000}
credit = {"invoice": first.id, "lines": [line], "credit_amount": 900}
assert v1.credit_notes.preview(credit).total == 900
note = v1.credit_notes.create({**credit, "expand": ["customer_balance_transaction"]})
assert note.customer_balance_transaction.amount == -900
end = discounted["items"].data[0].current_period_end
assert v1.test_helpers.test_clocks.advance(clock.id, {"frozen_time": end + 3_600}).status == "advancing"
renewal = v1.invoices.list({"customer": cleo.id, "limit": 1}).data[0]
assert (renewal.total, renewal.amount_paid) == (2_610, 1_710)
changes = [change.type for change in v1.customers.balance_transactions.list(cleo.id).data]
assert changes == ["applied_to_invoice", "credit_note"]

assert double("/violations") == [], double("/violations")

# --- unknown paths and parameters are refused, and are violations
raises(stripe.InvalidRequestError, lambda: v1.customers.create({"nmae": "x"}), param="nmae", code="parameter_unknown")
raises(stripe.InvalidRequestError, lambda: v1.subscriptions.update(subscription.id, {"proration_behavior": "immediately"}))
raises(stripe.InvalidRequestError, lambda: v1.tax_rates.list(), http_status=404)
assert len(double("/violations")) == 3, double("/violations")
print("ok")
