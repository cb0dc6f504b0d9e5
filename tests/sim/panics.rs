//! Panics in tasks: production logs them and goes on; here they end the run.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
    static IS_WATCHED: RefCell<bool> = const { RefCell::new(false) };
}

static HOOK: Once = Once::new();

/// Keeps the panics of this thread instead of printing them.
pub fn watch(is_watched: bool) {
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if IS_WATCHED.with_borrow(|is| *is) {
                let place = info.location().map(ToString::to_string).unwrap_or_default();
                let reason = info.payload().downcast_ref::<String>().map(String::as_str);
                let reason = reason.or_else(|| info.payload().downcast_ref::<&str>().copied()).unwrap_or("?");
                LAST.with_borrow_mut(|last| {
                    last.get_or_insert(format!("{reason}, at {place}"));
                });
            } else {
                before(info);
            }
        }));
    });
    IS_WATCHED.with_borrow_mut(|is| *is = is_watched);
}

pub fn take() -> Option<String> {
    LAST.with_borrow_mut(Option::take)
}
