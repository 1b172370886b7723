use super::{effective_capabilities, require_capabilities, require_version, version};
use crate::error::Missing;

#[test]
fn releases_of_distributions_are_read() {
    for (release, expected) in [
        ("6.1.0-30-cloud-amd64", Some((6, 1))),
        ("6.12.9+bpo-amd64", Some((6, 12))),
        ("5.10.0", Some((5, 10))),
        ("6.18.44-fc-v509", Some((6, 18))),
        ("unknown", None),
    ] {
        assert_eq!(version(release), expected, "{release}");
    }
}

#[test]
fn an_old_kernel_is_named() {
    assert!(require_version("6.1.0").is_ok());
    let refusal = require_version("5.10.0-28-amd64").expect_err("too old");
    assert_eq!(refusal, Missing::Kernel { release: "5.10.0-28-amd64".into() });
    assert!(refusal.to_string().contains("5.10.0-28-amd64"), "{refusal}");
    assert!(require_version("unreadable").is_ok(), "what cannot be read is left to the kernel to refuse");
}

#[test]
fn the_first_missing_capability_is_named() {
    let (bpf, perfmon, net_admin, sys_admin) = (1 << 39, 1 << 38, 1 << 12, 1 << 21);
    let refused = |bits| require_capabilities(bits).err();
    assert_eq!(refused(bpf | perfmon | net_admin), None);
    assert_eq!(refused(sys_admin | net_admin), None);
    assert_eq!(refused(0), Some(Missing::Capability { capability: "CAP_BPF" }));
    assert_eq!(refused(bpf | net_admin), Some(Missing::Capability { capability: "CAP_PERFMON" }));
    assert_eq!(refused(sys_admin), Some(Missing::Capability { capability: "CAP_NET_ADMIN" }));
}

#[test]
fn the_status_file_of_a_process_is_read() {
    assert_eq!(effective_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
    assert_eq!(effective_capabilities("Name:\tx\n"), None);
}
