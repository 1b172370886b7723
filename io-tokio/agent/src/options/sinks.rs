//! Options of what becomes of flows besides being served: metrics, exports, history, redaction.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::duration;

/// Flows counted, exported, kept.
#[derive(Clone, Debug, Args)]
#[allow(missing_docs, reason = "each field's text is the option's help")]
pub struct Sinks {
    /// Metrics of flows: a list of plugin[:option[=value];...], such as "dns:query drop tcp httpV2:exemplars=true"
    #[arg(long, default_value = "", value_name = "PLUGINS")]
    pub hubble_metrics: String,
    /// Address of the metrics of flows, such as :9965; empty: none
    #[arg(long, default_value = "", value_name = "[HOST]:PORT")]
    pub hubble_metrics_server: String,
    /// Give the metrics of flows as OpenMetrics, with exemplars, to scrapers that ask for it
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_hubble_open_metrics: bool,
    /// Serve the metrics of flows with TLS
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub hubble_metrics_server_enable_tls: bool,
    /// Certificate of the metrics of flows, PEM
    #[arg(long, value_name = "PATH")]
    pub hubble_metrics_server_tls_cert_file: Option<PathBuf>,
    /// Key of that certificate, PEM
    #[arg(long, value_name = "PATH")]
    pub hubble_metrics_server_tls_key_file: Option<PathBuf>,
    /// Who signs scrapers; none: any may come
    #[arg(long, value_name = "PATH", value_delimiter = ',')]
    pub hubble_metrics_server_tls_client_ca_files: Vec<PathBuf>,
    /// File of metrics of flows that may change while the agent runs, instead of --hubble-metrics
    #[arg(long, value_name = "PATH")]
    pub hubble_dynamic_metrics_config_path: Option<PathBuf>,
    /// Series of each metric of flows; what goes beyond is counted as "overflow"
    #[arg(long, default_value_t = hubble_metrics::SERIES_MAX, value_name = "SERIES")]
    pub hubble_metrics_series_max: usize,

    /// File to export flows to as lines of JSON; stdout: the agent's output; empty: none
    #[arg(long, default_value = "", value_name = "PATH")]
    pub hubble_export_file_path: String,
    /// Megabytes after which an export's file is put aside
    #[arg(long, default_value_t = 10, value_name = "MB")]
    pub hubble_export_file_max_size_mb: u64,
    /// Older files of an export that stay; 0: all
    #[arg(long, default_value_t = 5, value_name = "FILES")]
    pub hubble_export_file_max_backups: usize,
    /// Compress older files of an export
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub hubble_export_file_compress: bool,
    /// Flows to export, as flow filters in JSON, with commas or space between; empty: all
    #[arg(long, default_value = "", value_name = "FILTERS")]
    pub hubble_export_allowlist: String,
    /// Flows not to export, as flow filters in JSON
    #[arg(long, default_value = "", value_name = "FILTERS")]
    pub hubble_export_denylist: String,
    /// Fields of flows to export, such as source.pod_name,verdict; empty: all
    #[arg(long, default_value = "", value_name = "PATHS")]
    pub hubble_export_fieldmask: String,
    /// File of exports that may change while the agent runs
    #[arg(long, value_name = "PATH")]
    pub hubble_flowlogs_config_path: Option<PathBuf>,

    /// Directory to keep flows in beyond the ring and over restarts, for `hubble observe --since`; empty: none
    #[arg(long, default_value = "", value_name = "DIR")]
    pub hubble_history_path: String,
    /// Megabytes of kept flows
    #[arg(long, default_value_t = 256, value_name = "MB")]
    pub hubble_history_max_size_mb: u64,
    /// Age of the oldest kept flow
    #[arg(long, default_value = "24h", value_parser = duration, value_name = "DURATION")]
    pub hubble_history_max_age: Duration,
    /// How much of the newest kept flows a power cut may take
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "DURATION")]
    pub hubble_history_sync_interval: Duration,

    /// Take secrets out of flows, as the options below say
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub hubble_redact_enabled: bool,
    /// Take the query out of URLs
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub hubble_redact_http_urlquery: bool,
    /// Take passwords out of URLs
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub hubble_redact_http_userinfo: bool,
    /// HTTP headers that keep their values
    #[arg(long, default_value = "", value_name = "NAMES")]
    pub hubble_redact_http_headers_allow: String,
    /// HTTP headers that lose their values
    #[arg(long, default_value = "", value_name = "NAMES")]
    pub hubble_redact_http_headers_deny: String,
    /// Take the API key out of Kafka requests
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub hubble_redact_kafka_apikey: bool,

    /// Make Kubernetes events of dropped packets; needs Kubernetes, which this version does not talk to
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub hubble_drop_events: bool,
    /// Time between two events of one kind
    #[arg(long, default_value = "2m", value_parser = duration, value_name = "DURATION")]
    pub hubble_drop_events_interval: Duration,
    /// Reasons of drops that make events
    #[arg(long, default_value = "auth_required,policy_denied", value_name = "REASONS")]
    pub hubble_drop_events_reasons: String,
}
