//! The look-up alone: the pipeline's own functions on plain maps.

use std::net::IpAddr;

use abi::be::Port;
use abi::config::NodeConfig;
use datapath::policy::{self as pipeline, Local, Peer, Question};
use datapath::{V4, V6};
use datapath_sim::{Maps, Run};
use policy::{Direction, Engine, MatchType, Verdict};

use crate::corpus::{Judge, Probe};
use crate::tables::{Wanted, flags, passed};

/// Sizes far above what a case needs.
pub fn maps() -> Maps {
    Maps::with_sizes(1, |spec| spec.max_entries.min(1 << 14))
}

/// Judges by map look-ups.
#[derive(Default)]
pub struct Lookup {
    maps: Option<Maps>,
    wanted: Wanted,
    /// Every third policy entry is left out.
    pub holes: bool,
    pub asked: u64,
    pub by_address: u64,
}

impl Judge for Lookup {
    fn load(&mut self, engine: &Engine) {
        self.wanted = Wanted::of(engine);
        let mut maps = maps();
        for (index, write) in self.wanted.writes.iter().enumerate() {
            if !(self.holes && matches!(write, abi::write::MapWrite::Policy(..)) && index % 3 == 0) {
                maps.apply_one(write).unwrap_or_else(|e| panic!("{write:?}: {e}"));
            }
        }
        self.maps = Some(maps);
    }

    fn verdict(&mut self, _: &Engine, probe: &Probe) -> (Verdict, Option<MatchType>) {
        self.asked += 1;
        self.by_address += u64::from(probe.addr.is_some());
        let config = NodeConfig { world_ipv4: 9, world_ipv6: 10, ..NodeConfig::default() };
        let maps = self.maps.as_mut().expect("an engine was loaded");
        let ways = datapath_sim::Ways::default();
        let run = Run {
            maps,
            config: &config,
            packet: Vec::new(),
            ifindex: 1,
            now_ns: 0,
            cpu: 0,
            mark: 0,
            ways: &ways,
            early: false,
        };
        judge(&run, &self.wanted, probe)
    }
}

/// Peer and entry found as the pipeline finds them.
pub fn judge(run: &Run<'_>, wanted: &Wanted, probe: &Probe) -> (Verdict, Option<MatchType>) {
    let how = wanted.endpoints[&probe.endpoint];
    let local = Local { identity: 0, policy: how.policy.as_u32(), lxc_id: 1, flags: flags(&how) };
    let question = Question {
        ingress: probe.direction == Direction::Ingress,
        protocol: probe.protocol.number(),
        port: Port::new(probe.port),
        icmp_code: 0,
    };
    let known = || Peer {
        identity: probe.identity.as_u32(),
        class: wanted.classes.get(&probe.identity).copied().unwrap_or_default(),
    };
    let judgement = match probe.addr {
        Some(IpAddr::V4(addr)) => {
            let peer = pipeline::peer::<V4, _>(run, &addr.into());
            pipeline::judge::<V4, _>(run, &local, &peer, &question)
        }
        Some(IpAddr::V6(addr)) => {
            let peer = pipeline::peer::<V6, _>(run, &addr.into());
            pipeline::judge::<V6, _>(run, &local, &peer, &question)
        }
        None => pipeline::judge::<V4, _>(run, &local, &known(), &question),
    };
    let matched = match judgement.match_type {
        1 => MatchType::L3Only,
        2 => MatchType::L3L4,
        3 => MatchType::L4Only,
        4 => MatchType::All,
        5 => MatchType::L3Proto,
        6 => MatchType::ProtoOnly,
        _ => MatchType::None,
    };
    match judgement.denial() {
        Some(_) => (Verdict::Deny, Some(matched)),
        None => (passed(judgement.proxy_port.host()), Some(matched)),
    }
}
