//! Questions about policy: why a verdict is what it is, what a change of rules would do, what is probably not meant.
//!
//! These calls are ours; the reference has none like them.

use serde::{Deserialize, Serialize};

use super::Labels;

models! {
    /// One side of a question. One of the fields says who it is; labels together with an address mean a workload that
    /// has both.
    Party {
        labels as "labels": Labels,
        identity as "identity": Option<u32>,
        ip as "ip": String,
        pod as "pod": String,
        endpoint as "endpoint": Option<u16>,
    }
    /// Body of `POST /policy/explain`. Without a direction both ends are asked. A port of the
    /// destination may be named instead of numbered; without a protocol the name must be one port's.
    ExplainRequest {
        from as "from": Party,
        to as "to": Party,
        protocol as "protocol": String,
        port as "port": u16,
        port_name as "port-name": String,
        direction as "direction": String,
    }
    /// Its answer. `verdict` is the outcome of both ends together.
    ExplainAnswer {
        verdict as "verdict": String,
        egress as "egress": Option<Explained>,
        ingress as "ingress": Option<Explained>,
        notes as "notes": Vec<String>,
    }
    /// How one end judges.
    Explained {
        subject as "subject": String,
        peer as "peer": String,
        enforced as "enforced": bool,
        audit as "audit": bool,
        verdict as "verdict": String,
        matched as "matched": String,
        reason as "reason": String,
        deciding as "deciding": Vec<RuleRef>,
        default_deny as "default-deny": Vec<RuleRef>,
        considered as "considered": Vec<ConsideredRule>,
    }
    /// A rule by the names users know.
    RuleRef {
        kind as "kind": String,
        namespace as "namespace": String,
        name as "name": String,
        path as "path": String,
        labels as "labels": Labels,
    }
    /// A rule that was considered and does not decide.
    ConsideredRule {
        rule as "rule": RuleRef,
        action as "action": String,
        why as "why": String,
    }
    /// Body of `POST /policy/preview`: what changes, and the traffic it is tried on, or how far back into the agent's
    /// own flows.
    PreviewRequest {
        put as "put": Vec<serde_json::Value>,
        delete as "delete": Vec<ObjectRef>,
        traffic as "traffic": Traffic,
        since_seconds as "since-seconds": Option<u64>,
    }
    /// A policy object by name.
    ObjectRef {
        kind as "kind": String,
        namespace as "namespace": String,
        name as "name": String,
    }
    /// Recorded flows, alike ones together.
    Traffic {
        workloads as "workloads": Vec<Workload>,
        flows as "flows": Vec<SeenFlow>,
        skipped as "skipped": u64,
    }
    /// An end of flows, as it was recorded.
    Workload {
        name as "name": String,
        labels as "labels": Labels,
        identity as "identity": u32,
        ip as "ip": String,
    }
    /// Flows alike; `source` and `destination` are places in the list of workloads. Without a direction both ends are
    /// asked.
    SeenFlow {
        source as "source": u32,
        destination as "destination": u32,
        direction as "direction": String,
        protocol as "protocol": String,
        port as "port": u16,
        count as "count": u64,
    }
    /// What would be judged otherwise.
    PreviewAnswer {
        judged as "flows-judged": u64,
        skipped as "flows-skipped": u64,
        newly_denied as "newly-denied": u64,
        newly_allowed as "newly-allowed": u64,
        changes as "changes": Vec<VerdictChange>,
        notes as "notes": Vec<String>,
    }
    /// Flows between two workloads on one port that would be judged otherwise.
    VerdictChange {
        source as "source": String,
        destination as "destination": String,
        direction as "direction": String,
        protocol as "protocol": String,
        port as "port": u16,
        before as "before": String,
        after as "after": String,
        count as "count": u64,
        rules as "rules": Vec<RuleRef>,
    }
    /// Body of `POST /policy/lint`: documents to look at beside what is in force.
    LintRequest { documents as "documents": Vec<serde_json::Value>, }
    /// Something valid that is probably not meant.
    LintFinding {
        object as "object": String,
        path as "path": String,
        what as "what": String,
    }
}
