//! The same object through the kernel's own library, libbpf: it loads, and its programs answer like those aya loaded.
//! Maps are those libbpf makes from the object's own declarations.

use std::{
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use abi::{config::NodeConfig, stage::Stage, write::MapWrite};
use libbpf_rs::{MapCore as _, MapFlags, Object, ObjectBuilder, ProgramInput};
use loader::SkBuff;
use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::{arms::Answer, generate::Stimulus};

pub struct Libbpf {
    object: Object,
}

impl Libbpf {
    pub fn load(path: &Path, config: &NodeConfig) -> Self {
        let mut open = ObjectBuilder::default().open_file(path).unwrap_or_else(|e| panic!("libbpf opens it: {e}"));
        for mut map in open.maps_mut() {
            // All there is in read-only data is the configuration.
            if map.name().to_string_lossy().ends_with(".rodata") {
                map.set_initial_value(config.as_bytes()).unwrap_or_else(|e| panic!("the configuration fits: {e}"));
            }
        }
        let object = open.load().unwrap_or_else(|e| panic!("libbpf loads it: {e}"));
        let calls = object.maps().find(|map| map.name() == "cilium_calls").expect("it is in the object");
        for stage in Stage::ALL {
            let program =
                object.progs().find(|program| program.name() == stage.name()).expect("every stage is a program");
            let (number, fd) = ((*stage as u32).to_ne_bytes(), program.as_fd().as_raw_fd().to_ne_bytes());
            calls.update(&number, &fd, MapFlags::ANY).unwrap_or_else(|e| panic!("{}: {e}", stage.name()));
        }
        Self { object }
    }

    pub fn programs(&self) -> usize {
        self.object.progs().count()
    }

    pub fn write(&self, write: &MapWrite) {
        let name = write.map().name;
        let map =
            self.object.maps().find(|map| map.name() == name).unwrap_or_else(|| panic!("{name} is in the object"));
        match write.value() {
            Some(value) => map.update(write.key(), value, MapFlags::ANY).unwrap_or_else(|e| panic!("{write:?}: {e}")),
            None => map.delete(write.key()).unwrap_or_else(|e| panic!("{write:?}: {e}")),
        }
    }

    /// Runs a packet; `None`: the kernel does not take it. Events are not read.
    pub fn run(&self, stimulus: &Stimulus) -> Option<Answer> {
        let crate::generate::Hook::Tc(program) = stimulus.hook else { return None };
        let name = program.name();
        let program = self.object.progs_mut().find(|program| program.name() == name)?;
        let mut ctx = SkBuff { mark: stimulus.mark, ifindex: stimulus.ifindex, ..SkBuff::default() };
        let mut after = SkBuff::new_zeroed();
        let mut packet = vec![0; stimulus.packet.len() + 512];
        let out = program.test_run(ProgramInput {
            context_in: Some(ctx.as_mut_bytes()),
            context_out: Some(after.as_mut_bytes()),
            data_in: Some(&stimulus.packet),
            data_out: Some(&mut packet),
            repeat: 1,
            ..ProgramInput::default()
        });
        let data = out.ok()?.data?.to_vec();
        let [action, argument, ..] = after.cb;
        Some(Answer { action, argument, packet: data, mark: after.mark, events: Vec::new() })
    }
}
