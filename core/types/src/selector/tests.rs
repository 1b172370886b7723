use super::*;
use alloc::vec;

fn req(key: &str, demand: Demand) -> Requirement {
    Requirement { key: SelectorKey::parse(key), demand }
}

#[test]
fn a_requirement_without_source_is_answered_by_every_source() {
    let web = Labels::parse(["k8s:app=web", "container:id=1"]);
    for (requirement, want) in [
        (req("app", Demand::In(vec!["web".into()])), true),
        (req("k8s:app", Demand::In(vec!["web".into()])), true),
        (req("container:app", Demand::In(vec!["web".into()])), false),
        (req("app", Demand::NotIn(vec!["web".into()])), false),
        (req("tier", Demand::NotIn(vec!["web".into()])), true),
        (req("container:app", Demand::NotIn(vec!["web".into()])), true),
        (req("id", Demand::Exists), true),
        (req("k8s:id", Demand::Exists), false),
        (req("id", Demand::Absent), false),
    ] {
        assert_eq!(requirement.matches(&web), want, "{requirement:?}");
    }
}

#[test]
fn equal_selectors_are_equal_values() {
    let a = req("app", Demand::In(vec!["b".into(), "a".into(), "a".into()]));
    let b = req("tier", Demand::Exists);
    let one: Selector = [a.clone(), b.clone()].into_iter().collect();
    let two: Selector = [b, a].into_iter().collect();
    assert_eq!(one, two);
    assert!(one.matches(&Labels::parse(["k8s:app=a", "k8s:tier=x"])));
    assert!(!one.matches(&Labels::parse(["k8s:app=c", "k8s:tier=x"])));
    assert!(Selector::everything().matches(&Labels::default()));
}
