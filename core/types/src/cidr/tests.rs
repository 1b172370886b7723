use super::*;
use alloc::string::ToString;

fn cidr(text: &str) -> Cidr {
    text.parse().expect("a literal")
}

#[test]
fn what_is_no_prefix_is_refused_with_the_reason() {
    for (text, want) in [
        ("10.0.0.0", CidrError::NoLength),
        ("10.0.0/8", CidrError::Address),
        ("10.0.0.0/33", CidrError::Length { max: 32 }),
        ("10.0.0.0/+8", CidrError::Length { max: 32 }),
        ("10.0.0.0/", CidrError::Length { max: 32 }),
        ("fd00::/129", CidrError::Length { max: 128 }),
        ("10.0.0.1/8", CidrError::HostBits { prefix: cidr("10.0.0.0/8") }),
        ("fd00::1/64", CidrError::HostBits { prefix: cidr("fd00::/64") }),
    ] {
        assert_eq!(text.parse::<Cidr>(), Err(want), "{text}");
    }
}

#[test]
fn covering_is_by_bits_and_family() {
    for (outer, inner, covers) in [
        ("0.0.0.0/0", "255.255.255.255/32", true),
        ("10.0.0.0/8", "10.1.0.0/16", true),
        ("10.1.0.0/16", "10.0.0.0/8", false),
        ("0.0.0.0/0", "::/0", false),
        ("fd00::/8", "fd12::1/128", true),
        ("fd00::/8", "fe00::/8", false),
    ] {
        assert_eq!(cidr(outer).covers(&cidr(inner)), covers, "{outer} {inner}");
    }
}

#[test]
fn halves_and_parents_undo_each_other() {
    for text in ["0.0.0.0/0", "10.0.0.0/8", "10.128.0.0/31", "::/0", "fd00::/127"] {
        let (low, high) = cidr(text).halves().expect("not a host");
        assert_eq!((low.parent(), high.parent()), (Some(cidr(text)), Some(cidr(text))));
        assert!(low != high && cidr(text).covers(&high), "{low} {high}");
    }
    assert_eq!(cidr("1.2.3.4/32").halves(), None);
    assert_eq!(cidr("::/0").parent(), None);
    assert_eq!(cidr("fd00::/8").to_string(), "fd00::/8");
}
