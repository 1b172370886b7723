//! Frames of any bytes at every hook.
//!
//! An input is a script: which hook, which frame to begin with, and what to change in it. So most inputs get far into the
//! pipeline before they are wrong, which bytes drawn at random do not. Real frames are in the corpus beside this file.

mod support;

use abi::metrics::MetricsKey;
use datapath::{Action, DropReason};
use support::*;
use wire::ethernet;
use wire::protocol::{TCP, UDP};

/// Everything a script can begin with.
fn frames() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for v6 in [false, true] {
        let (a, b, w, v) = ((pod(1, v6), 4000), (pod(2, v6), 80), (world(v6), 443), (vip(v6), 80));
        let (request, _) = echo(v6);
        out.extend([tcp(a, b, SYN), tcp(a, v, SYN), tcp(w, a, ACK), udp(a, b), udp(a, w), udp(a, v)]);
        out.push(icmp(a.0, b.0, request, 0, [0, 1, 0, 1], b"echo"));
        out.push(unreachable(w.0, a.0, &udp(a, w)));
        out.push(unreachable(a.0, w.0, &tcp(w, a, SYN)));
        // A neighbour solicitation, or an ICMP type nobody sends.
        out.push(icmp(a.0, router(v6), 135, 0, [0; 4], &[0xfd; 24]));
        out.push(frame(a.0, b.0, 132, 64, &[0; 20]));
        // Hop-by-hop options before UDP; IPv4 takes it for an unknown protocol.
        out.push(frame(a.0, b.0, 0, 64, &[17, 0, 1, 4, 0, 0, 0, 0, 0x0f, 0xa0, 0, 80, 0, 8, 0, 0]));
        out.push(frame(a.0, b.0, 44, 64, &[17, 0, 0, 1, 0, 0, 0, 9, 0x0f, 0xa0, 0, 80, 0, 8, 0, 0]));
    }
    let mut arp = vec![0xff; 6];
    arp.extend([2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    arp.extend([10, 0, 0, 254]);
    out.push(arp);
    out
}

/// How often each reason was counted, all directions together.
fn counted(world: &World, reason: u8) -> u64 {
    let of = |dir| world.maps.metrics[0].lookup(&MetricsKey::new(reason, dir)).map_or(0, |value| value.count);
    (0..=3).map(of).sum()
}

/// Carries a script out. Whatever happens: no panic, each drop is counted once under its reason, and what no rule
/// allows reaches no pod.
fn play(script: &[u8], frames: &[Vec<u8>]) {
    let [hook, base, rest @ ..] = script else { return };
    let mut packet = match frames.get(usize::from(*base)) {
        Some(frame) => frame.clone(),
        // A frame of its own.
        None => rest.to_vec(),
    };
    let changes = if usize::from(*base) < frames.len() { rest } else { &[] };
    for change in changes.chunks_exact(2) {
        match (change[0], packet.len()) {
            (at @ 0..250, len) if usize::from(at) < len => packet[usize::from(at)] ^= change[1],
            (250..=252, len) => packet.truncate(len.saturating_sub(change[1].into())),
            (253.., len) if len < 4096 => packet.extend(std::iter::repeat_n(change[1], change[1].into())),
            _ => {}
        }
    }
    let mut world = World::new();
    world.service(&[2, 3], 0);
    let closed = hook & 4 != 0;
    for n in 1..=3 {
        world.enforce(n);
    }
    if !closed {
        for (to, proto) in [(2, TCP), (2, UDP), (3, TCP)] {
            let port = if to == 3 { 8080 } else { 80 };
            world.allow(1, 1000 + u32::from(to), false, proto, port);
            world.allow(to, 1001, true, proto, port);
        }
    }
    // The second time round the first may have left a connection.
    for _ in 0..2 {
        let before: Vec<_> = (0..=255).map(|reason| counted(&world, reason)).collect();
        let out = match hook & 3 {
            0 => world.send(1, &packet),
            1 => world.arrive(2, &packet),
            _ => world.receive(&packet),
        };
        if out.verdict.action == Action::Drop {
            let reason = u8::try_from(out.verdict.argument).expect("a reason is a byte");
            assert_eq!(
                counted(&world, reason),
                before[usize::from(reason)] + 1,
                "drop reason {reason} is counted once"
            );
        }
        let ip = packet.len() > ethernet::LEN && packet[12..14] != [8, 6];
        if closed && ip {
            let to = out.verdict.argument;
            let delivered = out.verdict.action == Action::RedirectPeer
                || (out.verdict.action == Action::Redirect && to != ifindex(1));
            assert!(!delivered, "no rule allows it, and it went to interface {to}");
        }
    }
}

#[test]
fn no_frame_panics_escapes_the_count_or_passes_a_closed_pod() {
    let frames = frames();
    bolero::check!().with_max_len(64).for_each(|script: &[u8]| play(script, &frames));
}

/// Without changes the scripts do what they are there for, or the test above would prove little.
#[test]
fn the_frames_reach_pods_services_and_the_world() {
    let frames = frames();
    let mut fates = std::collections::BTreeMap::<_, u32>::new();
    for frame in &frames {
        let mut world = World::new();
        world.service(&[2, 3], 0);
        let out = world.send(1, frame);
        let reason = if out.verdict.action == Action::Drop { out.verdict.argument } else { 0 };
        *fates.entry((out.verdict.action as u32, reason)).or_default() += 1;
    }
    let of = |action: Action, reason: u32| fates.get(&(action as u32, reason)).copied().unwrap_or(0);
    assert!(of(Action::RedirectPeer, 0) >= 8, "{fates:?}");
    assert!(of(Action::Pass, 0) >= 2, "{fates:?}");
    assert!(of(Action::Redirect, 0) >= 1, "{fates:?}");
    assert!(of(Action::Drop, DropReason::InvalidSource as u32) >= 2, "{fates:?}");
}
