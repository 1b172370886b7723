use super::super::object::Contents;
use super::{Budget, Limit, Loaded, Measured};

fn measured(verified: u32, stack: u32) -> Measured {
    let contents = Contents { programs: ["p".to_owned()].into(), forbidden: Vec::new() };
    let loaded = [Loaded { program: "p".to_owned(), verified, stack }];
    Measured::new(&contents, &loaded).expect("every program was loaded")
}

fn budget(verified: u32, stack: u32) -> Budget {
    Budget { programs: [("p".to_owned(), Limit { verified, stack })].into() }
}

#[test]
fn a_rise_above_the_budget_is_named() {
    assert_eq!(measured(100, 64).excess(&budget(100, 64)), Vec::<String>::new());
    assert_eq!(measured(101, 64).excess(&budget(100, 64)), ["p: 101 verified instructions, budget 100"]);
    assert_eq!(measured(100, 65).excess(&budget(100, 64)), ["p: 65 bytes of stack, budget 64"]);
}

#[test]
fn a_program_without_a_budget_and_a_budget_without_a_program_are_named() {
    assert_eq!(measured(1, 1).excess(&Budget::default()), ["p has no budget"]);
    let mut both = budget(1, 1);
    both.programs.insert("q".to_owned(), Limit { verified: 1, stack: 1 });
    assert_eq!(measured(1, 1).excess(&both), ["q has a budget and is not in the object"]);
}

#[test]
fn an_accepted_budget_holds_what_it_was_made_from() {
    let measured = measured(12_345, 200);
    assert_eq!(measured.excess(&Budget::from_measured(&measured)), Vec::<String>::new());
}

#[test]
fn a_program_the_kernel_never_saw_is_an_error() {
    let contents = Contents { programs: ["p".to_owned()].into(), forbidden: Vec::new() };
    assert!(Measured::new(&contents, &[]).is_err());
}
