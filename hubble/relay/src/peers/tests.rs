//! Each rule of who is connected when.

use super::*;
use machine::{
    Driven,
    testkit::{run_until, step},
};

fn peer(name: &str, address: &str) -> Peer {
    Peer { name: name.into(), address: address.into(), server_name: None }
}

fn fresh() -> Driven<Peers> {
    Driven::new(Peers::new(Config::default(), Rng::new(1)))
}

fn ms(at: u64) -> Instant {
    Instant::from_millis(at)
}

fn connect(id: u64, name: &str, address: &str) -> Effect {
    Effect::Connect(ConnectionId(id), peer(name, address), Address::parse(address, 4244).expect("an address"))
}

fn links(peers: &Driven<Peers>) -> Vec<String> {
    let show = |known: &Known| match &known.link {
        Link::NoAddress(_) => format!("{} none", known.peer.name),
        Link::Connecting(id) => format!("{} connecting {}", known.peer.name, id.0),
        Link::Ready(id) => format!("{} ready {}", known.peer.name, id.0),
        Link::Failed { why, .. } => format!("{} failed {why}", known.peer.name),
    };
    peers.machine().known().map(show).collect()
}

#[test]
fn nodes_are_connected_as_they_are_announced_and_closed_as_they_go() {
    let mut peers = fresh();
    for (input, effects, want) in [
        (None, vec![Effect::OpenService], &[][..]),
        (Some(Input::ServiceOpened), vec![], &[]),
        (Some(Input::Announced(peer("a", "10.0.0.1"))), vec![connect(1, "a", "10.0.0.1")], &["a connecting 1"]),
        (Some(Input::Connected(ConnectionId(1))), vec![], &["a ready 1"]),
        (Some(Input::Announced(peer("a", "10.0.0.1"))), vec![], &["a ready 1"]),
        (
            Some(Input::Announced(peer("a", "10.0.0.2"))),
            vec![Effect::Close(ConnectionId(1)), connect(2, "a", "10.0.0.2")],
            &["a connecting 2"],
        ),
        (Some(Input::Lost(ConnectionId(1), "late news".into())), vec![], &["a connecting 2"]),
        (Some(Input::Announced(peer("b", "nowhere"))), vec![], &["a connecting 2", "b none"]),
        (Some(Input::Withdrawn("a".into())), vec![Effect::Close(ConnectionId(2))], &["b none"]),
        (Some(Input::Withdrawn("a".into())), vec![], &["b none"]),
        (
            Some(Input::Announced(peer("", "10.0.0.3"))),
            vec![Effect::Refused(peer("", "10.0.0.3"), Refusal::Nameless)],
            &["b none"],
        ),
    ] {
        let said = format!("{input:?}");
        assert_eq!(step(&mut peers, ms(1), input), effects, "{said}");
        assert_eq!(links(&peers), want, "{said}");
    }
}

#[test]
fn failures_are_tried_again_after_growing_pauses_up_to_a_bound() {
    let mut peers = fresh();
    step(&mut peers, ms(0), Some(Input::ServiceOpened));
    step(&mut peers, ms(0), Some(Input::Announced(peer("a", "10.0.0.1"))));
    let mut now = ms(0);
    let mut pauses = Vec::new();
    for id in 1..=10 {
        step(&mut peers, now, Some(Input::Lost(ConnectionId(id), "refused".into())));
        let due = peers.machine().known.get("a").map(|known| known.link.clone());
        let Some(Link::Failed { retry_at, .. }) = due else { panic!("{due:?}") };
        pauses.push(retry_at.since(now));
        let mut effects = Vec::new();
        run_until(&mut peers, retry_at, &mut effects);
        assert_eq!(effects.last(), Some(&(retry_at, connect(id + 1, "a", "10.0.0.1"))));
        now = retry_at;
    }
    for (at, pause) in pauses.iter().enumerate() {
        let longest = RETRY_FIRST.saturating_mul(1 << at).min(Duration::from_secs(30));
        assert!(*pause <= longest && *pause >= longest.mul_f64(0.74), "{at}: {pause:?} of {longest:?}");
    }
    step(&mut peers, now, Some(Input::Connected(ConnectionId(11))));
    step(&mut peers, now, Some(Input::Lost(ConnectionId(11), "reset".into())));
    assert_eq!(links(&peers), ["a failed reset"]);
    assert!(peers.next_deadline().expect("a retry").since(now) <= RETRY_FIRST, "success begins anew");
}

#[test]
fn nodes_stay_while_the_service_is_away_and_those_not_named_again_go() {
    let mut peers = fresh();
    assert_eq!(step(&mut peers, ms(0), Some(Input::ServiceOpened)), [Effect::OpenService]);
    step(&mut peers, ms(0), Some(Input::Announced(peer("a", "10.0.0.1"))));
    step(&mut peers, ms(0), Some(Input::Announced(peer("b", "10.0.0.2"))));
    step(&mut peers, ms(10_000), Some(Input::ServiceClosed("reset".into())));
    assert!(!peers.machine().service_is_open());
    let mut effects = Vec::new();
    run_until(&mut peers, ms(60_000), &mut effects);
    assert_eq!(
        effects.iter().map(|(_, effect)| effect).collect::<Vec<_>>(),
        [&Effect::OpenService],
        "asked once, waits"
    );
    assert_eq!(links(&peers).len(), 2);
    step(&mut peers, ms(60_000), Some(Input::ServiceOpened));
    step(&mut peers, ms(60_100), Some(Input::Announced(peer("b", "10.0.0.2"))));
    assert_eq!(links(&peers).len(), 2);
    assert_eq!(step(&mut peers, ms(65_000), None), [Effect::Close(ConnectionId(1))]);
    assert_eq!(links(&peers), ["b connecting 2"]);
}

#[test]
fn there_is_a_bound() {
    let config = Config { peers_max: 1, ..Config::default() };
    let mut peers = Driven::new(Peers::new(config, Rng::new(1)));
    step(&mut peers, ms(0), Some(Input::Announced(peer("a", "10.0.0.1"))));
    let refused = step(&mut peers, ms(0), Some(Input::Announced(peer("b", "10.0.0.2"))));
    assert_eq!(refused, [Effect::Refused(peer("b", "10.0.0.2"), Refusal::TooMany(1))]);
}
