//! Policy documents in questions: read as the agent reads them, every mistake named.

use api::models::ObjectRef;
use policy::{
    ObjectKey, ObjectKind, PolicyObject,
    parse::{Options, parse_value},
};
use serde_json::Value;

use crate::{BadQuestion, bad};

/// Reads documents; `field` is the list they came in.
///
/// # Errors
/// Every mistake of every document, one to a line.
pub fn read(field: &str, documents: &[Value], options: &Options) -> Result<Vec<PolicyObject>, BadQuestion> {
    let mut objects = Vec::new();
    let mut mistakes = Vec::new();
    for (index, value) in documents.iter().enumerate() {
        match parse_value(value, options) {
            Ok(read) => objects.extend(read),
            Err(errors) => mistakes.extend(errors.into_iter().map(|mut error| {
                error.document = index;
                error.to_string()
            })),
        }
    }
    if mistakes.is_empty() { Ok(objects) } else { Err(bad(field, mistakes.join("\n"))) }
}

/// The key of an object that is named: its kind, and for kinds with namespaces its namespace.
///
/// # Errors
/// When the kind is none of ours, or the name is missing.
pub fn object_key(field: &str, named: &ObjectRef) -> Result<ObjectKey, BadQuestion> {
    let kind = match named.kind.to_ascii_lowercase().as_str() {
        "" | "cnp" | "ciliumnetworkpolicy" => ObjectKind::CiliumNetworkPolicy,
        "ccnp" | "ciliumclusterwidenetworkpolicy" => ObjectKind::CiliumClusterwideNetworkPolicy,
        "knp" | "networkpolicy" => ObjectKind::NetworkPolicy,
        "rules" => ObjectKind::Rules,
        _ => {
            let why = format!("{:?} is no kind of policy; known are cnp, ccnp, knp and rules", named.kind);
            return Err(bad(field, why));
        }
    };
    if named.name.is_empty() {
        return Err(bad(field, "the name of the policy is missing; KIND/NAMESPACE/NAME is expected"));
    }
    let namespace = match kind {
        ObjectKind::CiliumClusterwideNetworkPolicy | ObjectKind::Rules => "",
        _ if named.namespace.is_empty() => "default",
        _ => named.namespace.as_str(),
    };
    Ok(ObjectKey { kind, namespace: namespace.into(), name: named.name.as_str().into() })
}

/// What the objects ask for that is understood and not enforced.
pub(crate) fn notices<'o>(objects: impl IntoIterator<Item = &'o PolicyObject>) -> Vec<String> {
    let of = |object: &PolicyObject| {
        let key = object.key.to_string();
        object.notices.iter().map(move |notice| format!("{key}: {}: {}", notice.path, notice.what)).collect::<Vec<_>>()
    };
    objects.into_iter().flat_map(of).collect()
}
