use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;

use kv::{Event, Failure, Outcome, Request};
use machine::{Driven, Instant, OpId, OpIds};
use types::{Cidr, NumericIdentity};

use crate::{Announcement, Config, Effect, Entry, Input, Ipcache, Source, Sync};

fn net(text: &str) -> Cidr {
    text.parse().expect("a literal")
}

#[test]
fn the_best_informed_is_believed_and_then_the_next() {
    let mut cache = Ipcache::new();
    let entry = |n| Entry::of(NumericIdentity::new(n));
    assert_eq!(cache.upsert(net("10.0.0.0/8"), Source::Generated, entry(1)), Some(&entry(1)));
    assert_eq!(cache.upsert(net("10.0.0.0/8"), Source::Local, entry(2)), Some(&entry(2)));
    assert_eq!(cache.upsert(net("10.0.0.0/8"), Source::KvStore, entry(3)), None);
    assert_eq!(cache.lookup("10.1.2.3".parse().expect("a literal")).map(|(_, source, _)| source), Some(Source::Local));
    assert_eq!(cache.remove(net("10.0.0.0/8"), Source::Local), Some(Some(&entry(3))));
    assert_eq!(cache.remove(net("10.0.0.0/8"), Source::Generated), None);
    assert_eq!(cache.remove(net("10.0.0.0/8"), Source::KvStore), Some(None));
    assert_eq!(cache.remove(net("10.0.0.0/8"), Source::KvStore), None);
    assert!(cache.is_empty());
}

struct Rig {
    sync: Driven<Sync>,
    now: Instant,
}

impl Rig {
    fn new() -> Self {
        let config = Config::new(IpAddr::from([192, 168, 0, 1]));
        Self { sync: Driven::new(Sync::new(config, OpIds::default())), now: Instant::ZERO }
    }
    fn step(&mut self, input: Input) -> Vec<Effect> {
        let mut out = Vec::new();
        self.sync.step(self.now, Some(input), |effect| out.push(effect));
        out
    }
    fn tell(&mut self, key: &str, value: Option<&str>) -> Vec<Effect> {
        let value = value.map(|text| text.as_bytes().to_vec());
        self.step(Input::Kv(Event::Changed { watch: OpId(1), key: key.to_string(), value }))
    }
}

const KEY: &str = "cilium/state/ip/v1/default/10.0.0.5";

#[test]
fn other_nodes_addresses_are_learned_and_forgotten() {
    let mut rig = Rig::new();
    assert!(matches!(&rig.step(Input::Start)[..], [Effect::Kv(OpId(1), Request::Watch(_))]));
    let value = r#"{"IP":"10.0.0.5","Mask":null,"HostIP":"192.168.0.2","ID":1234,"Key":0,"Metadata":"","K8sNamespace":"ns","K8sPodName":"pod"}"#;
    let entry = Entry {
        identity: NumericIdentity::new(1234),
        host: Some(IpAddr::from([192, 168, 0, 2])),
        pod: Some(("ns".into(), "pod".into())),
    };
    assert_eq!(rig.tell(KEY, Some(value)), [Effect::Learned(net("10.0.0.5/32"), entry)]);
    assert_eq!(rig.step(Input::Kv(Event::Synced(OpId(1)))), [Effect::Synced]);
    assert_eq!(rig.tell(KEY, Some("no json")), [Effect::Forgotten(net("10.0.0.5/32"))]);
    assert_eq!(rig.tell(KEY, None), []);
}

#[test]
fn a_broken_watch_is_set_again_and_what_it_does_not_tell_is_forgotten() {
    let mut rig = Rig::new();
    rig.step(Input::Start);
    rig.tell(KEY, Some(r#"{"IP":"10.0.0.5","HostIP":"192.168.0.2","ID":1}"#));
    rig.step(Input::Kv(Event::Synced(OpId(1))));
    assert_eq!(rig.step(Input::Kv(Event::Broken(OpId(1)))), []);
    rig.now = rig.sync.next_deadline().expect("a retry");
    let mut out = Vec::new();
    rig.sync.step(rig.now, None, |effect| out.push(effect));
    assert!(matches!(&out[..], [Effect::Kv(OpId(2), Request::Watch(_))]));
    assert_eq!(rig.step(Input::Kv(Event::Synced(OpId(2)))), [Effect::Forgotten(net("10.0.0.5/32"))]);
}

#[test]
fn own_addresses_are_told_until_the_store_holds_them() {
    let mut rig = Rig::new();
    rig.step(Input::Start);
    let ip: IpAddr = "10.0.0.9".parse().expect("a literal");
    let what = Announcement { identity: NumericIdentity::new(7), pod: None };
    let out = rig.step(Input::Announce(ip, Some(what.clone())));
    let [Effect::Kv(op, Request::Put(entry))] = &out[..] else { panic!("{out:?}") };
    assert_eq!(
        String::from_utf8(entry.value.clone()).expect("text"),
        r#"{"IP":"10.0.0.9","Mask":null,"HostIP":"192.168.0.1","ID":7,"Key":0,"Metadata":""}"#
    );
    assert_eq!(rig.step(Input::Kv(Event::Done(*op, Err(Failure::TimedOut)))), []);
    rig.now = rig.sync.next_deadline().expect("a retry");
    let mut again = Vec::new();
    rig.sync.step(rig.now, None, |effect| again.push(effect));
    let [Effect::Kv(op, Request::Put(_))] = &again[..] else { panic!("{again:?}") };
    // It is taken back while the operation is under way: the deletion follows.
    assert_eq!(rig.step(Input::Announce(ip, None)), []);
    let out = rig.step(Input::Kv(Event::Done(*op, Ok(Outcome::Written))));
    assert!(matches!(&out[..], [Effect::Kv(_, Request::Delete(_))]), "{out:?}");
}

#[test]
fn what_an_earlier_life_left_is_deleted() {
    let mut rig = Rig::new();
    rig.step(Input::Start);
    let out = rig.tell(KEY, Some(r#"{"IP":"10.0.0.5","HostIP":"192.168.0.1","ID":1}"#));
    assert!(matches!(&out[..], [Effect::Kv(_, Request::Delete(key))] if key == KEY), "{out:?}");
}
