//! What is told about translated socket calls (reference: trace-sock).
//!
//! A datagram socket translates each of its datagrams, so aggregation matters: at level none everything is told; from low on
//! only what is new, which is the first time a socket is sent to a backend, with the address it asked for. What it is
//! then told about its peer repeats what is known.

use abi::config::NODE_TRACE_SOCK;
use abi::event::{SOCK_TCP, SOCK_UDP, TraceSockNotify};
use wire::protocol::TCP;

use crate::config;
use crate::family::End;
use crate::sock::{SockEnv, SockFamily};

/// Reports an address at a point of its translation. `news`: whether this is the first time for this socket.
#[inline(always)]
pub fn told<F: SockFamily, E: SockEnv>(env: &mut E, point: u8, at: &End<F::Addr>, news: bool) {
    if !config::enabled(env.node(), NODE_TRACE_SOCK) || (config::aggregation(env.node()) != 0 && !news) {
        return;
    }
    let notification = TraceSockNotify::new(
        point,
        F::words(&at.addr),
        at.port.host(),
        env.socket_cookie(),
        env.cgroup_id(),
        if env.protocol() == TCP { SOCK_TCP } else { SOCK_UDP },
        F::IPV6,
    );
    env.event(&notification);
}
