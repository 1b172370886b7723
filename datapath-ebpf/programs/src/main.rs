//! The eBPF programs: the packet pipeline of `core/datapath` at the hooks of tc.
//!
//! Nothing is decided here. A program wraps its packet, calls the pipeline's entry point for its hook, and turns
//! the verdict into what the kernel wants, in one place. Verdict and argument are also left in the packet's
//! `cb` words 0 and 1, where test runs read them.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(internal_features)]

mod env;
mod linear;
mod maglev;
mod map;
mod maps;
mod packet;
mod route;
mod sock;
mod words;
mod xdp;

use aya_ebpf::bindings::{__sk_buff, TC_ACT_OK, TC_ACT_SHOT, xdp_action, xdp_md};
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use datapath::nodeport::hooks as hooks_of_devices;
use datapath::{Action, Stage, Verdict, hooks, stages};

use crate::packet::Packet;
use crate::xdp::Frame;

/// Mark of packets for the proxy; the port is in the upper half (reference: marks).
const MARK_TO_PROXY: u32 = 0x0200;

/// A packet leaves a pod.
#[classifier]
#[inline(always)]
fn cil_from_container(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    act(skb, hooks::from_pod(&mut Packet::new(skb)))
}

/// A packet reaches a pod from the host's stack.
#[classifier]
#[inline(always)]
fn cil_to_container(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    act(skb, hooks::to_pod(&mut Packet::new(skb)))
}

/// A packet leaves the host by `cilium_host`.
#[classifier]
#[inline(always)]
fn cil_from_host(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    act(skb, hooks::from_host(&mut Packet::new(skb)))
}

/// A packet reaches the node from outside.
#[classifier]
#[inline(always)]
fn cil_from_netdev(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    act(skb, hooks::from_netdev(&mut Packet::new(skb)))
}

/// A packet leaves the node.
#[classifier]
#[inline(always)]
fn cil_to_netdev(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    act(skb, hooks::to_netdev(&mut Packet::new(skb)))
}

/// Declares the program of each stage, and how one is gone on in.
macro_rules! stages {
    ($($stage:ident = $name:ident;)*) => {
        $(
            #[doc = concat!("Stage [`Stage::", stringify!($stage), "`].")]
            #[classifier]
            #[inline(always)]
            fn $name(ctx: TcContext) -> i32 {
                let skb = ctx.skb.skb;
                act(skb, stages::run(&mut Packet::new(skb), Stage::$stage))
            }
        )*

        /// Goes on in a stage. A program that is not there drops the packet: see [`hooks::missed`].
        #[inline(always)]
        fn go_on(skb: *mut __sk_buff, number: u32) -> Verdict {
            match Stage::of(number) {
                $(Some(Stage::$stage) => maps::CALLS.go_on::<{ Stage::$stage as u32 }>(skb.cast()),)*
                None => {}
            }
            hooks::missed(&mut Packet::new(skb))
        }
    };
}

stages! {
    PodIpv4 = cil_pod_ipv4;
    PodIpv6 = cil_pod_ipv6;
    PodOpen4 = cil_pod_open4;
    PodOpen6 = cil_pod_open6;
    Neighbour = cil_neighbour;
    PodError4 = cil_pod_error4;
    PodError6 = cil_pod_error6;
    Hairpin4 = cil_hairpin4;
    Hairpin6 = cil_hairpin6;
    Deliver4 = cil_deliver4;
    Deliver6 = cil_deliver6;
    ToPod4 = cil_to_pod4;
    ToPod6 = cil_to_pod6;
    Net4 = cil_net4;
    Net6 = cil_net6;
    Open4 = cil_open4;
    Open6 = cil_open6;
    Wrap4 = cil_wrap4;
    Wrap6 = cil_wrap6;
    Unwrap4 = cil_unwrap4;
    Unwrap6 = cil_unwrap6;
    Return4 = cil_return4;
    Return6 = cil_return6;
    Out4 = cil_out4;
    Out6 = cil_out6;
    Complain = cil_complain;
}

/// A packet reaches the node from outside, before the kernel has made a buffer of it.
#[xdp]
#[inline(always)]
fn cil_xdp_entry(ctx: XdpContext) -> u32 {
    act_early(ctx.ctx, hooks_of_devices::early(&mut Frame::new(ctx.ctx)))
}

/// Stage [`Stage::Open4`] of such a packet.
#[xdp]
#[inline(always)]
fn cil_xdp_open4(ctx: XdpContext) -> u32 {
    act_early(ctx.ctx, stages::run_early(&mut Frame::new(ctx.ctx), Stage::Open4))
}

/// Stage [`Stage::Open6`] of such a packet.
#[xdp]
#[inline(always)]
fn cil_xdp_open6(ctx: XdpContext) -> u32 {
    act_early(ctx.ctx, stages::run_early(&mut Frame::new(ctx.ctx), Stage::Open6))
}

/// Stage [`Stage::Wrap4`] of such a packet.
#[xdp]
#[inline(always)]
fn cil_xdp_wrap4(ctx: XdpContext) -> u32 {
    act_early(ctx.ctx, stages::run_early(&mut Frame::new(ctx.ctx), Stage::Wrap4))
}

/// Stage [`Stage::Wrap6`] of such a packet.
#[xdp]
#[inline(always)]
fn cil_xdp_wrap6(ctx: XdpContext) -> u32 {
    act_early(ctx.ctx, stages::run_early(&mut Frame::new(ctx.ctx), Stage::Wrap6))
}

/// Carries a verdict out. A stage that is not there leaves the packet to tc: nothing has been changed yet.
#[inline(always)]
fn act_early(xdp: *mut xdp_md, verdict: Verdict) -> u32 {
    // SAFETY: a field of the context, and a helper without pointers.
    unsafe {
        match verdict.action {
            Action::Drop => xdp_action::XDP_DROP,
            Action::Redirect if verdict.argument == (*xdp).ingress_ifindex => xdp_action::XDP_TX,
            Action::Redirect => helpers::bpf_redirect(verdict.argument, 0) as u32,
            Action::Continue => {
                match Stage::of(verdict.argument) {
                    Some(Stage::Open4) => maps::CALLS_XDP.go_on::<{ Stage::Open4 as u32 }>(xdp.cast()),
                    Some(Stage::Open6) => maps::CALLS_XDP.go_on::<{ Stage::Open6 as u32 }>(xdp.cast()),
                    Some(Stage::Wrap4) => maps::CALLS_XDP.go_on::<{ Stage::Wrap4 as u32 }>(xdp.cast()),
                    Some(Stage::Wrap6) => maps::CALLS_XDP.go_on::<{ Stage::Wrap6 as u32 }>(xdp.cast()),
                    _ => {}
                }
                xdp_action::XDP_PASS
            }
            // The pipeline has no other verdict at this hook.
            _ => xdp_action::XDP_PASS,
        }
    }
}

/// Carries a verdict out.
#[inline(always)]
fn act(skb: *mut __sk_buff, mut verdict: Verdict) -> i32 {
    if verdict.action == Action::Continue {
        verdict = go_on(skb, verdict.argument);
    }
    // SAFETY: fields of the context that programs may write, and helpers without pointers.
    unsafe {
        (*skb).cb[0] = verdict.action as u32;
        (*skb).cb[1] = verdict.argument;
        match verdict.action {
            Action::Pass => TC_ACT_OK,
            Action::Drop | Action::Continue => TC_ACT_SHOT,
            Action::RedirectPeer => helpers::bpf_redirect_peer(verdict.argument, 0) as i32,
            Action::Redirect => helpers::bpf_redirect(verdict.argument, 0) as i32,
            Action::RedirectNeighbour => {
                helpers::bpf_redirect_neigh(verdict.argument, core::ptr::null_mut(), 0, 0) as i32
            }
            Action::Proxy => {
                (*skb).mark = MARK_TO_PROXY | verdict.argument << 16;
                TC_ACT_OK
            }
        }
    }
}

/// The kernel hands GPL-only helpers to programs under a licence compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
