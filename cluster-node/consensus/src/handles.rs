//! Counts the handles to a store, so that whoever stops it can wait until nobody else has one.

use std::sync::Arc;

use tokio::sync::watch;

/// Part of each handle, and its last field: when the count goes down, the rest of the handle is gone.
pub(crate) struct Held {
    count: Arc<watch::Sender<usize>>,
}

impl Held {
    /// The first one.
    pub fn new() -> Self {
        Self {
            count: Arc::new(watch::Sender::new(1)),
        }
    }

    /// Waits until this is the only one.
    pub async fn alone(&self) {
        let mut count = self.count.subscribe();
        // The sender is part of `self`, so the wait can't fail.
        let _ = count.wait_for(|count| *count <= 1).await;
    }
}

impl Clone for Held {
    fn clone(&self) -> Self {
        self.count.send_modify(|count| *count += 1);
        Self {
            count: Arc::clone(&self.count),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.count.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_waits_for_all_others() {
        let held = Held::new();
        held.alone().await;
        let other = held.clone();
        let third = other.clone();
        let mut waiting = Box::pin(held.alone());
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(other);
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(third);
        waiting.await;
    }
}
