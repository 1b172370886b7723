//! The engine's names in the API's models.

use api::models::RuleRef;
use policy::{RuleName, engine::Fit, preview::Outcome};

/// A rule.
pub(crate) fn rule(name: &RuleName) -> RuleRef {
    match name {
        RuleName::Rule { object, labels, path, .. } => RuleRef {
            kind: object.kind.name().into(),
            namespace: object.namespace.to_string(),
            name: object.name.to_string(),
            path: path.clone(),
            labels: labels.iter().map(ToString::to_string).collect(),
        },
        RuleName::LocalHost => builtin("the node may always reach its endpoints (allow-localhost)"),
        RuleName::NoDefaultDeny => builtin("no rule switches default deny on"),
    }
}

fn builtin(what: &str) -> RuleRef {
    RuleRef { name: what.into(), ..RuleRef::default() }
}

pub(crate) const fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Allowed => "allowed",
        Outcome::Redirected => "redirected",
        Outcome::Denied => "denied",
    }
}

pub(crate) const fn fit(fit: Fit) -> &'static str {
    match fit {
        Fit::SaidByWider => "it says the same of a prefix within the deciding rule's, which is named for both",
        Fit::Overruled => "peer and port fit, but another rule decides",
        Fit::OtherPorts => "the peer fits, the port does not",
        Fit::OtherPeers => "the port fits, the peer does not",
    }
}
