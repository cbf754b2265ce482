//! Ports that stay ours while a process is dead.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};

/// First of the range. It lies below the range the kernel gives to outgoing connections: a port picked there could be
/// taken by some client's socket in the moment between a kill and the restart.
const FIRST: u16 = 18_000;

/// How many there are.
const COUNT: u16 = 14_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A loopback address that nobody listens on.
pub fn free() -> SocketAddr {
    for _ in 0..COUNT {
        let address = candidate();
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

fn candidate() -> SocketAddr {
    // Test binaries may run side by side: each starts at a place of its own.
    let start = u16::try_from(process::id() % 100).expect("below 100") * (COUNT / 100);
    let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
    SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST + (start + step) % COUNT))
}
