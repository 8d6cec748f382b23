//! Expires checkout sessions.

use crate::objects::session::Status;
use crate::state::State;

pub(crate) fn expire_session(state: &mut State, id: &str) {
    state
        .sessions
        .get_mut(id)
        .into_iter()
        .for_each(|session| session.status = Status::Expired);
    let object = state
        .sessions
        .get(id)
        .map(|session| session.render(state))
        .unwrap_or_default();
    state.emit("checkout.session.expired", object, None);
}
