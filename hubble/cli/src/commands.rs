//! The commands and the flags each of them knows.

use crate::flags::{Flag, Takes};

const fn flag(name: &'static str, takes: Takes, default: &'static str, help: &'static str) -> Flag {
    Flag { name, short: None, takes, help, default }
}

const fn short(letter: char, flag: Flag) -> Flag {
    Flag { short: Some(letter), ..flag }
}

/// Flags every command knows.
pub const GLOBAL: &[Flag] = &[
    flag("config", Takes::Text, "", "Configuration file"),
    short('D', flag("debug", Takes::Bool, "false", "Say more on the error output")),
    flag(
        "server",
        Takes::Text,
        "localhost:4245",
        "Address of a Hubble server: host:port, tls://host:port or unix:///path",
    ),
    flag("timeout", Takes::Duration, "5s", "How long connecting may take"),
    flag("request-timeout", Takes::Duration, "12s", "How long a request other than a stream may take"),
    flag("tls", Takes::Bool, "false", "Connect with TLS"),
    flag("tls-allow-insecure", Takes::Bool, "false", "Do not verify the server's certificate"),
    flag("tls-ca-cert-files", Takes::List, "[]", "Files with CA certificates in PEM"),
    flag("tls-client-cert-file", Takes::Text, "", "File with the client certificate, for mutual TLS"),
    flag("tls-client-key-file", Takes::Text, "", "File with the client key, for mutual TLS"),
    flag("tls-server-name", Takes::Text, "", "Name the server's certificate must carry"),
    flag("basic-auth-username", Takes::Text, "", "User name for basic authentication"),
    flag("basic-auth-password", Takes::Text, "", "Password for basic authentication"),
    short('P', flag("port-forward", Takes::Bool, "false", "Forward a local port to the relay in Kubernetes")),
    flag("port-forward-port", Takes::Port, "4245", "Local port to forward from; 0 is any"),
    flag("kube-context", Takes::Text, "", "Kubernetes context"),
    flag("kubeconfig", Takes::Text, "", "Path of the kubeconfig"),
    flag("kube-namespace", Takes::Text, "kube-system", "Namespace of Cilium"),
];

/// Which and how many records.
pub const SELECTOR: &[Flag] = &[
    flag("all", Takes::Bool, "false", "All records the server still has"),
    flag("last", Takes::Number, "0", "The last N records (20 when nothing else is asked for)"),
    flag("first", Takes::Number, "0", "The first N records"),
    short('f', flag("follow", Takes::Bool, "false", "Go on with new records")),
    flag("since", Takes::Text, "", "Records since a time, or a duration ago"),
    flag("until", Takes::Text, "", "Records until a time, or a duration ago"),
];

/// How records are shown.
pub const FORMAT: &[Flag] = &[
    short('o', flag("output", Takes::Text, "compact", "compact, dict, jsonpb, json or table")),
    flag("print-node-name", Takes::Bool, "false", "Show the node that saw the record"),
    flag(
        "time-format",
        Takes::Text,
        "StampMilli",
        "StampMilli, YearMonthDay, YearMonthDayHour, YearMonthDayHourMinute, RFC3339, RFC3339Milli, RFC3339Micro, RFC3339Nano or RFC1123Z",
    ),
];

/// How flows are shown, beside [`FORMAT`].
pub const FLOW_FORMAT: &[Flag] = &[
    flag("print-policy-names", Takes::Bool, "false", "Show which policies decided"),
    flag("numeric", Takes::Bool, "false", "Addresses in place of names"),
    flag("ip-translation", Takes::Bool, "true", "Names in place of addresses"),
    flag("color", Takes::Text, "auto", "auto, always or never"),
];

/// Other flags of `observe`.
pub const OTHER: &[Flag] = &[
    short('s', flag("silent-errors", Takes::Bool, "false", "Do not tell of nodes that do not answer")),
    flag("print-raw-filters", Takes::Bool, "false", "Print the filters and exit"),
    flag("input-file", Takes::Text, "", "Read flows from a file of JSON lines; - is the standard input"),
    flag("field-mask", Takes::List, "[]", "Fields to ask for; with JSON output only"),
    flag("use-default-field-masks", Takes::Bool, "true", "Ask only for the fields that are shown"),
];

/// Other flags of `observe agent-events` and `observe debug-events`.
const EVENTS: &[Flag] = &[
    short('s', flag("silent-errors", Takes::Bool, "false", "Do not tell of nodes that do not answer")),
    flag("input-file", Takes::Text, "", "Read events from a file of JSON lines; - is the standard input"),
];

const F: Takes = Takes::Filter;

/// Which flows. Those behind `--not` are left out.
pub const FILTERS: &[Flag] = &[
    flag("not", Takes::FilterOr("true"), "", "Leave out what the next filter matches"),
    flag("uuid", F, "", "The flow with this UUID"),
    flag("node-name", F, "", "Seen on a node: [cluster/]node, with *"),
    flag("node-label", F, "", "Seen on nodes with labels"),
    flag("cluster", F, "", "Either end is in a cluster"),
    flag("from-cluster", F, "", "The source is in a cluster"),
    flag("to-cluster", F, "", "The destination is in a cluster"),
    flag("protocol", F, "", "A protocol: tcp, udp, sctp, icmp, icmpv4, icmpv6, vrrp, igmp, dns, http, kafka"),
    flag("tcp-flags", F, "", "TCP segments with all of these flags: SYN,ACK"),
    short('t', flag("type", F, "", "An event type, with an optional sub type: drop, trace:to-endpoint, l7, 4:0")),
    flag("verdict", F, "", "FORWARDED, DROPPED, ERROR, AUDIT, REDIRECTED, TRACED or TRANSLATED"),
    flag("drop-reason-desc", F, "", "Dropped for a reason, such as POLICY_DENIED"),
    flag("http-status", F, "", "An HTTP status: 404, or 4+ for all that begin with it"),
    flag("http-method", F, "", "An HTTP method"),
    flag("http-path", F, "", "An HTTP path matching a regular expression"),
    flag("http-url", F, "", "An HTTP URL matching a regular expression"),
    flag("http-header", F, "", "An HTTP header, name:value"),
    flag("trace-id", F, "", "A distributed trace"),
    flag("ip-trace-id", F, "", "A trace in the IP options"),
    flag("fqdn", F, "", "A DNS name of either end, with *"),
    flag("from-fqdn", F, "", "A DNS name of the source"),
    flag("to-fqdn", F, "", "A DNS name of the destination"),
    flag("ip", F, "", "An address or prefix of either end"),
    flag("from-ip", F, "", "An address or prefix of the source"),
    flag("to-ip", F, "", "An address or prefix of the destination"),
    flag("snat-ip", F, "", "The source address after translation"),
    short('4', flag("ipv4", Takes::FilterOr("v4"), "", "IPv4 flows")),
    short('6', flag("ipv6", Takes::FilterOr("v6"), "", "IPv6 flows")),
    flag("ip-version", F, "", "An IP version: v4 or v6"),
    flag("pod", F, "", "A pod at either end: [namespace/]name-prefix"),
    flag("from-pod", F, "", "A pod as the source"),
    flag("to-pod", F, "", "A pod as the destination"),
    short('n', flag("namespace", F, "", "A namespace at either end")),
    flag("from-namespace", F, "", "The namespace of the source"),
    flag("to-namespace", F, "", "The namespace of the destination"),
    short('A', flag("all-namespaces", Takes::FilterOr("true"), "", "Any namespace at either end")),
    flag("from-all-namespaces", Takes::FilterOr("true"), "", "Any namespace of the source"),
    flag("to-all-namespaces", Takes::FilterOr("true"), "", "Any namespace of the destination"),
    short('l', flag("label", F, "", "Labels of either end: a label selector")),
    flag("from-label", F, "", "Labels of the source"),
    flag("to-label", F, "", "Labels of the destination"),
    flag("service", F, "", "A service at either end: [namespace/]name-prefix"),
    flag("from-service", F, "", "A service as the source"),
    flag("to-service", F, "", "A service as the destination"),
    flag("port", F, "", "A port of either end"),
    flag("from-port", F, "", "The port of the source"),
    flag("to-port", F, "", "The port of the destination"),
    flag("workload", F, "", "A workload at either end: [kind/]name"),
    flag("from-workload", F, "", "A workload as the source"),
    flag("to-workload", F, "", "A workload as the destination"),
    flag("identity", F, "", "A security identity of either end: a number or a reserved name"),
    flag("from-identity", F, "", "The security identity of the source"),
    flag("to-identity", F, "", "The security identity of the destination"),
    flag("traffic-direction", F, "", "ingress or egress"),
    flag("cel-expression", F, "", "A CEL expression over _flow"),
    flag("where", F, "", "A CEL expression over _flow, checked before it is sent: '_flow.verdict == Verdict.DROPPED'"),
    flag("interface", F, "", "A network interface by name"),
    flag("encrypted", Takes::FilterOr("true"), "", "Encrypted flows"),
    flag("unencrypted", Takes::FilterOr("true"), "", "Flows that are not encrypted"),
];

/// Filters as they go over the wire.
pub const RAW_FILTERS: &[Flag] = &[
    flag("allowlist", Takes::Many, "[]", "Filters in JSON, beside those of other flags"),
    flag("denylist", Takes::Many, "[]", "Filters in JSON of flows to leave out"),
];

/// Where flows come from, for commands that count them.
const COUNTED: &[Flag] = &[
    flag("input-file", Takes::Text, "", "Read flows from a file of JSON lines; - is the standard input"),
    flag("by", Takes::Text, "workload", "What ends are called by: workload, pod, namespace, service, identity or ip"),
    flag("use-default-field-masks", Takes::Bool, "true", "Ask only for the fields that are counted"),
];

const TOP: &[Flag] = &[
    short('o', flag("output", Takes::Text, "text", "text or json")),
    flag("interval", Takes::Duration, "2s", "Time between two looks"),
    flag("count", Takes::Number, "0", "How many looks; 0 is until interrupted"),
    flag("limit", Takes::Number, "10", "Entries of each list"),
];

const GRAPH: &[Flag] = &[short('o', flag("output", Takes::Text, "text", "text, dot, mermaid, svg or json"))];

const RECORD: &[Flag] = &[
    flag("file-prefix", Takes::Text, "hubble", "How the names of the capture files begin"),
    flag("max-capture-len", Takes::Number, "0", "Bytes kept of each packet; 0 is all"),
    flag("packet-limit", Takes::Number, "0", "Stop after so many packets; 0 is never"),
    flag("bytes-limit", Takes::Number, "0", "Stop after so many bytes; 0 is never"),
    flag("time-limit", Takes::Duration, "0s", "Stop after a time; 0 is never"),
];

const STATUS_OUTPUT: &[Flag] = &[short('o', flag("output", Takes::Text, "compact", "compact, dict, json or table"))];
const LIST_OUTPUT: &[Flag] = &[short('o', flag("output", Takes::Text, "table", "table, wide or json"))];

/// A command, found by the words that name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// No command at all.
    Root,
    /// `observe`, `observe flows`.
    Observe,
    /// `observe agent-events`.
    AgentEvents,
    /// `observe debug-events`.
    DebugEvents,
    /// `top`.
    Top,
    /// `graph`.
    Graph,
    /// `record`.
    Record,
    /// `reflect`.
    Reflect,
    /// `status`.
    Status,
    /// `list` without a word behind it.
    List,
    /// `list nodes`.
    ListNodes,
    /// `list namespaces`.
    ListNamespaces,
    /// `watch` without a word behind it.
    Watch,
    /// `watch peers`.
    WatchPeers,
    /// `config` without a word behind it.
    Config,
    /// `config get`.
    ConfigGet,
    /// `config set`.
    ConfigSet,
    /// `config reset`.
    ConfigReset,
    /// `config view`.
    ConfigView,
    /// `version`.
    Version,
    /// `completion`.
    Completion,
    /// `help`.
    Help,
}

/// Every command: its words, the command above it, what help says.
pub const COMMANDS: &[(Command, &[&str], Command, &str)] = &[
    (Command::Observe, &["observe"], Command::Root, "Show flows and events"),
    (Command::Observe, &["flows"], Command::Observe, "Show flows"),
    (Command::AgentEvents, &["agent-events"], Command::Observe, "Show events of the agent"),
    (Command::DebugEvents, &["debug-events"], Command::Observe, "Show debug messages of the datapath"),
    (Command::Top, &["top"], Command::Root, "Show who talks most, what is dropped, and by which workloads"),
    (Command::Graph, &["graph"], Command::Root, "Draw which workloads depend on which"),
    (Command::Record, &["record"], Command::Root, ""),
    (Command::Reflect, &["reflect"], Command::Root, ""),
    (Command::Status, &["status"], Command::Root, "Show the state of the server"),
    (Command::List, &["list"], Command::Root, "List nodes or namespaces"),
    (Command::ListNodes, &["nodes", "node"], Command::List, "List the nodes the server knows"),
    (
        Command::ListNamespaces,
        &["namespaces", "namespace", "ns"],
        Command::List,
        "List namespaces with flows of the last hour",
    ),
    (Command::Watch, &["watch", "w"], Command::Root, ""),
    (Command::WatchPeers, &["peers", "peer"], Command::Watch, "Show nodes as they come and go"),
    (Command::Config, &["config"], Command::Root, "Show or change the configuration"),
    (Command::ConfigGet, &["get"], Command::Config, "Show one setting"),
    (Command::ConfigSet, &["set"], Command::Config, "Change one setting"),
    (Command::ConfigReset, &["reset"], Command::Config, "Set one or all settings back"),
    (Command::ConfigView, &["view"], Command::Config, "Show all settings"),
    (Command::Version, &["version"], Command::Root, "Show the version"),
    (
        Command::Completion,
        &["completion"],
        Command::Root,
        "Print a completion script for bash, zsh, fish or powershell",
    ),
    (Command::Help, &["help"], Command::Root, "Show help about a command"),
];

impl Command {
    /// The command a word names below this one.
    pub fn below(self, word: &str) -> Option<Self> {
        COMMANDS.iter().find(|(_, words, above, _)| *above == self && words.contains(&word)).map(|(found, ..)| *found)
    }

    /// True when the command itself ends well on an interrupt.
    pub fn ends_itself(self) -> bool {
        matches!(self, Self::Top | Self::Graph | Self::Record)
    }

    /// True when words behind the command mean something.
    pub fn takes_words(self) -> bool {
        let config = matches!(self, Self::ConfigGet | Self::ConfigSet | Self::ConfigReset);
        config || matches!(self, Self::Top | Self::Record | Self::Completion | Self::Help)
    }

    /// True when words that mean nothing are passed over, as scripts for the original may have some. Where the word
    /// should name a command, and in commands the original has not, they are refused.
    pub fn passes_words_over(self) -> bool {
        self == Self::Reflect
            || self == Self::Version
            || self == Self::ConfigView
            || (self.asks() && self != Self::Graph)
    }

    /// True when the command may ask a server, so that settings for that must make sense.
    pub fn asks(self) -> bool {
        let reads = matches!(self, Self::Observe | Self::AgentEvents | Self::DebugEvents | Self::Top | Self::Graph);
        let lists = matches!(self, Self::Status | Self::ListNodes | Self::ListNamespaces | Self::WatchPeers);
        reads || lists || matches!(self, Self::Record | Self::Reflect)
    }

    /// Every flag the command knows, its own first.
    pub fn flags(self) -> Vec<Flag> {
        let own: &[&[Flag]] = match self {
            Self::Observe => &[SELECTOR, FORMAT, FLOW_FORMAT, OTHER, FILTERS, RAW_FILTERS],
            Self::AgentEvents | Self::DebugEvents => &[SELECTOR, FORMAT, EVENTS],
            Self::Top => &[TOP, COUNTED, SELECTOR, FILTERS, RAW_FILTERS],
            Self::Graph => &[GRAPH, COUNTED, SELECTOR, FILTERS, RAW_FILTERS],
            Self::Record => &[RECORD],
            Self::Status => &[STATUS_OUTPUT],
            Self::ListNodes | Self::ListNamespaces => &[LIST_OUTPUT],
            Self::Root => &[&[Flag {
                name: "version",
                short: Some('v'),
                takes: Takes::Bool,
                help: "Show the version",
                default: "false",
            }]],
            _ => &[],
        };
        [own.concat(), GLOBAL.to_vec()].concat()
    }

    /// The words that name the command, from the program's name on.
    pub fn path(self) -> String {
        let found = COMMANDS.iter().find(|(command, _, above, _)| *command == self && *above != self);
        found.map_or("hubble".into(), |(_, words, above, _)| format!("{} {}", above.path(), words[0]))
    }

    /// Help for the command.
    pub fn help(self) -> String {
        let about = match self {
            Self::Root => "Shows the flows of the network and why they went as they did.",
            _ => COMMANDS.iter().find(|(command, ..)| *command == self).map_or("", |(.., help)| help),
        };
        let mut text = format!("{about}\n\nUsage:\n  {} [flags]\n", self.path());
        let below: Vec<_> = COMMANDS.iter().filter(|(_, _, above, help)| *above == self && !help.is_empty()).collect();
        if !below.is_empty() {
            text.push_str(&format!("  {} [command]\n\nCommands:\n", self.path()));
            for (_, words, _, help) in below {
                text.push_str(&format!("  {:<14} {help}\n", words[0]));
            }
        }
        text.push_str("\nFlags:\n");
        for flag in self.flags().iter().filter(|flag| !flag.help.is_empty()) {
            let letter = flag.short.map_or("    ".to_owned(), |letter| format!("-{letter}, "));
            let default = match flag.default {
                "" | "false" | "0" | "[]" => String::new(),
                default => format!(" (default {default})"),
            };
            text.push_str(&format!("  {letter}--{:<24} {}{default}\n", flag.name, flag.help));
        }
        text
    }
}
