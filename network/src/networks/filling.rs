//! Refills the pool of namespaces in the background. Assigns none to a container.

use std::sync::Arc;

use super::NetworkState;

/// Starts a thread that fills the pool and exits when it is full. The thread also exits if a
/// namespace cannot be created: the next caller that needs one tries again, and gets the error.
pub(super) fn refill(shared: &Arc<NetworkState>) {
    let mut pool = shared.pool();
    if pool.is_filling || pool.is_closed || pool.ready.len() >= shared.settings.pool_size {
        return;
    }
    let of_thread = Arc::clone(shared);
    let thread = std::thread::Builder::new().name("networks".to_owned());
    // Without a thread namespaces are created on demand.
    pool.filler = thread.spawn(move || fill(&of_thread)).ok();
    pool.is_filling = pool.filler.is_some();
}

fn fill(shared: &NetworkState) {
    loop {
        let made = shared.make();
        let mut pool = shared.pool();
        match made {
            Ok(waiting) if pool.is_closed => {
                drop(pool);
                shared.abandon(waiting.address);
                return;
            }
            Ok(waiting) => pool.ready.push_back(waiting),
            Err(_) => {
                pool.is_filling = false;
                return;
            }
        }
        if pool.ready.len() >= shared.settings.pool_size {
            pool.is_filling = false;
            return;
        }
    }
}
