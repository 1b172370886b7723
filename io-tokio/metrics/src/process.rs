//! Standard metrics of this process, read from `/proc/self`.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::scraped::{Sample, encode};

/// Clock ticks of `/proc/self/stat`: 100 on every architecture Linux has today.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug)]
pub(crate) struct Process;

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encode(&samples(), encoder)
    }
}

fn samples() -> Vec<Sample> {
    let mut out = Vec::new();
    let mut gauge = |name, help, value: Option<f64>| {
        out.extend(value.map(|value| Sample::gauge(name, help, [], value)));
    };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<f64>().ok().map(|kib| kib * 1024.0)
    };
    gauge("process_resident_memory_bytes", "Resident memory size in bytes", kib("VmRSS"));
    gauge("process_virtual_memory_bytes", "Virtual memory size in bytes", kib("VmSize"));
    let open = fs::read_dir("/proc/self/fd").ok().map(|dir| dir.count() as f64);
    gauge("process_open_fds", "Number of open file descriptors", open);
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let limit = limit.and_then(|rest| rest.split_whitespace().next()).and_then(|soft| soft.parse().ok());
    gauge("process_max_fds", "Maximum number of open file descriptors", limit);
    let (cpu, start) = times();
    gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds", start);
    out.extend(
        cpu.map(|cpu| {
            Sample::counter("process_cpu_seconds", "Total user and system CPU time spent in seconds", [], cpu)
        }),
    );
    out
}

/// CPU seconds, and the start as seconds of the unix epoch.
fn times() -> (Option<f64>, Option<f64>) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the name in parentheses, which may hold anything; fields are counted after it.
    let Some((_, rest)) = stat.rsplit_once(')') else { return (None, None) };
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).map(|n| n / TICKS_PER_SECOND);
    let cpu = ticks(11).zip(ticks(12)).map(|(user, system)| user + system);
    let boot = fs::read_to_string("/proc/stat").ok().and_then(|stat| {
        stat.lines().find_map(|line| line.strip_prefix("btime ")).and_then(|secs| secs.trim().parse::<f64>().ok())
    });
    (cpu, ticks(19).zip(boot).map(|(started, boot)| started + boot))
}
