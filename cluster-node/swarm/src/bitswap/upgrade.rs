//! Which versions of Bitswap are offered for a stream.

use std::convert::Infallible;
use std::future::{Ready, ready};

use cluster_bitswap::Version;
use libp2p::StreamProtocol;
use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade};

/// All versions, the best first. Gives the stream and the version that was agreed on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offer;

/// A version under its name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named(Version);

impl AsRef<str> for Named {
    fn as_ref(&self) -> &str {
        self.0.protocol()
    }
}

impl UpgradeInfo for Offer {
    type Info = Named;
    type InfoIter = std::array::IntoIter<Named, 3>;

    fn protocol_info(&self) -> Self::InfoIter {
        Version::ALL.map(Named).into_iter()
    }
}

impl<C> InboundUpgrade<C> for Offer {
    type Output = (C, Version);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: C, named: Named) -> Self::Future {
        ready(Ok((stream, named.0)))
    }
}

impl<C> OutboundUpgrade<C> for Offer {
    type Output = (C, Version);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: C, named: Named) -> Self::Future {
        ready(Ok((stream, named.0)))
    }
}

/// The best version among what a peer says that it speaks.
pub(crate) fn best<'a>(protocols: impl Iterator<Item = &'a StreamProtocol>) -> Option<Version> {
    protocols.filter_map(|name| Version::of_protocol(name.as_ref())).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_version_is_taken() {
        let names = [
            "/ipfs/ping/1.0.0",
            "/ipfs/bitswap/1.0.0",
            "/ipfs/bitswap/1.2.0",
            "/ipfs/bitswap",
        ];
        let protocols = names.map(StreamProtocol::new);
        assert_eq!(best(protocols.iter()), Some(Version::V1_2));
        assert_eq!(best(protocols[..2].iter()), Some(Version::V1_0));
        assert_eq!(best(protocols[..1].iter()), None);
    }
}
