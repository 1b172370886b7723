use alloc::collections::BTreeMap;
use alloc::string::ToString;
use core::net::IpAddr;

use machine::{Instant, Rng};

use crate::{Config, Family, HostScope, LoanId, Refusal};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal")
}

fn scope(ipv4: &str) -> HostScope {
    let config = Config {
        ipv4: Some(ipv4.parse().expect("a literal")),
        ipv6: Some("fd00::/120".parse().expect("a literal")),
        ..Config::default()
    };
    HostScope::new(&config, Rng::new(1))
}

#[test]
fn network_and_broadcast_are_never_lent_and_the_router_is_kept() {
    let mut pool = scope("10.0.0.0/29");
    pool.reserve_for_node(ip("10.0.0.1"), "router").expect("free");
    for want in ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"] {
        assert_eq!(pool.allocate(Instant::ZERO, Family::V4, "p", false).map(|loan| loan.addr), Ok(ip(want)));
    }
    let refused = pool.allocate(Instant::ZERO, Family::V4, "p", false).expect_err("exhausted");
    assert_eq!(refused.to_string(), "all 6 IPv4 addresses of the pod range 10.0.0.0/29 are in use");
    assert_eq!(pool.release(ip("10.0.0.1")), Err(Refusal::OwnedByNode(ip("10.0.0.1"))));
    for never in ["10.0.0.0", "10.0.0.7", "10.0.0.8", "9.255.255.255"] {
        assert!(matches!(pool.reserve(ip(never), "p"), Err(Refusal::OutOfRange { .. })), "{never}");
    }
    assert_eq!(pool.release(ip("10.0.0.4")), Ok(()));
    assert_eq!(pool.release(ip("10.0.0.4")), Err(Refusal::NotLent(ip("10.0.0.4"))));
    assert_eq!(pool.allocate(Instant::ZERO, Family::V4, "q", false).map(|loan| loan.addr), Ok(ip("10.0.0.4")));
}

#[test]
fn an_unconfirmed_loan_ends_after_ten_minutes_and_a_confirmed_one_does_not() {
    let mut pool = scope("10.0.0.0/24");
    let a = pool.allocate(Instant::ZERO, Family::V4, "a", true).expect("free");
    let b = pool.allocate(Instant::ZERO, Family::V6, "b", true).expect("free");
    let (_, id) = b.expires.expect("asked for");
    assert_eq!(pool.confirm(b.addr, id), Ok(()));
    assert_eq!(pool.confirm(b.addr, id), Ok(()), "a retry");
    assert_eq!(pool.next_deadline(), Some(Instant::from_secs(600)));
    assert!(pool.expire(Instant::from_secs(599)).is_empty());
    assert_eq!(pool.expire(Instant::from_secs(600)).len(), 1);
    assert_eq!(pool.next_deadline(), None);
    let (_, late) = a.expires.expect("asked for");
    assert_eq!(pool.confirm(a.addr, late), Err(Refusal::Expired(a.addr)));
    let again = pool.reserve(a.addr, "c");
    assert_eq!(again, Ok(()));
    assert_eq!(pool.loan(a.addr).map(|loan| loan.owner.to_string()), Some("c".to_string()));
}

#[test]
fn another_loan_of_the_same_address_is_not_confirmed_by_the_old_id() {
    let mut pool = scope("10.0.0.0/30");
    let a = pool.allocate(Instant::ZERO, Family::V4, "a", true).expect("free");
    pool.allocate(Instant::ZERO, Family::V4, "b", false).expect("free");
    pool.release(a.addr).expect("lent");
    let c = pool.allocate(Instant::ZERO, Family::V4, "c", true).expect("free");
    assert_eq!(c.addr, a.addr);
    assert_eq!(pool.confirm(a.addr, a.expires.expect("asked for").1), Err(Refusal::Expired(a.addr)));
}

#[test]
fn families_that_are_off_and_bounds_are_named() {
    let mut off = HostScope::new(&Config::default(), Rng::new(1));
    assert_eq!(off.allocate(Instant::ZERO, Family::V6, "a", false), Err(Refusal::FamilyOff(Family::V6)));
    let config = Config { ipv4: Some("10.0.0.0/8".parse().expect("a literal")), loans_max: 1, ..Config::default() };
    let mut one = HostScope::new(&config, Rng::new(1));
    one.allocate(Instant::ZERO, Family::V4, "a", false).expect("free");
    let refused = one.allocate(Instant::ZERO, Family::V4, "a", false);
    assert_eq!(refused, Err(Refusal::TooManyLoans { max: 1 }));
}

#[test]
fn loan_ids_print_and_parse_as_uuids() {
    let id = LoanId::draw(&mut Rng::new(7));
    let text = id.to_string();
    assert_eq!((text.len(), text.as_bytes()[14]), (36, b'4'));
    assert_eq!(text.parse(), Ok(id));
    for wrong in ["", "x", "0123456789ab-4def-8123-456789abcdef01", &text[1..]] {
        assert!(wrong.parse::<LoanId>().is_err(), "{wrong}");
    }
}

/// The whole against a naive oracle: a map from address to owner and end.
#[test]
fn random_histories_agree_with_a_list() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let mut pool = scope("10.0.0.0/28");
        let mut oracle: BTreeMap<IpAddr, Option<(Instant, LoanId)>> = BTreeMap::new();
        let mut now = Instant::ZERO;
        for _ in 0..200 {
            now += core::time::Duration::from_secs(rng.below(200));
            let ended = pool.expire(now).len();
            let before = oracle.len();
            oracle.retain(|_, end| end.is_none_or(|(at, _)| at > now));
            assert_eq!(ended, before - oracle.len());
            let some = IpAddr::from([10, 0, 0, rng.below(17) as u8]);
            match rng.below(5) {
                0 | 1 => match pool.allocate(now, Family::V4, "x", rng.chance(1, 2)) {
                    Ok(loan) => assert!(oracle.insert(loan.addr, loan.expires).is_none(), "lent twice"),
                    Err(_) => assert_eq!(oracle.len(), 14),
                },
                2 => assert_eq!(pool.release(some).is_ok(), oracle.remove(&some).is_some()),
                3 => {
                    let free = !oracle.contains_key(&some) && (1..15).contains(&last_octet(some));
                    assert_eq!(pool.reserve(some, "y").is_ok(), free);
                    if free {
                        oracle.insert(some, None);
                    }
                }
                _ => {
                    let end = oracle.get(&some).copied();
                    let id = end.flatten().map_or_else(|| LoanId::draw(&mut rng), |(_, id)| id);
                    assert_eq!(pool.confirm(some, id).is_ok(), end.is_some());
                    if end.is_some() {
                        oracle.insert(some, None);
                    }
                }
            }
            assert_eq!(
                pool.loans().map(|loan| loan.addr).collect::<alloc::vec::Vec<_>>(),
                oracle.keys().copied().collect::<alloc::vec::Vec<_>>()
            );
        }
    }
}

fn last_octet(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(_) => 0,
    }
}
