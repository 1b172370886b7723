//! The programs in the kernel and the same pipeline built natively, given the same packets on the same maps: verdict,
//! bytes, mark, events and map contents must be equal, packet after packet, over flows that live on.
//!
//! The packets come from a generator that knows the node: flows that are allowed and denied, services, replies to what
//! came out, errors about it, fragments, neighbours; an eighth of them damaged or cut. Meanwhile rules, backends, pods
//! and connections change on both sides. Shared code shares its mistakes, so checksums of what comes out are also
//! judged by code of their own. A planted difference of each kind must be found.
//!
//! `EQUIVALENCE_PACKETS` (100,000) packets for each program; `EQUIVALENCE_SEED`.

#![expect(clippy::print_stdout, reason = "the figures are what the test is for")]

#[path = "../support/mod.rs"]
mod support;

mod arms;
mod generate;
#[cfg(feature = "libbpf")]
mod libbpf;
mod outside;
mod packets;
mod rng;
mod run;
mod world;

use abi::{config::NodeConfig, endpoint::EndpointKey, lb::LbBackend4, write::MapWrite};
use loader::{Datapath, LoaderConfig};
use run::{Bench, Difference, Report};

/// Size of each connection map: more than ever there are, because which entry a full one gives up is the kernel's secret.
const CONNECTIONS: u32 = 1 << 17;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Opens the datapath with a configuration, in namespaces of its own; `None`, said aloud, where that is impossible.
fn bench(seed: u64, choose: fn(&world::World) -> NodeConfig) -> Option<(support::Bpffs, Bench)> {
    let object = support::object()?;
    let fs = support::Bpffs::mount()?;
    let interfaces = run::six_interfaces();
    let world = world::World::new(&interfaces);
    let config = choose(&world);
    let mut loader = LoaderConfig::new(object, config);
    fs.path().clone_into(&mut loader.bpffs);
    for map in ["cilium_ct4_global", "cilium_ct_any4_global", "cilium_ct6_global", "cilium_ct_any6_global"] {
        loader.map_sizes.insert(map.to_owned(), CONNECTIONS);
    }
    let datapath = Datapath::open(&loader).unwrap_or_else(|e| panic!("{e}"));
    Some((fs, Bench::new(seed, world, config, datapath)))
}

fn show(report: &Report) {
    println!("{report}");
    let differences: Vec<String> = report.differences.iter().take(3).map(|d| format!("{d:?}")).collect();
    assert!(
        report.differences.is_empty(),
        "{} differences (is the object built from this source? `cargo xtask bpf`):\n{}",
        report.found,
        differences.join("\n")
    );
    assert_eq!(report.bad_checksums, 0, "a whole packet came out with a wrong checksum");
    for (program, figures) in &report.programs {
        let share = figures.not_dropped * 100 / figures.compared.max(1);
        assert!(share >= 25, "{program}: only {share} % were not dropped, which proves little");
        assert_eq!(figures.refused, figures.refused_short, "{program}: the kernel refused whole headers");
        assert!(figures.refused * 100 < figures.compared * 5, "{program}: the kernel refused {}", figures.refused);
    }
}

#[test]
fn kernel_and_native_agree_on_every_packet() {
    let seed = number("EQUIVALENCE_SEED", 0xc111_0001);
    let Some((_fs, mut bench)) = bench(seed, world::World::config) else { return };
    bench.run(number("EQUIVALENCE_PACKETS", 100_000));
    show(&bench.report);
    let from_pods = bench.report.programs[&generate::Hook::Tc(loader::Program::FromContainer)].compared;
    assert!(bench.report.short * 20 > from_pods, "only {} of {from_pods} by the short way", bench.report.short);
}

#[test]
fn they_agree_where_every_packet_is_reported() {
    let seed = number("EQUIVALENCE_SEED", 0xc111_0006);
    let Some((_fs, mut bench)) = bench(seed, world::World::talkative_config) else { return };
    bench.run(number("EQUIVALENCE_PACKETS", 100_000) / 5);
    show(&bench.report);
    assert_eq!(bench.report.short, 0);
}

#[test]
fn they_agree_with_the_other_configuration_too() {
    let seed = number("EQUIVALENCE_SEED", 0xc111_0002);
    let Some((_fs, mut bench)) = bench(seed, world::World::other_config) else { return };
    bench.run(number("EQUIVALENCE_PACKETS", 100_000) / 5);
    show(&bench.report);
}

/// Changes one arm only, runs, and says which kinds of difference were found.
fn planted(plant: impl FnOnce(&mut Bench)) -> Option<Vec<&'static str>> {
    planted_in(world::World::config, plant)
}

fn planted_in(choose: fn(&world::World) -> NodeConfig, plant: impl FnOnce(&mut Bench)) -> Option<Vec<&'static str>> {
    let (_fs, mut bench) = bench(0xc111_0003, choose)?;
    plant(&mut bench);
    bench.run(3_000);
    Some(found(&bench.report))
}

fn found(report: &Report) -> Vec<&'static str> {
    println!("planted: {} differences found", report.found);
    report.kinds()
}

fn assert_found(found: Option<Vec<&'static str>>, kind: &str) {
    if let Some(found) = found {
        assert!(found.contains(&kind), "a planted difference of the {kind} was not found, only {found:?}");
    }
}

#[test]
fn a_rule_that_one_arm_lacks_is_found_by_the_verdict() {
    let found = planted(|bench| {
        let all: Vec<_> = bench.native.maps.policy.iter().map(|(key, _)| *key).collect();
        all.iter().step_by(3).for_each(|key| bench.native.write(&MapWrite::Policy(*key, None)));
    });
    assert_found(found, "verdict");
}

#[test]
fn another_address_of_a_backend_is_found_by_the_bytes() {
    let found = planted(|bench| {
        let backend = LbBackend4 { address: std::net::Ipv4Addr::new(10, 0, 1, 200).into(), ..LbBackend4::default() };
        bench.native.write(&MapWrite::Backend4(3, Some(backend)));
    });
    assert_found(found, "bytes");
}

#[test]
fn another_identity_of_a_pod_is_found_by_the_mark_and_the_events() {
    let plant = |bench: &mut Bench| {
        let pod = bench.world.pods[0];
        let mut device = *bench.native.maps.devices.lookup(&pod.ifindex).expect("it is there");
        device.identity += 1;
        bench.native.write(&MapWrite::Device(pod.ifindex, Some(device)));
        let key = EndpointKey::new(pod.v4);
        assert!(bench.native.maps.lxc.lookup(&key).is_some());
    };
    assert_found(planted(plant), "events");
    // Without host routing all packets between pods go by way of the stack, and so have a mark.
    assert_found(planted_in(world::World::other_config, plant), "mark");
}

#[test]
fn a_short_way_that_prolongs_another_life_is_found() {
    // The long arm alone gets another lifetime: whatever takes the short way there then differs from it.
    let found = planted(|bench| bench.long.config.lifetimes[0] += 1);
    assert_found(found, "maps");
}

#[test]
fn another_length_of_captures_is_found_by_the_events() {
    assert_found(planted(|bench| bench.native.config.capture_len -= 1), "events");
}

#[test]
fn another_lifetime_is_found_by_the_map_contents() {
    assert_found(planted(|bench| bench.native.config.lifetimes[1] += 1), "maps");
}

#[test]
fn a_byte_changed_in_one_direction_is_found_and_shown() {
    let Some((_fs, mut bench)) = bench(0xc111_0004, world::World::config) else { return };
    bench.tamper = true;
    bench.run(200);
    assert!(bench.report.found > 0, "tampering with the answer was not noticed");
    assert!(bench.report.differences.iter().any(|d| matches!(d, Difference::Bytes { .. })));
}

#[test]
#[cfg(not(feature = "libbpf"))]
fn the_same_object_through_libbpf() {
    println!("skipped: libbpf needs libelf and zlib; with them: --features libbpf");
}

#[test]
#[cfg(feature = "libbpf")]
fn the_same_object_through_libbpf() {
    let Some((_fs, mut bench)) = bench(0xc111_0005, world::World::config) else { return };
    let Some(object) = support::object() else { return };
    let libbpf = libbpf::Libbpf::load(&object, &world::World::config(&bench.world));
    assert!(libbpf.programs() >= run::PROGRAMS.len(), "libbpf sees every program");
    bench.initial.iter().for_each(|write| libbpf.write(write));
    let (compared, not_dropped) = bench.run_beside(2_000, |stimulus| libbpf.run(stimulus));
    println!("libbpf: {compared} packets answered as by the programs aya loaded, {not_dropped} of them not dropped");
    assert!(compared > 7_000 && not_dropped * 4 > compared);
}
