//! Rows of traffic from outside to services: at XDP, whose packets are frames of 64 bytes, and at tc.
//!
//! In a network namespace with routes and neighbours. XDP's rig takes away what was put before a packet; its own cost is
//! measured with targets that put nothing and the same before it. New flows are measured with full maps: each evicts one.

use std::{net::Ipv4Addr, path::Path, process::Command};

use abi::{
    be::Port,
    config::{LB_DSR_IPIP, LB_MODE_BY_SERVICE, LB_NODE_PORT, NodeConfig, Runtime},
    lb::{LbBackend4, LbKey4, LbRevNat4, LbService, SERVICE_FORWARD_DSR, SERVICE_ROUTABLE},
};
use loader::{Datapath, Interface, LoaderConfig, Maps, Program};

use super::{Column, REPEATS, RUNS, Rig, Shown, Template, anyhow_free, least, median, node, packet4};

const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 2);
const BACKEND: Ipv4Addr = Ipv4Addr::new(192, 168, 60, 2);
const DSR_PORT: u16 = 30_080;
const SNAT_PORT: u16 = 30_081;
/// Backends of a service, at as many ports: to one alone there are no more connections than ports to allocate.
const BACKENDS: u16 = 128;
/// Rounds of a row of new flows: each takes longer.
const NEW_RUNS: usize = 100;
/// New flows that fill the maps.
const FILL: u32 = 800_000;

const SYN: u8 = 2;
const ACK: u8 = 0x10;

/// A row: its name, the frontend's port, TCP flags, how the flow varies, whether the packet grows, where it is run.
struct Row {
    name: &'static str,
    port: u16,
    flags: u8,
    mask: u32,
    grows: bool,
    xdp: bool,
}

const ROWS: [Row; 8] = [
    Row { name: "XDP IPIP DSR, established", port: DSR_PORT, flags: ACK, mask: 0, grows: true, xdp: true },
    Row { name: "XDP IPIP DSR, 64k flows", port: DSR_PORT, flags: ACK, mask: 0xffff, grows: true, xdp: true },
    Row { name: "XDP IPIP DSR, new, LRU full", port: DSR_PORT, flags: SYN, mask: u32::MAX, grows: true, xdp: true },
    Row { name: "XDP SNAT, established", port: SNAT_PORT, flags: ACK, mask: 0, grows: false, xdp: true },
    Row { name: "XDP SNAT, 16k flows", port: SNAT_PORT, flags: ACK, mask: 0x3fff, grows: false, xdp: true },
    Row { name: "XDP SNAT, new, LRU full", port: SNAT_PORT, flags: SYN, mask: u32::MAX, grows: false, xdp: true },
    Row { name: "tc SNAT, established", port: SNAT_PORT, flags: ACK, mask: 0, grows: false, xdp: false },
    Row { name: "tc SNAT, 16k flows", port: SNAT_PORT, flags: ACK, mask: 0x3fff, grows: false, xdp: false },
];

fn ip(args: &[&str]) -> anyhow_free::Result<()> {
    let out = Command::new("ip").args(args).output()?;
    if out.status.success() {
        return Ok(());
    }
    Err(format!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim()).into())
}

/// A namespace with a device to the clients and one to the backend.
fn network() -> anyhow_free::Result<u32> {
    // SAFETY: unshare(2) takes no pointers; only this thread, the only one, moves.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    for (device, peer, address, neighbour) in
        [("front", "fpeer", "192.168.50.1/24", CLIENT), ("back", "bpeer", "192.168.60.1/24", BACKEND)]
    {
        ip(&["link", "add", device, "type", "veth", "peer", "name", peer])?;
        ip(&["link", "set", device, "up"])?;
        ip(&["link", "set", peer, "up"])?;
        ip(&["addr", "add", address, "dev", device])?;
        ip(&[
            "neigh",
            "add",
            &neighbour.to_string(),
            "lladdr",
            "02:00:00:00:00:09",
            "dev",
            device,
            "nud",
            "permanent",
        ])?;
    }
    Ok(Interface::by_name("front")?.index)
}

fn config() -> NodeConfig {
    NodeConfig {
        lb_flags: LB_NODE_PORT | LB_MODE_BY_SERVICE | LB_DSR_IPIP,
        mtu: 1500,
        nat_port_min: 32_768,
        nat_port_max: 65_535,
        snat_ipv4: Ipv4Addr::new(192, 168, 60, 1).into(),
        ..node()
    }
}

fn fill(maps: &Maps) -> Result<(), loader::MapError> {
    for (port, flags2) in [(DSR_PORT, SERVICE_FORWARD_DSR), (SNAT_PORT, 0)] {
        let rev = Port::new(port);
        let slot = LbService { rev_nat_index: rev, ..LbService::default() };
        let service = LbService { count: BACKENDS, flags: SERVICE_ROUTABLE, flags2, ..slot };
        let key = LbKey4 { address: NODE.into(), dport: Port::new(port), proto: 6, ..LbKey4::default() };
        for n in 0..BACKENDS {
            let id = u32::from(port) << 8 | u32::from(n);
            let backend = LbBackend4 { address: BACKEND.into(), port: Port::new(8080 + n), ..LbBackend4::default() };
            maps.lb4_backends.insert(&id, &backend)?;
            let backend_slot = n + 1;
            maps.lb4_services.insert(&LbKey4 { backend_slot, ..key }, &LbService { backend_id: id, ..slot })?;
        }
        maps.lb4_reverse_nat.insert(&rev, &LbRevNat4 { address: NODE.into(), port: Port::new(port), pad: 0 })?;
        maps.lb4_services.insert(&key, &service)?;
    }
    maps.set_runtime(Runtime::PolicyRevision, 1)?;
    maps.set_runtime(Runtime::LbRevision, 1)
}

/// Prints the rows that are wanted.
pub fn measure(object: &Path, bpffs: &Path, rig: &mut Rig, shown: &Shown) -> anyhow_free::Result<()> {
    let rows: Vec<&Row> = ROWS.iter().filter(|row| shown.wants(row.name)).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let front = network()?;
    loader::ensure_bpffs(bpffs)?;
    let mut config = LoaderConfig::new(object, config());
    config.bpffs = bpffs.to_owned();
    let datapath = Datapath::open(&config)?;
    fill(datapath.maps())?;
    let entry = datapath.xdp_id().ok_or("this kernel refused the XDP program")?;
    let tc = datapath.load_stats().into_iter().find(|s| s.program == Program::FromNetdev).expect("it is loaded").id;
    shown.note(&format!("{:40} {:>8} {:>8}  returns", "ns a packet, net of the rig", "least", "median"));
    for row in rows {
        let (least, median, base, returned) =
            if row.xdp { row_xdp(rig, row, front, entry)? } else { row_tc(rig, row, front, tc)? };
        shown.row(row.name, &[Column { of: "", least, median }], returned, base);
    }
    let path = std::ffi::CString::new(bpffs.to_string_lossy().into_owned())?;
    // SAFETY: a terminated string.
    unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    let _ = std::fs::remove_dir(bpffs);
    Ok(())
}

/// The frame, as the rig restores it.
fn template(rig: &mut Rig, row: &Row, len: usize) -> anyhow_free::Result<Vec<u8>> {
    let mut packet = packet4(CLIENT, NODE, row.port, row.flags);
    packet[17] = (len - 14) as u8;
    let sum: u32 = packet[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    packet[24..26].copy_from_slice(&sum.to_be_bytes());
    rig.template(Template { packet, port_at: 34, address_at: 28, mask: row.mask, start: 0 })?;
    Ok(packet[..len].to_vec())
}

fn row_xdp(rig: &mut Rig, row: &Row, front: u32, entry: u32) -> anyhow_free::Result<(f64, f64, f64, u32)> {
    const TARGET: &str = "RIG_TARGET_XDP";
    let packet = template(rig, row, 64)?;
    let (none, grow) = (rig.id_of_xdp("rig_xdp_none")?, rig.id_of_xdp("rig_xdp_grow")?);
    let (mut base, mut grown, mut with, mut returned) = (vec![], vec![], vec![], 0);
    if row.mask == u32::MAX {
        // More than the maps hold: from then on each new flow evicts another.
        rig.aim_at(TARGET, entry)?;
        rig.run_xdp(&packet, front, FILL)?;
    }
    for _ in 0..if row.mask == u32::MAX { NEW_RUNS } else { RUNS } {
        rig.aim_at(TARGET, none)?;
        base.push(rig.run_xdp(&packet, front, REPEATS)?.0);
        rig.aim_at(TARGET, grow)?;
        grown.push(rig.run_xdp(&packet, front, REPEATS)?.0);
        rig.aim_at(TARGET, entry)?;
        let (ns, code) = rig.run_xdp(&packet, front, REPEATS)?;
        with.push(ns);
        returned = code;
    }
    // Growing costs as much as taking away: half of the difference is the rig's.
    let restoring = |base: f64, grown: f64| if row.grows { (grown - base) / 2.0 } else { 0.0 };
    let base_least = least(&base) + restoring(least(&base), least(&grown));
    let base_median = median(base.clone()) + restoring(median(base), median(grown));
    Ok((least(&with) - base_least, median(with) - base_median, base_least, returned))
}

fn row_tc(rig: &mut Rig, row: &Row, front: u32, program: u32) -> anyhow_free::Result<(f64, f64, f64, u32)> {
    let packet = template(rig, row, 128)?;
    let nothing = rig.nothing()?;
    let (mut base, mut with, mut returned) = (vec![], vec![], 0);
    for _ in 0..RUNS {
        rig.aim(nothing)?;
        base.push(rig.run_at(&packet, front)?.0);
        rig.aim(program)?;
        let (ns, code) = rig.run_at(&packet, front)?;
        with.push(ns);
        returned = code;
    }
    Ok((least(&with) - least(&base), median(with) - median(base.clone()), least(&base), returned))
}
