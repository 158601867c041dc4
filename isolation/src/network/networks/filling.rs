//! Refills the pool of namespaces in the background. Gives none to a container.

use std::sync::Arc;

use super::Shared;

/// Fills the pool, by a thread that ends when it is full. If a namespace cannot be made it ends, too: whoever takes one
/// next tries again, and is told why not.
pub(super) fn refill(shared: &Arc<Shared>) {
    let mut pool = shared.pool();
    if pool.filling || pool.ended || pool.ready.len() >= shared.settings.ready {
        return;
    }
    let of_thread = Arc::clone(shared);
    let thread = std::thread::Builder::new().name("networks".to_owned());
    // Without a thread namespaces are made when they are wanted.
    pool.filler = thread.spawn(move || fill(&of_thread)).ok();
    pool.filling = pool.filler.is_some();
}

fn fill(shared: &Shared) {
    loop {
        let made = shared.make();
        let mut pool = shared.pool();
        match made {
            Ok(waiting) if pool.ended => {
                drop(pool);
                shared.abandon(waiting.address);
                return;
            }
            Ok(waiting) => pool.ready.push_back(waiting),
            Err(_) => {
                pool.filling = false;
                return;
            }
        }
        if pool.ready.len() >= shared.settings.ready {
            pool.filling = false;
            return;
        }
    }
}
