//! Names to addresses, each of them judged.
//!
//! A name may be public when it is saved and private when it is used. So it is judged here, where the addresses come
//! from that are then connected to, and at every new connection. Literal addresses do not pass here: `endpoint` judged
//! them.

use std::error::Error;
use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::address::Reach;

/// A host has an address that may not be sent to. Which one is not told: it would be a map of our network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host} resolves to an address that may not be sent to")]
pub struct ForbiddenAddress {
    /// The host, as it was asked for.
    pub host: Box<str>,
}

/// The system's resolver, kept to where an endpoint may lead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resolver {
    reach: Reach,
}

impl Resolver {
    pub(crate) fn new(reach: Reach) -> Self {
        Self { reach }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(lookup(name, self.reach))
    }
}

async fn lookup(name: Name, reach: Reach) -> Result<Addrs, Box<dyn Error + Send + Sync>> {
    // For port 0 the HTTP client puts the port of the URL.
    let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
    let judged = judge(name.as_str(), reach, found.collect())?;
    Ok(Box::new(judged.into_iter()))
}

/// All or none: a good address beside a bad one is how a bad one is smuggled in.
fn judge(host: &str, reach: Reach, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, ForbiddenAddress> {
    if found.iter().all(|address| reach.permits(address.ip())) {
        Ok(found)
    } else {
        Err(ForbiddenAddress { host: host.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(reach: Reach, addresses: &[&str], expected: bool) {
        let found: Vec<SocketAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let judged = judge("x.example", reach, found.clone());
        let forbidden = ForbiddenAddress { host: "x.example".into() };
        assert_eq!(judged, if expected { Ok(found) } else { Err(forbidden) }, "{addresses:?}");
    }

    #[test]
    fn every_address_is_judged() {
        check(Reach::Public, &["8.8.8.8:0", "[2606:4700::1]:0"], true);
        check(Reach::Public, &["8.8.8.8:0", "10.0.0.1:0"], false);
        check(Reach::Public, &["127.0.0.1:0", "8.8.8.8:0"], false);
        check(Reach::Public, &["[::ffff:169.254.169.254]:0"], false);
        check(Reach::Loopback, &["127.0.0.1:0", "[::1]:0"], true);
        check(Reach::Loopback, &["127.0.0.1:0", "8.8.8.8:0"], false);
        check(Reach::Loopback, &["192.168.0.1:0"], false);
    }

    #[tokio::test]
    async fn localhost_is_refused_unless_loopback_is_meant() {
        let name = || "localhost".parse::<Name>().unwrap();
        let refused = Resolver::new(Reach::Public).resolve(name()).await.err().unwrap();
        let expected = ForbiddenAddress { host: "localhost".into() };
        assert_eq!(refused.downcast_ref::<ForbiddenAddress>(), Some(&expected));
        let addresses = Resolver::new(Reach::Loopback).resolve(name()).await.unwrap();
        assert!(addresses.map(|address| address.ip()).all(|ip| ip.is_loopback()));
    }
}
