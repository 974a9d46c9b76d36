//! How long requests are let go on, at the servers of all HTTP APIs: they share one gate.

use async_trait::async_trait;
use cluster_http::{Denied, Lasting, Presented};
use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::service::Gatekeeper;

#[async_trait]
impl Lasting for Gatekeeper {
    /// Looks once more for whose it is: what is awaited is the end of that very credential, and not of its name.
    async fn until_over(&self, presented: Presented<'_>) -> Result<BoxFuture<'static, ()>, Denied> {
        let grant = self.access.admit(Some(presented), self.required).await?;
        Ok(match grant {
            Some(grant) => self.access.until_over(&grant).boxed(),
            None => std::future::pending().boxed(),
        })
    }

    fn unreadable(&self) -> Result<(), Denied> {
        self.access.unreadable();
        Err(Denied::Missing)
    }
}
