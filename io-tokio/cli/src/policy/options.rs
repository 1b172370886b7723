//! Flags of `cilium policy explain`, `preview`, `lint` and `validate`.

use std::path::PathBuf;
use std::time::Duration;

use api::models::ObjectRef;
use clap::{Args, ValueEnum};

/// Where the rules in force come from.
#[derive(Debug, Args)]
#[allow(missing_docs, reason = "each field's text is the option's help")]
pub struct RulesInForce {
    /// Take the rules in force from these files or directories and do not ask the agent
    #[arg(long = "rules", value_name = "PATH")]
    pub rules: Vec<PathBuf>,
    /// Do not ask the agent: nothing is in force but what --rules names
    #[arg(long)]
    pub offline: bool,
    /// Without an agent: when endpoints are judged
    #[arg(long, value_enum, default_value_t = Enforcing::Default, value_name = "MODE")]
    pub enable_policy: Enforcing,
    /// Without an agent: name of the cluster, which the entity `cluster` means
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub cluster_name: String,
}

impl RulesInForce {
    /// Whether the agent is left alone.
    pub(crate) fn is_offline(&self) -> bool {
        self.offline || !self.rules.is_empty()
    }
}

/// Modes of enforcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Enforcing {
    /// Per direction, once a rule speaks of it
    Default,
    /// Always
    Always,
    /// Never
    Never,
}

/// `cilium policy explain`
#[derive(Debug, Args)]
#[command(after_help = "\
FROM and TO are one of: labels (k8s:app=web,k8s:io.kubernetes.pod.namespace=shop), a pod of this node (shop/web-1), \
an endpoint (endpoint:7), an identity's number, an address, or an entity (world, host, …).")]
#[allow(missing_docs, reason = "each field's text is the option's help")]
pub struct ExplainOptions {
    /// Who sends
    #[arg(long, value_name = "FROM", required_unless_present = "flow")]
    pub from: Option<String>,
    /// Who receives
    #[arg(long, value_name = "TO", required_unless_present = "flow")]
    pub to: Option<String>,
    /// Destination port and protocol, or ICMP type and family: 80/TCP, 53/UDP, 8/ICMP, 128/ICMPv6; or the name the
    /// destination gives the port: http, dns/UDP
    #[arg(long, value_name = "PORT[/PROTOCOL]", required_unless_present = "flow")]
    pub port: Option<String>,
    /// Only the end that judges in this direction
    #[arg(long, value_name = "DIRECTION", value_parser = ["ingress", "egress"])]
    pub direction: Option<String>,
    /// A flow as Hubble prints it: JSON, a file with it, or - for standard input
    #[arg(long, value_name = "FLOW", conflicts_with_all = ["from", "to", "port"])]
    pub flow: Option<String>,
    /// Rules in files or directories; the agent is not asked
    #[arg(short = 'f', long = "file", value_name = "PATH")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub in_force: RulesInForce,
}

/// `cilium policy preview`
#[derive(Debug, Args)]
#[command(after_help = "Exit code: 0 nothing would newly be denied, 3 something would, 1 the question failed.")]
#[allow(missing_docs, reason = "each field's text is the option's help")]
pub struct PreviewOptions {
    /// Policies to add or to put in place of those with the same name: files, directories, or -
    #[arg(short = 'f', long = "file", value_name = "PATH", required_unless_present = "delete")]
    pub files: Vec<PathBuf>,
    /// Policy to take away: [KIND/]NAMESPACE/NAME, where KIND is cnp (default), ccnp or knp; ccnp/NAME
    #[arg(long, value_name = "POLICY", value_parser = object_ref)]
    pub delete: Vec<ObjectRef>,
    /// Recorded flows: lines of `hubble observe -o json` or of an export file, or - for standard input
    #[arg(long, value_name = "FILE", required_unless_present = "since")]
    pub flows: Option<PathBuf>,
    /// The agent's own flows of this long: 30m, 1h, 2d
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with_all = ["flows", "rules", "offline"])]
    pub since: Option<Duration>,
    #[command(flatten)]
    pub in_force: RulesInForce,
}

/// `cilium policy lint`
#[derive(Debug, Args)]
#[command(after_help = "Exit code: 0 nothing was found, 3 something was, 1 the question failed.")]
#[allow(missing_docs, reason = "each field's text is the option's help")]
pub struct LintOptions {
    /// Files or directories, or - for standard input
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    #[command(flatten)]
    pub in_force: RulesInForce,
}

/// Reads `[KIND/]NAMESPACE/NAME` or `ccnp/NAME`.
fn object_ref(text: &str) -> Result<ObjectRef, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let of = |kind: &str, namespace: &str, name: &str| ObjectRef {
        kind: kind.into(),
        namespace: namespace.into(),
        name: name.into(),
    };
    let clusterwide =
        |kind: &str| matches!(kind.to_ascii_lowercase().as_str(), "ccnp" | "ciliumclusterwidenetworkpolicy");
    let found = match parts.as_slice() {
        [kind, name] if clusterwide(kind) => of(kind, "", name),
        [namespace, name] => of("cnp", namespace, name),
        [kind, namespace, name] => of(kind, namespace, name),
        _ => return Err("[KIND/]NAMESPACE/NAME is expected, or ccnp/NAME".into()),
    };
    questions::object_key("--delete", &found).map_err(|bad| bad.why)?;
    Ok(found)
}

/// Reads `1h`, `90s`, `1h30m`, `2d`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no length of time; numbers with d, h, m or s are expected, such as 1h30m");
    let mut seconds: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let unit = match tail.as_bytes()[0] {
            b'd' => 86_400,
            b'h' => 3_600,
            b'm' => 60,
            b's' => 1,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        seconds = number.checked_mul(unit).and_then(|part| seconds.checked_add(part)).ok_or_else(wrong)?;
        rest = &tail[1..];
    }
    if seconds == 0 { Err(wrong()) } else { Ok(Duration::from_secs(seconds)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_have_units() {
        for (text, want) in [("90s", Some(90)), ("1h30m", Some(5400)), ("2d", Some(172_800)), ("1", None), ("h", None)]
        {
            assert_eq!(duration(text).ok().map(|d| d.as_secs()), want, "{text}");
        }
        for text in ["", "0s", "1w", "-1h", "99999999999999999999h", "1h ", "ñ"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_policy_is_named_by_kind_namespace_and_name() {
        let of = |text: &str| object_ref(text).map(|o| (o.kind, o.namespace, o.name));
        assert_eq!(of("shop/web").unwrap(), ("cnp".into(), "shop".into(), "web".into()));
        assert_eq!(of("knp/shop/web").unwrap(), ("knp".into(), "shop".into(), "web".into()));
        assert_eq!(of("ccnp/all").unwrap(), ("ccnp".into(), String::new(), "all".into()));
        for text in ["web", "a/b/c/d", "cm/shop/web", "shop/"] {
            assert!(object_ref(text).is_err(), "{text}");
        }
    }
}
