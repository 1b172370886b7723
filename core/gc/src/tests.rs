use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use alloc::vec;
use alloc::vec::Vec;

use machine::testkit::step;
use machine::{Driven, Instant, OpId};

use super::*;

const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));

fn at(secs: u64) -> Instant {
    Instant::from_secs(secs)
}

fn collector(config: Config) -> Driven<Collector> {
    Driven::new(Collector::new(&config.validate().expect("sensible"), Instant::ZERO))
}

fn sweep(op: u64, why: Why, addresses: &[IpAddr]) -> Vec<Effect> {
    vec![Effect::Sweep(OpId(op), Sweep { why, addresses: addresses.to_vec() })]
}

#[test]
fn the_first_sweep_comes_after_five_minutes_and_only_one_runs() {
    let mut gc = collector(Config::default());
    assert_eq!(gc.next_deadline(), Some(at(300)));
    assert_eq!(step(&mut gc, at(299), None), []);
    assert_eq!(step(&mut gc, at(300), None), sweep(1, Why::Periodic, &[]));
    assert_eq!(gc.next_deadline(), None);
    assert_eq!(step(&mut gc, at(4000), Some(Input::Sweep)), []);
    // Asked while one ran: another one.
    let ended = Some(Input::Swept(OpId(1), Ok(Share::of(10, 100))));
    assert_eq!(step(&mut gc, at(4001), ended), sweep(2, Why::Asked, &[]));
}

#[test]
fn the_interval_follows_what_is_found_within_its_bounds() {
    let mut gc = collector(Config::default());
    let mut now = Instant::ZERO;
    let mut op = 0;
    let mut run = |gc: &mut Driven<Collector>, share: Share| {
        op += 1;
        now = gc.next_deadline().expect("nothing runs");
        assert_eq!(step(gc, now, None), sweep(op, Why::Periodic, &[]));
        step(gc, now, Some(Input::Swept(OpId(op), Ok(share))));
        gc.machine().interval().as_secs()
    };
    assert_eq!(run(&mut gc, Share::of(10, 100)), 300); // neither much nor little
    assert_eq!(run(&mut gc, Share::of(40, 100)), 180); // 300 x (1 - 0.4)
    assert_eq!(run(&mut gc, Share::of(95, 100)), 18); // 180 x (1 - 0.9), at most
    assert_eq!(run(&mut gc, Share::of(95, 100)), 10); // never below ten seconds
    assert_eq!(run(&mut gc, Share::of(1, 100)), 15); // half as late again
    assert_eq!(run(&mut gc, Share::of(0, 100)), 15); // an empty map says nothing
    for _ in 0..40 {
        run(&mut gc, Share::of(1, 100));
    }
    assert_eq!(gc.machine().interval(), Duration::from_hours(12));
}

#[test]
fn an_early_sweep_counts_for_the_share_it_would_have_found() {
    let mut gc = collector(Config::default());
    assert_eq!(step(&mut gc, at(30), Some(Input::Sweep)), sweep(1, Why::Asked, &[]));
    // Six of a hundred in a tenth of the time: sixty, so 300 x (1 - 0.6).
    step(&mut gc, at(30), Some(Input::Swept(OpId(1), Ok(Share::of(6, 100)))));
    assert_eq!(gc.machine().interval(), Duration::from_secs(120));
}

#[test]
fn a_fixed_interval_stays() {
    let mut gc = collector(Config { fixed: Some(Duration::from_secs(60)), ..Config::default() });
    assert_eq!(step(&mut gc, at(60), None), sweep(1, Why::Periodic, &[]));
    step(&mut gc, at(61), Some(Input::Swept(OpId(1), Ok(Share::of(90, 100)))));
    assert_eq!(gc.next_deadline(), Some(at(121)));
}

#[test]
fn departures_are_gathered_and_rest_between_sweeps_is_kept() {
    let mut gc = collector(Config::default());
    assert_eq!(step(&mut gc, at(5), Some(Input::AddressGone(IP))), []);
    assert_eq!(step(&mut gc, at(5), Some(Input::ServiceChanged)), []);
    assert_eq!(gc.next_deadline(), Some(at(6)));
    assert_eq!(step(&mut gc, at(6), None), sweep(1, Why::Departures, &[IP]));
    step(&mut gc, at(7), Some(Input::Swept(OpId(1), Ok(Share::default()))));
    // A hundred changes a second afterwards are one sweep each ten seconds.
    for _ in 0..100 {
        assert_eq!(step(&mut gc, at(8), Some(Input::ServiceChanged)), []);
    }
    assert_eq!(gc.next_deadline(), Some(at(17)));
    assert_eq!(step(&mut gc, at(17), None), sweep(2, Why::Departures, &[]));
}

#[test]
fn what_a_failed_sweep_was_to_take_away_is_taken_by_the_next() {
    let mut gc = collector(Config::default());
    step(&mut gc, at(1), Some(Input::AddressGone(IP)));
    assert_eq!(step(&mut gc, at(2), None), sweep(1, Why::Departures, &[IP]));
    step(&mut gc, at(3), Some(Input::Swept(OpId(1), Err(Failed))));
    assert_eq!(gc.next_deadline(), Some(at(13)));
    assert_eq!(step(&mut gc, at(13), None), sweep(2, Why::Departures, &[IP]));
    // The outcome of a sweep that is not this one changes nothing.
    assert_eq!(step(&mut gc, at(14), Some(Input::Swept(OpId(1), Ok(Share::default())))), []);
    assert!(gc.machine().is_sweeping());
}

#[test]
fn pressure_is_answered_at_once_and_then_with_rest() {
    let mut gc = collector(Config::default());
    assert_eq!(step(&mut gc, at(1), Some(Input::NatPressure)), sweep(1, Why::Pressure, &[]));
    step(&mut gc, at(2), Some(Input::Swept(OpId(1), Ok(Share::default()))));
    assert_eq!(step(&mut gc, at(2), Some(Input::NatPressure)), []);
    assert_eq!(gc.next_deadline(), Some(at(12)));
}

#[test]
fn too_many_addresses_do_not_wait() {
    let mut gc = collector(Config { addresses_max: 2, ..Config::default() });
    let other = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 8));
    assert_eq!(step(&mut gc, at(1), Some(Input::AddressGone(IP))), []);
    assert_eq!(step(&mut gc, at(1), Some(Input::AddressGone(other))), sweep(1, Why::Asked, &[IP, other]));
}

#[test]
fn senseless_times_are_refused() {
    let refused = |config: Config| config.validate().err();
    let brief = Duration::from_millis(10);
    assert_eq!(refused(Config { fixed: Some(brief), ..Config::default() }), Some(ConfigError::TooShort));
    let shortest = Duration::from_secs(10);
    let crossed = Config { longest: Duration::from_secs(5), ..Config::default() };
    assert_eq!(refused(crossed), Some(ConfigError::Crossed { shortest }));
    assert_eq!(refused(Config { addresses_max: 0, ..Config::default() }), Some(ConfigError::NoRoom));
}
