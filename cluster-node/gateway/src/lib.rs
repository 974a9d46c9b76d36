//! What an embedded node serves over HTTP: a trustless gateway, and the part of Kubo's RPC that Pinfleet drives nodes by.
