use super::*;

#[test]
fn labels_are_read_as_upstream_reads_them() {
    for (text, source, key, value) in [
        ("k8s:app=web", "k8s", "app", "web"),
        ("app", "unspec", "app", ""),
        ("$host", "reserved", "host", ""),
        ("reserved:=host", "reserved", "host", ""),
        ("reserved.host", "reserved", "host", ""),
        ("reservedz=host", "unspec", "reservedz", "host"),
        ("source::key1=value1", "source", "::key1", "value1"),
        (":2foo", "unspec", "2foo", ""),
        ("k8s:a=b=c", "k8s", "a", "b=c"),
        ("4blah=:foo=", "4blah=", "foo", ""),
    ] {
        assert_eq!(Label::parse(text), Label::new(source, key, value), "{text}");
    }
    assert_eq!(Label::parse_select("app").source(), ANY);
}

#[test]
fn a_prefix_label_answers_a_selector_that_contains_it() {
    let host = Label::cidr("10.1.2.3".parse().unwrap(), 32);
    assert_eq!(host.to_string(), "cidr:10.1.2.3/32");
    assert!(host.has(&Label::parse("cidr:10.0.0.0/8")));
    assert!(!Label::parse("cidr:10.0.0.0/8").has(&host));
    assert!(!host.has(&Label::parse("cidr:0--0/0")));
    assert_eq!(Label::cidr("2001:db8::1".parse().unwrap(), 32).to_string(), "cidr:2001-db8--0/32");
    assert_eq!(Label::cidr("::".parse().unwrap(), 0).to_string(), "cidr:0--0/0");
}

#[test]
fn a_set_holds_each_key_once_and_prints_its_identity_key() {
    let set = Labels::parse(["cidr:10.0.0.0/8", "app=web", "k8s:tier=frontend", "k8s:app=api"]);
    assert_eq!(set.identity_key(), "cidr:10.0.0.0/8=;k8s:app=api;k8s:tier=frontend;");
    assert_eq!(Labels::from_identity_key(&set.identity_key()), set);
}
