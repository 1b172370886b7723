//! The two arms: the programs in the kernel, and the same pipeline on plain memory.

use std::fmt::Write as _;

use abi::{
    config::NodeConfig,
    event::{DropRecord, PolicyVerdictRecord, Prefix, TraceRecord},
    write::MapWrite,
};
use datapath::{Action, Verdict};
use loader::{Datapath, Events, Maps, Program, SkBuff, TestRunError};

use crate::generate::{Hook, Stimulus};

/// What an arm made of a packet.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    pub action: u32,
    pub argument: u32,
    pub packet: Vec<u8>,
    pub mark: u32,
    /// Event records, without their time.
    pub events: Vec<Vec<u8>>,
}

impl Answer {
    pub fn is_drop(&self) -> bool {
        self.action == Action::Drop as u32
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "action {} argument {} mark {:#x}", self.action, self.argument, self.mark)?;
        writeln!(f, "  packet {}", hex(&self.packet))?;
        self.events.iter().try_for_each(|event| writeln!(f, "  event  {}", hex(event)))
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Takes out of a record what no two runs share: the time. Checks that it is a record at all.
fn without_time(mut record: Vec<u8>) -> Vec<u8> {
    let sizes = [size_of::<DropRecord>(), size_of::<TraceRecord>(), size_of::<PolicyVerdictRecord>()];
    assert!(sizes.contains(&record.len()), "a record of {} bytes", record.len());
    const { assert!(std::mem::offset_of!(Prefix, time_ns) == 0) };
    record[..8].fill(0);
    record
}

/// The kernel.
pub struct Kernel {
    pub datapath: Datapath,
    events: Events,
}

impl Kernel {
    pub fn new(datapath: Datapath) -> Self {
        let events = datapath.events().expect("the ring was just made");
        Self { datapath, events }
    }

    pub fn maps(&self) -> &Maps {
        self.datapath.maps()
    }

    /// Runs a packet; `None`: the kernel does not take it.
    pub fn run(&mut self, stimulus: &Stimulus) -> Option<Answer> {
        let Hook::Tc(program) = stimulus.hook else { return self.run_xdp(stimulus) };
        let ctx = SkBuff { mark: stimulus.mark, ifindex: stimulus.ifindex, ..SkBuff::default() };
        let run = match self.datapath.test_run(program, &stimulus.packet, &ctx, 1) {
            Ok(run) => run,
            Err(TestRunError::Refused { .. }) => return None,
            Err(other) => panic!("{other}"),
        };
        let [action, argument, ..] = run.ctx.cb;
        assert_eq!(run.ret, returned(action), "the verdict and what the kernel is told: {action} {argument}");
        Some(Answer { action, argument, packet: run.data, mark: run.ctx.mark, events: self.events() })
    }

    /// At the hook before there is a buffer only what the program returns is seen: whether it sends the packet back where it came
    /// from, and no reason of a drop.
    fn run_xdp(&mut self, stimulus: &Stimulus) -> Option<Answer> {
        let run = match self.datapath.test_run_xdp(&stimulus.packet, stimulus.ifindex, 1) {
            Ok(run) => run,
            Err(TestRunError::Refused { .. }) => return None,
            Err(other) => panic!("{other}"),
        };
        let (action, argument) = match run.ret {
            1 => (Action::Drop, 0),
            2 => (Action::Pass, 0),
            3 => (Action::Redirect, 1),
            4 => (Action::Redirect, 0),
            other => panic!("the XDP program returned {other}"),
        };
        Some(Answer { action: action as u32, argument, packet: run.data, mark: stimulus.mark, events: self.events() })
    }

    fn events(&mut self) -> Vec<Vec<u8>> {
        let mut events = Vec::new();
        self.events.drain(64, |record| events.push(without_time(record.to_vec())));
        events
    }

    pub fn write(&self, write: &MapWrite) {
        crate::support::write(self.maps(), write);
    }
}

/// `TC_ACT_*` for an action.
fn returned(action: u32) -> i32 {
    match action {
        a if a == Action::Drop as u32 => 2,
        a if a == Action::Redirect as u32
            || a == Action::RedirectPeer as u32
            || a == Action::RedirectNeighbour as u32 =>
        {
            7
        }
        _ => 0,
    }
}

/// Plain memory.
pub struct Native {
    pub maps: datapath_sim::Maps,
    pub config: NodeConfig,
    pub cpu: u32,
    pub ways: datapath_sim::Ways,
    /// Packets whose first stage was their last.
    pub short: u64,
}

impl Native {
    pub fn new(config: NodeConfig, cpu: u32) -> Self {
        let ways = datapath_sim::Ways::default();
        Self { maps: datapath_sim::Maps::new(1), config, cpu, ways, short: 0 }
    }

    pub fn run(&mut self, stimulus: &Stimulus, now_ns: u64) -> Answer {
        let mut run = datapath_sim::Run {
            maps: &mut self.maps,
            config: &self.config,
            packet: stimulus.packet.clone(),
            ifindex: stimulus.ifindex,
            now_ns,
            cpu: self.cpu,
            mark: stimulus.mark,
            ways: &self.ways,
            early: stimulus.hook == Hook::Xdp,
        };
        let Hook::Tc(program) = stimulus.hook else {
            let verdict = datapath::early(&mut run);
            let argument = match verdict.action {
                Action::Redirect => u32::from(verdict.argument == stimulus.ifindex),
                _ => 0,
            };
            let packet = run.packet;
            let (action, mark) = (verdict.action as u32, stimulus.mark);
            return Answer { action, argument, packet, mark, events: self.events() };
        };
        let first = match program {
            Program::ToNetdev => datapath::hooks::to_netdev(&mut run),
            Program::FromContainer => datapath::hooks::from_pod(&mut run),
            Program::ToContainer => datapath::hooks::to_pod(&mut run),
            Program::FromHost => datapath::hooks::from_host(&mut run),
            Program::FromNetdev => datapath::hooks::from_netdev(&mut run),
            other => panic!("{other} has no native twin yet"),
        };
        let short = program == Program::FromContainer && first.action != Action::Continue;
        self.short += u64::from(short);
        let Verdict { action, argument } = datapath::complete(&mut run, first);
        let (packet, mut mark) = (run.packet, run.mark);
        if action == Action::Proxy {
            mark = 0x0200 | argument << 16; // What the program itself does with this verdict.
        }
        Answer { action: action as u32, argument, packet, mark, events: self.events() }
    }

    fn events(&mut self) -> Vec<Vec<u8>> {
        let mut events = Vec::new();
        while let Some(record) = self.maps.events.pop() {
            events.push(without_time(record));
        }
        events
    }

    pub fn write(&mut self, write: &MapWrite) {
        self.maps.apply_one(write).unwrap_or_else(|e| panic!("{write:?}: {e}"));
    }
}
