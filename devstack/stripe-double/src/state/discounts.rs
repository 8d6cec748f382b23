//! Finds coupons and promotion codes, and makes them discounts.

use crate::failure::Failure;
use crate::form::Param;
use crate::objects::coupon::{Coupon, Discount, Duration, Off, PromotionCode, Redeemed};
use crate::objects::invoice::Invoice;
use crate::state::State;

impl State {
    /// The coupons that `discounts` of a call names.
    pub(crate) fn given_discounts(
        &self,
        params: &Param,
        customer: Option<&str>,
        currency: &str,
    ) -> Result<Vec<Redeemed>, Failure> {
        let mut redeemed = Vec::new();
        for (n, given) in params.list("discounts").into_iter().enumerate() {
            let here = |name: &str| format!("discounts[{n}][{name}]");
            let found = match (given.filled("coupon"), given.filled("promotion_code")) {
                (Some(coupon), None) => {
                    self.valid_coupon(coupon, currency)
                        .map_err(|failure| failure.param(here("coupon")))?;
                    (coupon.to_owned(), None)
                }
                (None, Some(id)) => self
                    .valid_code(self.promotion_codes.get(id), id, customer, currency)
                    .map_err(|failure| failure.param(here("promotion_code")))?,
                _ => return Err(Failure::gap("a discount that is neither a coupon nor a promotion code")),
            };
            redeemed.push(found);
        }
        Ok(redeemed)
    }

    /// The coupon behind a code that a customer typed.
    pub(crate) fn typed_code(&self, code: &str, customer: Option<&str>, currency: &str) -> Result<Redeemed, Failure> {
        let codes = self.promotion_codes.iter().map(|(_, code)| code);
        let named: Vec<_> = codes.filter(|one| one.code.eq_ignore_ascii_case(code)).collect();
        let active = named.iter().find(|code| code.active);
        self.valid_code(active.or(named.first()).copied(), code, customer, currency)
    }

    fn valid_code(
        &self,
        code: Option<&PromotionCode>,
        name: &str,
        customer: Option<&str>,
        currency: &str,
    ) -> Result<Redeemed, Failure> {
        let code = code.ok_or_else(|| Failure::no_such("promotion code", name))?;
        if !code.is_valid(customer, self.now()) {
            let message = "This promotion code cannot be redeemed because it has expired, or is for another customer.";
            return Err(Failure::invalid(message).code("promotion_code_invalid"));
        }
        self.valid_coupon(&code.coupon, currency)?;
        Ok((code.coupon.clone(), Some(code.id.clone())))
    }

    fn valid_coupon(&self, id: &str, currency: &str) -> Result<&Coupon, Failure> {
        let coupon = self.coupons.get(id).filter(|coupon| !coupon.deleted);
        let coupon = coupon.ok_or_else(|| Failure::no_such("coupon", id))?;
        if !coupon.is_valid(self.now()) {
            return Err(Failure::invalid(format!("Coupon expired: {id}")).code("coupon_expired"));
        }
        if !coupon.has_currency(currency) {
            // Stripe's own sentence for this refusal is not documented.
            let message = format!("The coupon `{id}` is for another currency than {currency}.");
            return Err(Failure::invalid(message));
        }
        Ok(coupon)
    }

    /// Makes the coupons discounts of a subscription and returns their ids.
    pub(crate) fn redeem(&mut self, coupons: &[Redeemed], customer: &str, subscription: &str) -> Vec<String> {
        let mut discounts = Vec::new();
        for (coupon, code) in coupons {
            let start = self.now();
            if let Some(code) = code.as_deref().and_then(|id| self.promotion_codes.get_mut(id)) {
                code.redeemed += 1;
            }
            let Some(coupon) = self.coupons.get_mut(coupon) else {
                continue;
            };
            coupon.redeemed += 1;
            let coupon = coupon.clone();
            let id = self.ids.next("di");
            let discount = Discount {
                id: id.clone(),
                coupon: coupon.id.clone(),
                promotion_code: code.clone(),
                customer: customer.to_owned(),
                subscription: subscription.to_owned(),
                start,
                end: coupon.end(start),
                off: coupon.off.clone(),
                is_for_one_invoice: coupon.duration == Duration::Once,
                is_used: false,
            };
            let object = discount.render();
            self.discounts.insert(&id, discount);
            self.emit("customer.discount.created", object, None);
            discounts.push(id);
        }
        discounts
    }

    /// What these coupons take off.
    pub(crate) fn offs(&self, coupons: &[Redeemed]) -> Vec<Off> {
        let coupons = coupons.iter().filter_map(|(id, _)| self.coupons.get(id));
        coupons.map(|coupon| coupon.off.clone()).collect()
    }

    /// The discounts of a subscription that an invoice of this time has.
    pub(crate) fn running_discounts(&self, subscription: &str, at: i64) -> Vec<String> {
        let subscription = self.subscriptions.get(subscription);
        let discounts = subscription.map(|subscription| subscription.discounts.as_slice());
        let running = |id: &&String| self.discounts.get(id).is_some_and(|discount| discount.is_running(at));
        discounts.unwrap_or_default().iter().filter(running).cloned().collect()
    }

    /// Gives an invoice the discounts and the tax of its subscription, as they are at the end of the invoice's period.
    pub(crate) fn inherit_terms(&self, invoice: &mut Invoice) {
        let Some(id) = invoice.subscription.as_deref() else {
            return;
        };
        let taxed = self
            .subscriptions
            .get(id)
            .is_some_and(|subscription| subscription.automatic_tax);
        invoice.tax_basis_points = self.settings.tax_basis_points.filter(|_| taxed);
        invoice.discounts = self.running_discounts(id, invoice.period.1.max(invoice.created));
    }

    /// Ends the discounts for one invoice of a subscription that has had that invoice.
    pub(crate) fn use_up_discounts(&mut self, subscription: &str) {
        for id in self.running_discounts(subscription, self.now()) {
            let discount = self
                .discounts
                .get_mut(&id)
                .filter(|discount| discount.is_for_one_invoice);
            let Some(discount) = discount else { continue };
            discount.is_used = true;
            let object = discount.render();
            self.emit("customer.discount.deleted", object, None);
        }
    }
}
