use std::collections::VecDeque;
use std::time::Duration;

use machine::{Effects, Instant, Machine};

use super::*;

/// Adds up what it is told; asks the world to double each number, and takes the double as an input of its own.
#[derive(Default)]
struct Adder {
    seen: Vec<Input>,
    alarm: Option<Instant>,
}
#[derive(Clone, Debug, PartialEq)]
enum Input {
    Number(u64),
    Doubled(u64),
    Alarm(Duration),
}
enum Effect {
    Double(u64),
    Rang(Instant),
}
impl Machine for Adder {
    type Input = Input;
    type Effect = Effect;
    fn handle(&mut self, now: Instant, input: Input, fx: &mut Effects<Effect>) {
        match input {
            Input::Number(n) => fx.push(Effect::Double(n)),
            Input::Doubled(_) => {}
            Input::Alarm(after) => self.alarm = Some(now + after),
        }
        self.seen.push(input);
    }
    fn next_deadline(&self) -> Option<Instant> {
        self.alarm
    }
    fn on_deadline(&mut self, now: Instant, fx: &mut Effects<Effect>) {
        self.alarm = None;
        fx.push(Effect::Rang(now));
    }
}
#[derive(Default)]
struct Doubler {
    rang: Vec<Instant>,
    settled: usize,
    ringing: Option<tokio::sync::oneshot::Sender<()>>,
}
impl World<Adder> for Doubler {
    fn apply(&mut self, _now: Instant, effect: Effect, outcomes: &mut VecDeque<Input>) {
        match effect {
            Effect::Double(n) => outcomes.push_back(Input::Doubled(2 * n)),
            Effect::Rang(at) => {
                self.rang.push(at);
                if let Some(ringing) = self.ringing.take() {
                    ringing.send(()).unwrap();
                }
            }
        }
    }
    fn settled(&mut self, _now: Instant, _machine: &Adder) {
        self.settled += 1;
    }
}

fn on_tokio<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn outcomes_come_back_before_what_waits_outside_and_all_that_was_queued_is_served() {
    on_tokio(async {
        let (handle, queue) = queue::<Adder>(8);
        for n in [1, 2, 3] {
            handle.send(Input::Number(n)).await.unwrap();
        }
        let looked = tokio::spawn({
            let handle = handle.clone();
            async move { handle.look(|adder| adder.seen.len()).await }
        });
        tokio::task::yield_now().await;
        drop(handle);
        let mut world = Doubler::default();
        let driven = drive(Adder::default(), &mut world, queue, std::future::pending()).await;
        let order = [1, 2, 3].into_iter().flat_map(|n| [Input::Number(n), Input::Doubled(2 * n)]);
        assert_eq!(driven.machine().seen, order.collect::<Vec<_>>());
        assert_eq!(looked.await.unwrap(), Ok(6));
        assert!(world.settled > 0);
    });
}

#[test]
fn a_deadline_wakes_the_machine_at_its_time_on_the_kernels_clock() {
    on_tokio(async {
        let (handle, queue) = queue::<Adder>(8);
        let (ringing, rung) = tokio::sync::oneshot::channel();
        let mut world = Doubler { ringing: Some(ringing), ..Doubler::default() };
        let before = now();
        handle.send(Input::Alarm(Duration::from_millis(20))).await.unwrap();
        drive(Adder::default(), &mut world, queue, async move { rung.await.unwrap() }).await;
        assert!(world.rang[0] >= before + Duration::from_millis(20));
        drop(handle);
    });
}

#[test]
fn after_a_stop_handles_are_told_that_nobody_answers() {
    on_tokio(async {
        let (handle, queue) = queue::<Adder>(8);
        drive(Adder::default(), &mut Doubler::default(), queue, std::future::ready(())).await;
        assert_eq!(handle.send(Input::Number(1)).await, Err(Closed));
        assert_eq!(handle.look(|_| ()).await, Err(Closed));
    });
}

#[test]
fn a_task_that_fails_ends_or_panics_is_named() {
    on_tokio(async {
        let mut tasks = Supervisor::new();
        tasks.supervise("one", async { Err("no luck") });
        assert_eq!(tasks.ended().await, Some(Ended { task: "one", failure: Some("no luck".into()) }));
        tasks.supervise("two", async { Ok::<_, String>(()) });
        assert_eq!(tasks.ended().await, Some(Ended { task: "two", failure: None }));
        tasks.supervise::<String>("three", async { panic!("at the {}", "disco") });
        assert_eq!(tasks.ended().await.unwrap().to_string(), "three failed: panic: at the disco");
        assert_eq!(tasks.ended().await, None);
    });
}

#[test]
fn the_clock_is_the_one_packet_programs_read() {
    // /proc/uptime counts suspend too, so it is never behind the monotonic clock.
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let secs: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    let first = now();
    assert!(first.as_nanos() as f64 / 1e9 <= secs + 5.0, "{first:?} after {secs}");
    assert!(now() >= first);
}
