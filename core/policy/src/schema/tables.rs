//! The tables: one for each object of the schema.

use super::{Field, Kind, Object};

/// Most ports of one entry of `toPorts` of an allow rule, and most fields of one entry of `icmps`.
pub(crate) const PORTS_MAX: usize = 40;
/// Longest name of a CIDR group: a DNS name.
pub(crate) const DNS_NAME_MAX: usize = 253;
/// Longest value of a label.
pub(crate) const LABEL_VALUE_MAX: usize = 63;
/// Longest topic of Kafka.
pub(crate) const TOPIC_MAX: usize = 255;
/// Highest port number.
pub(crate) const PORT_MAX: i64 = 65_535;
/// Lowest and highest priority of a listener.
pub(crate) const PRIORITY: (i64, i64) = (1, 100);

/// Operators of a selector.
pub(crate) const OPERATORS: &[&str] = &["In", "NotIn", "Exists", "DoesNotExist"];
/// Protocols of a port.
pub(crate) const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP", "ANY"];
/// Families of ICMP.
pub(crate) const FAMILIES: &[&str] = &["IPv4", "IPv6"];
/// Modes of authentication.
pub(crate) const AUTH_MODES: &[&str] = &["disabled", "required", "test-always-fail"];
/// What happens to a header that does not match.
pub(crate) const MISMATCHES: &[&str] = &["LOG", "ADD", "DELETE", "REPLACE"];
/// Roles of Kafka clients.
pub(crate) const ROLES: &[&str] = &["produce", "consume"];
/// Kinds of listener configuration.
pub(crate) const ENVOY_KINDS: &[&str] = &["CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig"];
/// Entities of the schema; the reader also knows the two of one address family.
pub(crate) const ENTITIES: &[&str] = &[
    "all",
    "world",
    "cluster",
    "host",
    "init",
    "ingress",
    "unmanaged",
    "remote-node",
    "health",
    "none",
    "kube-apiserver",
];

const DNS_NAME: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const LABEL_VALUE: &str = "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$";
const PORT: &str = "^(0|[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]|\
                    ([a-zA-Z0-9]-?)*[a-zA-Z](-?[a-zA-Z0-9])*)$";
const ICMP_TYPE: &str = "^([0-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5]|EchoReply|DestinationUnreachable|Redirect|Echo|\
                         EchoRequest|RouterAdvertisement|RouterSelection|TimeExceeded|ParameterProblem|Timestamp|\
                         TimestampReply|Photuris|ExtendedEchoRequest|ExtendedEchoReply|PacketTooBig|\
                         MulticastListenerQuery|MulticastListenerReport|MulticastListenerDone|RouterSolicitation|\
                         NeighborSolicitation|NeighborAdvertisement|RedirectMessage|RouterRenumbering|\
                         ICMPNodeInformationQuery|ICMPNodeInformationResponse|InverseNeighborDiscoverySolicitation|\
                         InverseNeighborDiscoveryAdvertisement|HomeAgentAddressDiscoveryRequest|\
                         HomeAgentAddressDiscoveryReply|MobilePrefixSolicitation|MobilePrefixAdvertisement|\
                         DuplicateAddressRequestCodeSuffix|DuplicateAddressConfirmationCodeSuffix)$";
const FQDN: &str = "^[-a-zA-Z0-9_.]+$";
const FQDN_PATTERN: &str = "^[-a-zA-Z0-9_.*]+$";
const TOPIC: &str = "^[a-zA-Z0-9._-]*$";

macro_rules! object {
    ($name:ident, required: [$($required:literal),*], one_of: [$($one_of:literal),*], atomic: $atomic:literal;
     $($field:literal $kind:expr, $doc:literal;)*) => {
        pub(crate) static $name: Object = Object {
            names: &[$($field),*],
            fields: &[$(Field { name: $field, doc: $doc, kind: $kind }),*],
            required: &[$($required),*],
            one_of: &[$($one_of),*],
            atomic: $atomic,
        };
    };
    ($name:ident; $($rest:tt)*) => { object!($name, required: [], one_of: [], atomic: false; $($rest)*); };
    ($name:ident, required: [$($required:literal),*]; $($rest:tt)*) => {
        object!($name, required: [$($required),*], one_of: [], atomic: false; $($rest)*);
    };
    ($name:ident, one_of: [$($one_of:literal),*]; $($rest:tt)*) => {
        object!($name, required: [], one_of: [$($one_of),*], atomic: false; $($rest)*);
    };
}

// Whole objects.

object! { OBJECT, required: ["metadata"];
    "apiVersion" Kind::Text, "Version of the schema: cilium.io/v2.";
    "kind" Kind::Text, "Kind of the object.";
    "metadata" Kind::Object(&METADATA), "";
    "spec" Kind::Object(&RULE), "The rule, if there is one.";
    "specs" Kind::List(&Kind::Object(&RULE)), "The rules, if there are several.";
    "status" Kind::Object(&STATUS), "What has become of the policy; written by the controllers.";
}
object! { METADATA; }
object! { STATUS;
    "conditions" Kind::ListByKey(&CONDITION, "type"), "Whether the policy is valid, and why not.";
    "derivativePolicies" Kind::Objects(&DERIVATIVE), "State of policies made out of this one, by name.";
}
object! { CONDITION, required: ["status", "type"];
    "lastTransitionTime" Kind::Format("date-time"), "When the condition last changed.";
    "message" Kind::Text, "What people should know of it.";
    "reason" Kind::Text, "Why it last changed, in one word.";
    "status" Kind::Text, "True, False or Unknown.";
    "type" Kind::Text, "Which condition.";
}
object! { DERIVATIVE;
    "annotations" Kind::Texts(&Kind::Text), "Annotations of the object the state is of.";
    "enforcing" Kind::Bool, "Whether endpoints enforce it.";
    "error" Kind::Text, "Why it is not enforced.";
    "lastUpdated" Kind::Format("date-time"), "When this was written.";
    "localPolicyRevision" Kind::Long, "Revision of the rules that first held it.";
    "ok" Kind::Bool, "Whether it was taken up.";
}

// A rule.

object! { RULE, one_of: ["endpointSelector", "nodeSelector"];
    "endpointSelector" Kind::Object(&SELECTOR), "Endpoints the rule is about. Either this or nodeSelector.";
    "nodeSelector" Kind::Object(&SELECTOR), "Nodes the rule is about; in clusterwide policies only.";
    "ingress" Kind::List(&Kind::Object(&INGRESS)), "What may come in. If it is there, nothing else may.";
    "ingressDeny" Kind::List(&Kind::Object(&INGRESS_DENY)), "What may not come in, whatever else allows it.";
    "egress" Kind::List(&Kind::Object(&EGRESS)), "What may go out. If it is there, nothing else may.";
    "egressDeny" Kind::List(&Kind::Object(&EGRESS_DENY)), "What may not go out, whatever else allows it.";
    "labels" Kind::List(&Kind::Object(&LABEL)), "Labels by which the rule is found and deleted through the agent's API.";
    "enableDefaultDeny" Kind::Object(&DEFAULT_DENY), "Whether what no rule allows is refused, by direction.";
    "description" Kind::Text, "Words for people.";
}
object! { DEFAULT_DENY;
    "ingress" Kind::Bool, "Refuse what comes in unless a rule allows it.";
    "egress" Kind::Bool, "Refuse what goes out unless a rule allows it.";
}
object! { LABEL, required: ["key"];
    "key" Kind::Text, "Its key.";
    "value" Kind::Text, "Its value.";
    "source" Kind::Text, "Where it comes from, such as k8s.";
}
object! { SELECTOR, required: [], one_of: [], atomic: true;
    "matchLabels" Kind::Texts(&Kind::PatternMax(LABEL_VALUE, LABEL_VALUE_MAX)), "Labels that must all be there with these values.";
    "matchExpressions" Kind::Atomic(&Kind::Object(&EXPRESSION)), "Demands that must all be met.";
}
object! { EXPRESSION, required: ["key", "operator"];
    "key" Kind::Text, "Key of the label.";
    "operator" Kind::Enum(OPERATORS), "What is demanded of it.";
    "values" Kind::Atomic(&Kind::Text), "Values for In and NotIn; none for Exists and DoesNotExist.";
}

// Peers.

object! { INGRESS;
    "fromEndpoints" Kind::List(&Kind::Object(&SELECTOR)), "Endpoints with these labels.";
    "fromRequires" Kind::List(&Kind::Object(&SELECTOR)), "Labels every peer of this direction must have besides.";
    "fromCIDR" Kind::List(&Kind::Format("cidr")), "Addresses outside the cluster.";
    "fromCIDRSet" Kind::List(&Kind::Object(&CIDR_SET)), "Addresses outside the cluster, less exceptions.";
    "fromEntities" Kind::List(&Kind::Enum(ENTITIES)), "Well-known groups.";
    "fromGroups" Kind::List(&Kind::Object(&GROUP)), "Groups of a cloud provider.";
    "fromNodes" Kind::List(&Kind::Object(&SELECTOR)), "Nodes with these labels.";
    "toPorts" Kind::List(&Kind::Object(&PORT_RULE)), "Ports of the endpoint that may be reached.";
    "icmps" Kind::List(&Kind::Object(&ICMP_RULE)), "ICMP types that may come in.";
    "authentication" Kind::Object(&AUTHENTICATION), "Authentication that is demanded.";
}
object! { INGRESS_DENY;
    "fromEndpoints" Kind::List(&Kind::Object(&SELECTOR)), "Endpoints with these labels.";
    "fromRequires" Kind::List(&Kind::Object(&SELECTOR)), "Labels every peer of this direction must have besides.";
    "fromCIDR" Kind::List(&Kind::Format("cidr")), "Addresses outside the cluster.";
    "fromCIDRSet" Kind::List(&Kind::Object(&CIDR_SET)), "Addresses outside the cluster, less exceptions.";
    "fromEntities" Kind::List(&Kind::Enum(ENTITIES)), "Well-known groups.";
    "fromGroups" Kind::List(&Kind::Object(&GROUP)), "Groups of a cloud provider.";
    "fromNodes" Kind::List(&Kind::Object(&SELECTOR)), "Nodes with these labels.";
    "toPorts" Kind::List(&Kind::Object(&PORT_DENY_RULE)), "Ports of the endpoint that may not be reached.";
    "icmps" Kind::List(&Kind::Object(&ICMP_RULE)), "ICMP types that may not come in.";
}
object! { EGRESS;
    "toEndpoints" Kind::List(&Kind::Object(&SELECTOR)), "Endpoints with these labels.";
    "toRequires" Kind::List(&Kind::Object(&SELECTOR)), "Labels every peer of this direction must have besides.";
    "toCIDR" Kind::List(&Kind::Format("cidr")), "Addresses outside the cluster.";
    "toCIDRSet" Kind::List(&Kind::Object(&CIDR_SET)), "Addresses outside the cluster, less exceptions.";
    "toEntities" Kind::List(&Kind::Enum(ENTITIES)), "Well-known groups.";
    "toServices" Kind::List(&Kind::Object(&SERVICE)), "Backends of services without a selector.";
    "toFQDNs" Kind::List(&Kind::Object(&DNS_NAMES)), "Addresses these DNS names stand for.";
    "toGroups" Kind::List(&Kind::Object(&GROUP)), "Groups of a cloud provider.";
    "toNodes" Kind::List(&Kind::Object(&SELECTOR)), "Nodes with these labels.";
    "toPorts" Kind::List(&Kind::Object(&PORT_RULE)), "Ports of the peer that may be reached.";
    "icmps" Kind::List(&Kind::Object(&ICMP_RULE)), "ICMP types that may go out.";
    "authentication" Kind::Object(&AUTHENTICATION), "Authentication that is demanded.";
}
object! { EGRESS_DENY;
    "toEndpoints" Kind::List(&Kind::Object(&SELECTOR)), "Endpoints with these labels.";
    "toRequires" Kind::List(&Kind::Object(&SELECTOR)), "Labels every peer of this direction must have besides.";
    "toCIDR" Kind::List(&Kind::Format("cidr")), "Addresses outside the cluster.";
    "toCIDRSet" Kind::List(&Kind::Object(&CIDR_SET)), "Addresses outside the cluster, less exceptions.";
    "toEntities" Kind::List(&Kind::Enum(ENTITIES)), "Well-known groups.";
    "toServices" Kind::List(&Kind::Object(&SERVICE)), "Backends of services without a selector.";
    "toGroups" Kind::List(&Kind::Object(&GROUP)), "Groups of a cloud provider.";
    "toNodes" Kind::List(&Kind::Object(&SELECTOR)), "Nodes with these labels.";
    "toPorts" Kind::List(&Kind::Object(&PORT_DENY_RULE)), "Ports of the peer that may not be reached.";
    "icmps" Kind::List(&Kind::Object(&ICMP_RULE)), "ICMP types that may not go out.";
}
object! { AUTHENTICATION, required: ["mode"];
    "mode" Kind::Enum(AUTH_MODES), "Which authentication.";
}
object! { CIDR_SET, one_of: ["cidr", "cidrGroupRef"];
    "cidr" Kind::Format("cidr"), "A prefix.";
    "cidrGroupRef" Kind::PatternMax(DNS_NAME, DNS_NAME_MAX), "Name of a CiliumCIDRGroup.";
    "except" Kind::List(&Kind::Format("cidr")), "Prefixes inside it that are not meant.";
}
object! { GROUP;
    "aws" Kind::Object(&AWS), "Instances of AWS.";
}
object! { AWS;
    "labels" Kind::Texts(&Kind::Text), "Labels they have.";
    "region" Kind::Text, "Region they are in.";
    "securityGroupsIds" Kind::List(&Kind::Text), "Numbers of their security groups.";
    "securityGroupsNames" Kind::List(&Kind::Text), "Names of their security groups.";
}
object! { SERVICE;
    "k8sService" Kind::Object(&NAMED_SERVICE), "A service by name.";
    "k8sServiceSelector" Kind::Object(&SELECTED_SERVICE), "Services by their labels.";
}
object! { NAMED_SERVICE;
    "namespace" Kind::Text, "Its namespace.";
    "serviceName" Kind::Text, "Its name.";
}
object! { SELECTED_SERVICE, required: ["selector"];
    "namespace" Kind::Text, "Their namespace.";
    "selector" Kind::Object(&SELECTOR), "Their labels.";
}
object! { DNS_NAMES, one_of: ["matchName", "matchPattern"];
    "matchName" Kind::Pattern(FQDN), "A name.";
    "matchPattern" Kind::Pattern(FQDN_PATTERN), "A pattern of names, in which * stands for characters of one label.";
}

// Ports.

object! { PORT_RULE;
    "ports" Kind::ListMax(&Kind::Object(&PORT_PROTOCOL), PORTS_MAX), "Ports and their protocols.";
    "rules" Kind::Object(&L7_RULES), "What is allowed inside the connection.";
    "serverNames" Kind::List(&Kind::Text), "Names a TLS client may ask for.";
    "listener" Kind::Object(&LISTENER), "Listener of a proxy to send connections to.";
    "terminatingTLS" Kind::Object(&TLS), "How TLS of the client ends at the proxy.";
    "originatingTLS" Kind::Object(&TLS), "How the proxy speaks TLS to the server.";
}
object! { PORT_DENY_RULE;
    "ports" Kind::List(&Kind::Object(&PORT_PROTOCOL)), "Ports and their protocols.";
}
object! { PORT_PROTOCOL, required: ["port"];
    "port" Kind::Pattern(PORT), "A number, 0 for all, or the name of a port of the workload.";
    "protocol" Kind::Enum(PROTOCOLS), "Its protocol; all three where none is named.";
    "endPort" Kind::Integer(0, PORT_MAX), "The last port of a range that begins with port.";
}
object! { ICMP_RULE;
    "fields" Kind::ListMax(&Kind::Object(&ICMP_FIELD), PORTS_MAX), "Types and their families.";
}
object! { ICMP_FIELD, required: ["type"];
    "family" Kind::EnumDefault(FAMILIES, "IPv4"), "Which ICMP.";
    "type" Kind::IntOrText(ICMP_TYPE), "The type, as a number or by name.";
}
object! { LISTENER, required: ["envoyConfig", "name"];
    "envoyConfig" Kind::Object(&ENVOY_CONFIG), "The resource that defines it.";
    "name" Kind::NonEmpty, "Its name there.";
    "priority" Kind::Integer(PRIORITY.0, PRIORITY.1), "Which listener counts where several are named: the lowest.";
}
object! { ENVOY_CONFIG, required: ["name"];
    "kind" Kind::Enum(ENVOY_KINDS), "Its kind.";
    "name" Kind::NonEmpty, "Its name.";
}
object! { TLS, required: ["secret"];
    "secret" Kind::Object(&SECRET), "Where certificate and keys are.";
    "trustedCA" Kind::Text, "Item of the secret with the authorities that are trusted.";
    "certificate" Kind::Text, "Item of the secret with the certificate.";
    "privateKey" Kind::Text, "Item of the secret with the private key.";
}
object! { SECRET, required: ["name"];
    "namespace" Kind::Text, "Its namespace.";
    "name" Kind::Text, "Its name.";
}

// Layer 7.

object! { L7_RULES, one_of: ["http", "kafka", "dns", "l7proto"];
    "http" Kind::List(&Kind::Object(&HTTP)), "Requests of HTTP.";
    "kafka" Kind::List(&Kind::Object(&KAFKA)), "Requests of Kafka.";
    "dns" Kind::List(&Kind::Object(&DNS_NAMES)), "Names that may be asked for.";
    "l7" Kind::List(&Kind::Texts(&Kind::Text)), "Rules of the parser l7proto names.";
    "l7proto" Kind::Text, "Name of a parser.";
}
object! { HTTP;
    "path" Kind::Text, "Expression the path must match.";
    "method" Kind::Text, "Expression the method must match.";
    "host" Kind::Format("idn-hostname"), "Expression the host must match.";
    "headers" Kind::List(&Kind::Text), "Headers that must be there.";
    "headerMatches" Kind::List(&Kind::Object(&HEADER_MATCH)), "Headers with the values they must have.";
}
object! { HEADER_MATCH, required: ["name"];
    "name" Kind::NonEmpty, "Name of the header.";
    "value" Kind::Text, "The value it must have.";
    "secret" Kind::Object(&SECRET), "A secret that holds the value.";
    "mismatch" Kind::Enum(MISMATCHES), "What happens if it has another; the request is refused where this is left out.";
}
object! { KAFKA;
    "role" Kind::Enum(ROLES), "Requests of producers or of consumers.";
    "apiKey" Kind::Text, "Name of a request.";
    "apiVersion" Kind::Text, "Version of the request, as text.";
    "clientID" Kind::Text, "The client's name for itself.";
    "topic" Kind::PatternMax(TOPIC, TOPIC_MAX), "The topic.";
}
