use super::super::object::Contents;
use super::{Budget, Limit, Loaded, Measured, MeasuredWith};

fn measured(verified: u32, stack: u32) -> Measured {
    let contents = Contents { programs: ["p".to_owned()].into(), forbidden: Vec::new() };
    let loaded = [Loaded { program: "p".to_owned(), verified, stack }];
    Measured::new(&contents, &loaded).expect("every program was loaded")
}

fn with() -> MeasuredWith {
    MeasuredWith::new("6.18.44-cloud\n", "1.96.0")
}

fn budget(verified: u32, stack: u32) -> Budget {
    Budget { measured_with: with(), programs: [("p".to_owned(), Limit { verified, stack })].into() }
}

#[test]
fn a_rise_above_the_budget_is_named() {
    assert_eq!(measured(100, 64).excess(&budget(100, 64), &with()), Vec::<String>::new());
    assert_eq!(measured(101, 64).excess(&budget(100, 64), &with()), ["p: 101 verified instructions, budget 100"]);
    assert_eq!(measured(100, 65).excess(&budget(100, 64), &with()), ["p: 65 bytes of stack, budget 64"]);
}

#[test]
fn a_program_without_a_budget_and_a_budget_without_a_program_are_named() {
    assert_eq!(measured(1, 1).excess(&Budget::default(), &with()), ["p has no budget"]);
    let mut both = budget(1, 1);
    both.programs.insert("q".to_owned(), Limit { verified: 1, stack: 1 });
    assert_eq!(measured(1, 1).excess(&both, &with()), ["q has a budget and is not in the object"]);
}

#[test]
fn an_accepted_budget_holds_what_it_was_made_from() {
    let measured = measured(12_345, 200);
    assert_eq!(measured.excess(&Budget::from_measured(&measured, with()), &with()), Vec::<String>::new());
}

#[test]
fn a_program_the_kernel_never_saw_is_an_error() {
    let contents = Contents { programs: ["p".to_owned()].into(), forbidden: Vec::new() };
    assert!(Measured::new(&contents, &[]).is_err());
}

#[test]
fn on_another_kernel_or_compiler_only_the_stack_is_held_to_the_budget() {
    assert_eq!(with(), MeasuredWith { linux: "6.18".to_owned(), rustc: "1.96".to_owned() });
    for other in [MeasuredWith::new("6.1.0-56-cloud-amd64", "1.96.0"), MeasuredWith::new("6.18.44", "1.95.0")] {
        assert_eq!(measured(900, 64).excess(&budget(100, 64), &other), Vec::<String>::new());
        assert_eq!(measured(900, 65).excess(&budget(100, 64), &other).len(), 1);
    }
}
