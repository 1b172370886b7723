//! The drive loop's promises, on a machine small enough to see through.

use std::time::Duration;

use machine::testkit::{replay, step};
use machine::{Driven, Effects, Instant, Machine, Rng};

/// Rings `left` more times, a second apart, from the moment it was wound up.
#[derive(Debug, Default)]
struct Bell {
    left: u32,
    due: Option<Instant>,
    broken: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Ring {
    Wound(u32),
    Rang(u32),
}

impl Machine for Bell {
    type Input = u32;
    type Effect = Ring;
    fn handle(&mut self, now: Instant, times: u32, fx: &mut Effects<Ring>) {
        self.left = times;
        self.due = (times > 0).then(|| now + Duration::from_secs(1));
        fx.push(Ring::Wound(times));
    }
    fn next_deadline(&self) -> Option<Instant> {
        self.due
    }
    fn on_deadline(&mut self, now: Instant, fx: &mut Effects<Ring>) {
        if self.broken {
            return;
        }
        self.left -= 1;
        fx.push(Ring::Rang(self.left));
        self.due = (self.left > 0).then(|| now + Duration::from_secs(1));
    }
}

#[test]
fn deadlines_are_served_at_their_own_time_and_before_the_next_input() {
    let mut bell = Driven::new(Bell::default());
    let at = Instant::from_secs;
    let rang = replay(&mut bell, [(at(10), 2), (at(20), 1)]);
    let want = [(at(10), Ring::Wound(2)), (at(11), Ring::Rang(1)), (at(12), Ring::Rang(0)), (at(20), Ring::Wound(1))];
    assert_eq!(rang, want);
    assert_eq!(step(&mut bell, at(30), None), [Ring::Rang(0)], "served late");
    assert_eq!(step(&mut bell, at(31), None), [], "served once");
}

#[test]
fn a_clock_that_steps_back_does_not_take_the_machine_back() {
    let mut bell = Driven::new(Bell::default());
    step(&mut bell, Instant::from_secs(10), None);
    step(&mut bell, Instant::from_secs(5), Some(1));
    assert_eq!(bell.next_deadline(), Some(Instant::from_secs(11)));
}

#[test]
#[should_panic(expected = "still due")]
fn a_machine_that_leaves_a_deadline_unserved_is_found_out() {
    let mut bell = Driven::new(Bell { broken: true, ..Bell::default() });
    step(&mut bell, Instant::ZERO, Some(1));
    step(&mut bell, Instant::from_secs(1), None);
}

#[test]
fn a_childs_draws_do_not_disturb_its_siblings() {
    let draw = |first_child_draws: u32| {
        let mut root = Rng::new(7);
        let mut first = root.split("first");
        (0..first_child_draws).for_each(|_| _ = first.next_u64());
        root.split("second").next_u64()
    };
    assert_eq!(draw(0), draw(100));
    let (mut a, mut b) = (Rng::new(7), Rng::new(7));
    assert_ne!(a.split("a").next_u64(), b.split("b").next_u64());
}

#[test]
fn bounded_draws_stay_in_bounds_and_reach_every_value() {
    let mut rng = Rng::new(1);
    let mut seen = [0_u32; 5];
    for _ in 0..1_000 {
        seen[rng.below(5) as usize] += 1;
    }
    assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
    assert_eq!(rng.below(0), 0);
    assert_eq!(rng.pick::<u8>(&[]), None);
}
