//! What can go wrong, one at a time and then at random.

use crate::cluster::{
    EPOCH_NS, Fault, Got, Plan, WINDOW, at, check, flows_between, longest_delay, named, node, run, second,
};
use hubble_api::{observer::GetFlowsRequest, relay::NodeState};
use machine::Rng;
use std::time::Duration;

fn follow() -> GetFlowsRequest {
    GetFlowsRequest { follow: true, ..GetFlowsRequest::default() }
}

/// A little more than the window: messages take their time.
const IN_TIME: Duration = Duration::from_millis(1_150);

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn flows_of_all_nodes_come_in_order_and_at_once() {
    let heard = run(Plan::new(1, 3, follow()));
    check(&heard, &[0; 3]);
    let connected =
        Got::Status { state: NodeState::NodeConnected, names: vec![node(0), node(1), node(2)], message: String::new() };
    assert_eq!(heard[0].got, connected);
    for index in 0..3 {
        assert!(flows_between(&heard, index, 4, 20) > 16 * 49, "all of them");
    }
    // Everybody speaks all the time, so nobody waits for the window.
    assert!(longest_delay(&heard, &[0, 1, 2], secs(4)) < Duration::from_millis(100));
}

#[test]
fn a_node_that_stops_is_named_and_comes_back() {
    let faults = vec![at(6, |sim| sim.crash("node-1")), at(15, |sim| sim.bounce("node-1"))];
    let heard = run(Plan { faults, run_for: secs(40), ..Plan::new(2, 3, follow()) });
    check(&heard, &[0; 3]);
    let (when, message) = named(&heard, NodeState::NodeError, 1, 6).expect("it is named");
    assert!(when < secs(20), "{when:?} {message}");
    assert!(longest_delay(&heard, &[0, 2], secs(4)) < IN_TIME, "the others are not held up");
    assert!(named(&heard, NodeState::NodeConnected, 1, 15).is_some());
    assert!(flows_between(&heard, 1, 30, 40) > 400, "it is heard again");
}

#[test]
fn a_node_that_hangs_holds_nobody_up_while_followed() {
    let faults = vec![at(6, |sim| sim.hold("relay", "node-2")), at(40, |sim| sim.release("relay", "node-2"))];
    let heard = run(Plan { faults, run_for: secs(80), ..Plan::new(3, 3, follow()) });
    check(&heard, &[0; 3]);
    assert!(longest_delay(&heard, &[0, 1], secs(4)) < IN_TIME);
    assert!(named(&heard, NodeState::NodeError, 2, 6).is_some_and(|(when, _)| when < secs(20)));
    assert!(flows_between(&heard, 2, 75, 80) > 200, "it is heard again");
    // What its ring kept meanwhile comes too: asked since the last flow that was heard.
    let Some(Got::Flow { number, .. }) =
        heard.iter().rev().map(|one| &one.got).find(|got| matches!(got, Got::Flow { node: 2, .. }))
    else {
        panic!("it was heard")
    };
    let all = heard.iter().filter(|one| matches!(one.got, Got::Flow { node: 2, .. })).count();
    assert!(i64::try_from(all).expect("few") + 110 > *number, "{all} of {number}");
}

#[test]
fn a_partition_is_named_and_heals() {
    let faults = vec![at(6, |sim| sim.partition("relay", "node-1")), at(26, |sim| sim.repair("relay", "node-1"))];
    let heard = run(Plan { faults, run_for: secs(90), ..Plan::new(4, 3, follow()) });
    check(&heard, &[0; 3]);
    assert!(longest_delay(&heard, &[0, 2], secs(4)) < IN_TIME);
    assert!(named(&heard, NodeState::NodeError, 1, 6).is_some());
    assert!(flows_between(&heard, 1, 85, 90) > 200);
}

#[test]
fn a_slow_node_is_late_and_nobody_else() {
    let faults = vec![at(1, |sim| sim.set_link_latency("relay", "node-1", Duration::from_millis(1_600)))];
    let heard = run(Plan { faults, ask_at: secs(12), run_for: secs(40), ..Plan::new(5, 3, follow()) });
    check(&heard, &[0; 3]);
    assert!(longest_delay(&heard, &[0, 2], secs(14)) < IN_TIME);
    assert!(flows_between(&heard, 1, 20, 40) > 900, "late, but there");
}

#[test]
fn a_clock_an_hour_off_starves_nobody() {
    for hour in [-3_600_000_000_000, 3_600_000_000_000] {
        let skew_ns = vec![0, hour, 0];
        let heard = run(Plan { skew_ns: skew_ns.clone(), ..Plan::new(6, 3, follow()) });
        check(&heard, &skew_ns);
        for index in 0..3 {
            assert!(flows_between(&heard, index, 5, 20) > 14 * 49, "{index} with {hour}");
        }
        assert!(longest_delay(&heard, &[0, 2], secs(4)) < IN_TIME);
    }
}

/// Numbers by node of what a request about the past was answered with, and when it ended.
fn answer(plan: Plan) -> (Vec<(usize, i64, i64)>, Vec<Got>, Duration) {
    let heard = run(plan);
    let flows = heard.iter().filter_map(|one| match one.got {
        Got::Flow { node, number, at_ns } => Some((node, number, at_ns)),
        _ => None,
    });
    let last = heard.last().expect("something was heard");
    assert_eq!(last.got, Got::End(String::new()));
    let rest = heard.iter().map(|one| one.got.clone()).filter(|got| !matches!(got, Got::Flow { .. })).collect();
    (flows.collect(), rest, last.at)
}

#[test]
fn numbers_mean_the_cluster() {
    let ask = |request: GetFlowsRequest| answer(Plan { ask_at: secs(5), ..Plan::new(7, 3, request) }).0;
    let last = ask(GetFlowsRequest { number: 30, ..GetFlowsRequest::default() });
    assert_eq!(last.len(), 30);
    assert!(last.is_sorted_by_key(|(_, _, at_ns)| *at_ns));
    let oldest = last[0].2;
    let everything = ask(GetFlowsRequest::default());
    assert!(everything.is_sorted_by_key(|(_, _, at_ns)| *at_ns), "whole rings in the order of time");
    assert!(everything.len() > 3 * 5 * 49);
    // The answers are moments apart, so the thirty are a part of the whole, without a hole.
    let same = everything.iter().filter(|(_, _, at_ns)| (oldest..=last[29].2).contains(at_ns)).count();
    assert_eq!(same, 30);
    let first = ask(GetFlowsRequest { number: 7, first: true, ..GetFlowsRequest::default() });
    assert_eq!(first, everything[..7]);
    let since = ask(GetFlowsRequest { number: 9, since: second(3), ..GetFlowsRequest::default() });
    let from = everything.iter().position(|(_, _, at_ns)| *at_ns >= EPOCH_NS + 3_000_000_000).expect("there are");
    assert_eq!(since, everything[from..from + 9]);
    let until = ask(GetFlowsRequest { since: second(2), until: second(3), ..GetFlowsRequest::default() });
    assert!((140..=160).contains(&until.len()), "{}", until.len());
}

#[test]
fn a_question_about_the_past_does_not_wait_for_who_hangs() {
    let request = GetFlowsRequest { number: 20, ..GetFlowsRequest::default() };
    let faults = vec![at(4, |sim| sim.hold("relay", "node-1"))];
    let (flows, rest, ended) = answer(Plan { faults, ask_at: secs(5), ..Plan::new(8, 3, request) });
    assert_eq!(flows.len(), 20);
    assert!(flows.iter().all(|(node, ..)| *node != 1));
    assert!(ended < secs(8), "{ended:?}");
    let named =
        |got: &Got| matches!(got, Got::Status { state: NodeState::NodeError, names, .. } if *names == [node(1)]);
    assert!(rest.iter().any(named), "{rest:?}");
}

/// A connection nobody uses is looked after too: whoever asks later need not find out.
#[test]
fn a_node_that_hangs_while_nobody_asks_is_known_to_be_unavailable() {
    let request = GetFlowsRequest { number: 20, ..GetFlowsRequest::default() };
    let faults = vec![at(4, |sim| sim.hold("relay", "node-1"))];
    let plan = Plan { faults, ask_at: secs(30), run_for: secs(40), ..Plan::new(8, 3, request) };
    let (flows, rest, ended) = answer(plan);
    assert_eq!(flows.len(), 20);
    assert!(ended < secs(31), "it is not waited for: {ended:?}");
    let named =
        |got: &Got| matches!(got, Got::Status { state: NodeState::NodeUnavailable, names, .. } if *names == [node(1)]);
    assert!(rest.iter().any(named), "{rest:?}");
}

#[test]
fn a_question_about_the_past_gives_what_there_is_before_it_gives_up() {
    let faults = vec![at(4, |sim| sim.hold("relay", "node-1"))];
    let heard = run(Plan { faults, ask_at: secs(5), ..Plan::new(9, 3, GetFlowsRequest::default()) });
    let first = heard.iter().find(|one| matches!(one.got, Got::Flow { .. })).expect("flows of the others");
    assert!(first.at < secs(5) + IN_TIME, "{:?}", first.at);
    let ended = heard.last().expect("an end");
    assert!(ended.got == Got::End(String::new()) && ended.at < secs(8) + WINDOW, "{ended:?}");
}

#[test]
fn following_begins_with_the_last_of_all() {
    let heard = run(Plan { ask_at: secs(5), ..Plan::new(10, 3, GetFlowsRequest { number: 30, ..follow() }) });
    check(&heard, &[0; 3]);
    let first = heard.iter().find_map(|one| match one.got {
        Got::Flow { at_ns, .. } => Some((one.at, at_ns)),
        _ => None,
    });
    let (when, at_ns) = first.expect("flows");
    let behind = EPOCH_NS + i64::try_from(when.as_nanos()).expect("short") - at_ns;
    // Three nodes make 150 flows a second; thirty are a fifth of one.
    assert!((100_000_000..400_000_000).contains(&behind), "{behind}");
}

#[test]
fn an_end_in_time_ends_the_stream() {
    let heard = run(Plan::new(11, 3, GetFlowsRequest { until: second(6), ..follow() }));
    check(&heard, &[0; 3]);
    let end = heard.last().expect("something");
    assert!(end.got == Got::End(String::new()) && end.at < secs(8), "{end:?}");
}

/// Faults of all kinds at random times, then none.
fn at_random(seed: u64, nodes: usize, until: u64) -> Vec<Fault> {
    let mut rng = Rng::new(seed).split("faults");
    let mut faults = Vec::new();
    let mut now = 4;
    while now + 12 < until {
        let victim = node(usize::try_from(rng.below(nodes as u64)).expect("few"));
        let end = now + 1 + rng.below(9);
        let v = victim.clone();
        match rng.below(4) {
            0 => faults
                .extend([at(now, move |sim| sim.crash(v.as_str())), at(end, move |sim| sim.bounce(victim.as_str()))]),
            1 => faults.extend([
                at(now, move |sim| sim.partition("relay", v.as_str())),
                at(end, move |sim| sim.repair("relay", victim.as_str())),
            ]),
            2 => faults.extend([
                at(now, move |sim| sim.hold("relay", v.as_str())),
                at(end, move |sim| sim.release("relay", victim.as_str())),
            ]),
            _ => faults.extend([
                at(now, move |sim| sim.set_link_latency("relay", v.as_str(), Duration::from_millis(900))),
                at(end, move |sim| sim.set_link_latency("relay", victim.as_str(), Duration::from_millis(2))),
            ]),
        }
        now = end + rng.below(4);
    }
    faults
}

fn random_run(seed: u64) -> Vec<crate::cluster::Heard> {
    let faults = at_random(seed, 4, 60);
    run(Plan { faults, run_for: secs(110), ..Plan::new(seed, 4, follow()) })
}

#[test]
fn whatever_happens_nothing_is_lost_without_a_word_and_all_heals() {
    let seeds = std::env::var("RELAY_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4_u64);
    for seed in 100..100 + seeds {
        let heard = random_run(seed);
        let trouble = std::panic::catch_unwind(|| check(&heard, &[0; 4]));
        assert!(trouble.is_ok(), "seed {seed}");
        for index in 0..4 {
            // Without faults for 50 s: retries are at most 30 s apart.
            assert!(flows_between(&heard, index, 105, 110) > 200, "seed {seed}: {} is back", node(index));
        }
    }
}

#[test]
fn one_seed_is_one_run() {
    let (first, second) = (random_run(7), random_run(7));
    assert!(first.len() > 1_000);
    assert_eq!(first, second);
    assert_ne!(first, random_run(8));
}
