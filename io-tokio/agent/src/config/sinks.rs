//! What becomes of flows besides being served, checked.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hubble_api::flow::DropReason;
use hubble_files::export::{FlowLog, Rotation, parse_filters};
use hubble_files::history::Limits;
use hubble_metrics::PluginConfig;
use hubble_model::redact::{Headers, Redact};
use hubble_transport::tls::{Identity, ServerFiles};

use super::{SettingsError, bad, listen_address};
use crate::options::Sinks;

/// Megabytes an export's file or the history may be told to have.
const MEGABYTES_MAX: u64 = 1 << 20;

/// What becomes of flows.
#[derive(Clone, Debug, Default)]
pub struct SinkSettings {
    /// `--hubble-metrics`, checked; read again where it is used.
    pub metrics: String,
    /// Series of each metric.
    pub series_max: usize,
    /// Where metrics are served.
    pub metrics_server: Option<SocketAddr>,
    /// With OpenMetrics.
    pub open_metrics: bool,
    /// With TLS.
    pub metrics_tls: Option<ServerFiles>,
    /// The file of metrics that may change.
    pub metrics_file: Option<PathBuf>,
    /// The one export of the options.
    pub export: Option<FlowLog>,
    /// How files of exports are rotated that say nothing about it.
    pub rotation: Rotation,
    /// The file of exports that may change.
    pub exports_file: Option<PathBuf>,
    /// Where flows are kept, and for how long.
    pub history: Option<(PathBuf, Limits)>,
    /// What is taken out of flows.
    pub redact: Option<Redact>,
}

impl SinkSettings {
    /// The plugins of `--hubble-metrics`.
    pub fn plugins(&self) -> Vec<PluginConfig> {
        hubble_metrics::options::parse(&self.metrics).expect("it was checked when it was read")
    }
}

/// Checks the options, whether Hubble is on or not.
pub(super) fn sinks(options: &Sinks) -> Result<SinkSettings, SettingsError> {
    drop_events(options)?;
    let rotation = Rotation {
        bytes_max: megabytes("hubble-export-file-max-size-mb", options.hubble_export_file_max_size_mb)?,
        backups_max: options.hubble_export_file_max_backups,
        compress: options.hubble_export_file_compress,
    };
    hubble_metrics::options::parse(&options.hubble_metrics).map_err(|why| bad("hubble-metrics", why.to_string()))?;
    if options.hubble_metrics_series_max == 0 {
        return Err(bad("hubble-metrics-series-max", "a metric needs at least 1 series"));
    }
    if options.hubble_dynamic_metrics_config_path.is_some() && !options.hubble_metrics.is_empty() {
        let why = "it stands in place of --hubble-metrics: give one of the two";
        return Err(bad("hubble-dynamic-metrics-config-path", why));
    }
    Ok(SinkSettings {
        metrics: options.hubble_metrics.clone(),
        series_max: options.hubble_metrics_series_max,
        metrics_server: listen_address("hubble-metrics-server", &options.hubble_metrics_server)?,
        open_metrics: options.enable_hubble_open_metrics,
        metrics_tls: metrics_tls(options)?,
        metrics_file: options.hubble_dynamic_metrics_config_path.clone(),
        export: export(options, &rotation)?,
        rotation,
        exports_file: options.hubble_flowlogs_config_path.clone(),
        history: history(options)?,
        redact: redact(options)?,
    })
}

fn megabytes(option: &'static str, number: u64) -> Result<u64, SettingsError> {
    match (1..=MEGABYTES_MAX).contains(&number) {
        true => Ok(number << 20),
        false => Err(bad(option, format!("{number} is not from 1 to {MEGABYTES_MAX}"))),
    }
}

/// A list as people and config maps write it.
fn list(text: &str) -> Vec<String> {
    text.split([',', ' ', '\n', '\t']).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

fn metrics_tls(options: &Sinks) -> Result<Option<ServerFiles>, SettingsError> {
    let cas = &options.hubble_metrics_server_tls_client_ca_files;
    let files = (&options.hubble_metrics_server_tls_cert_file, &options.hubble_metrics_server_tls_key_file);
    match (options.hubble_metrics_server_enable_tls, files) {
        (true, (Some(cert), Some(key))) => {
            let identity = Identity { cert: cert.clone(), key: key.clone() };
            Ok(Some(ServerFiles { identity, client_cas: cas.clone() }))
        }
        (true, (None, _)) => Err(bad("hubble-metrics-server-tls-cert-file", "TLS needs a certificate")),
        (true, (_, None)) => Err(bad("hubble-metrics-server-tls-key-file", "TLS needs the certificate's key")),
        (false, (None, None)) if cas.is_empty() => Ok(None),
        (false, _) => {
            let why = "files are given, so it must be true, or they would not be used";
            Err(bad("hubble-metrics-server-enable-tls", why))
        }
    }
}

fn export(options: &Sinks, rotation: &Rotation) -> Result<Option<FlowLog>, SettingsError> {
    let filters = |option, text: &str| parse_filters(text).map_err(|why| bad(option, why.to_string()));
    let path = &options.hubble_export_file_path;
    let log = FlowLog {
        name: "static".into(),
        path: path.into(),
        mask: list(&options.hubble_export_fieldmask),
        include: filters("hubble-export-allowlist", &options.hubble_export_allowlist)?,
        exclude: filters("hubble-export-denylist", &options.hubble_export_denylist)?,
        end_ns: None,
        rotation: rotation.clone(),
    };
    for (option, part) in [
        ("hubble-export-fieldmask", FlowLog { include: Vec::new(), exclude: Vec::new(), ..log.clone() }),
        ("hubble-export-allowlist", FlowLog { mask: Vec::new(), exclude: Vec::new(), ..log.clone() }),
        ("hubble-export-denylist", FlowLog { mask: Vec::new(), include: Vec::new(), ..log.clone() }),
    ] {
        part.compile().map_err(|why| bad(option, why.to_string()))?;
    }
    if path.is_empty() {
        return Ok(None);
    }
    if path != "stdout" && !Path::new(path).is_absolute() {
        return Err(bad("hubble-export-file-path", format!("{path:?} is neither an absolute path nor stdout")));
    }
    Ok(Some(log))
}

fn history(options: &Sinks) -> Result<Option<(PathBuf, Limits)>, SettingsError> {
    let limits = Limits {
        bytes_max: megabytes("hubble-history-max-size-mb", options.hubble_history_max_size_mb)?,
        age_max: options.hubble_history_max_age,
        sync_every: options.hubble_history_sync_interval,
    };
    for (option, value) in
        [("hubble-history-max-age", limits.age_max), ("hubble-history-sync-interval", limits.sync_every)]
    {
        if value < std::time::Duration::from_millis(100) {
            return Err(bad(option, "it must be 100ms at least"));
        }
    }
    let path = &options.hubble_history_path;
    if path.is_empty() {
        return Ok(None);
    }
    if !Path::new(path).is_absolute() {
        return Err(bad("hubble-history-path", format!("{path:?} is no absolute path")));
    }
    Ok(Some((path.into(), limits)))
}

fn redact(options: &Sinks) -> Result<Option<Redact>, SettingsError> {
    let (allow, deny) =
        (list(&options.hubble_redact_http_headers_allow), list(&options.hubble_redact_http_headers_deny));
    if !options.hubble_redact_enabled {
        // Whoever asks for one of these believes that secrets are taken out.
        for (option, given) in [
            ("hubble-redact-http-urlquery", options.hubble_redact_http_urlquery),
            ("hubble-redact-http-headers-allow", !allow.is_empty()),
            ("hubble-redact-http-headers-deny", !deny.is_empty()),
            ("hubble-redact-kafka-apikey", options.hubble_redact_kafka_apikey),
        ] {
            if given {
                return Err(bad(option, "nothing is redacted without --hubble-redact-enabled"));
            }
        }
        return Ok(None);
    }
    let headers = Headers::new(&allow, &deny).ok_or_else(|| {
        bad("hubble-redact-http-headers-deny", "it excludes --hubble-redact-http-headers-allow: give one of the two")
    })?;
    Ok(Some(Redact {
        url_query: options.hubble_redact_http_urlquery,
        user_info: options.hubble_redact_http_userinfo,
        headers,
        kafka_api_key: options.hubble_redact_kafka_apikey,
    }))
}

fn drop_events(options: &Sinks) -> Result<(), SettingsError> {
    for reason in list(&options.hubble_drop_events_reasons) {
        if DropReason::from_str_name(&reason.to_uppercase()).is_none() {
            let why = format!("{reason:?} is no drop reason, such as policy_denied");
            return Err(bad("hubble-drop-events-reasons", why));
        }
    }
    if options.hubble_drop_events {
        let why = "events are Kubernetes objects, and this version does not talk to Kubernetes; leave it off, and see \
                   drops with `hubble observe --verdict DROPPED` or the metric hubble_drop_total";
        return Err(bad("hubble-drop-events", why));
    }
    Ok(())
}
