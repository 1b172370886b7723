//! What is valid and probably not meant.

use api::models::LintFinding;
use policy::{Engine, PolicyObject, lint::Suspicion, preview::changed};

use crate::{BadQuestion, bad};

/// Looks at objects as if they were in force beside what the engine holds. `alone`: the engine knows no workloads, so
/// whom rules select cannot be told.
///
/// # Errors
/// When the objects are more than the engine takes.
pub fn lint(engine: &Engine, objects: &[PolicyObject], alone: bool) -> Result<Vec<LintFinding>, BadQuestion> {
    let then = changed(engine, objects, &[]).map_err(|refused| bad("documents", refused.to_string()))?;
    let mut findings = Vec::new();
    for object in objects {
        let found = |path: &str, what: String| LintFinding { object: object.key.to_string(), path: path.into(), what };
        for finding in policy::lint::lint(&then, object) {
            let needs_workloads = matches!(finding.what, Suspicion::SelectsNobody | Suspicion::PeerIsNobody { .. });
            if !(alone && needs_workloads) {
                findings.push(found(&finding.path, finding.what.to_string()));
            }
        }
        findings.extend(object.notices.iter().map(|notice| found(&notice.path, notice.what.to_owned())));
    }
    Ok(findings)
}
