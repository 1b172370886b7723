//! `hubble status`: is the server well, and how full is its ring.

use crate::{Failure, Io, remote, settings::Settings, tabwriter::TabWriter, times::show_duration};
use hubble_api::{
    OBSERVER_HEALTH_SERVICE, json,
    observer::{ServerStatusRequest, ServerStatusResponse, observer_client::ObserverClient},
};
use tonic::{Request, Status};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

/// `hubble status`.
pub async fn run(settings: &Settings, io: &mut Io<'_>) -> Result<(), Failure> {
    let output = settings.text("output");
    if !["compact", "dict", "json", "JSON", "jsonpb", "tab", "table"].contains(&output) {
        return Err(Failure(format!("invalid output format: {output}")));
    }
    let remote = remote::connect(settings)?;
    let timeout = settings.duration("request-timeout").map_err(Failure)?;
    let failed = |status: Status| Failure(format!("failed getting status: {}", remote::show(&status)));
    let mut check = Request::new(HealthCheckRequest { service: OBSERVER_HEALTH_SERVICE.into() });
    check.set_timeout(timeout);
    let health = HealthClient::new(remote.clone()).check(check).await.map_err(failed)?.into_inner();
    let serving = health.status() == ServingStatus::Serving;
    if output == "compact" {
        let state = match serving {
            true => "Ok".to_owned(),
            false => format!("Unavailable: {}", health.status().as_str_name()),
        };
        writeln!(io.out, "Healthcheck (via {}): {state}", remote::target(settings))?;
    }
    if !serving {
        return Err(Failure("not healthy".into()));
    }
    let mut request = Request::new(ServerStatusRequest {});
    request.set_timeout(timeout);
    let status = ObserverClient::new(remote)
        .server_status(request)
        .await
        .map_err(|status| Failure(format!("failed to get hubble server status: {}", remote::show(&status))))?
        .into_inner();
    let text = match output {
        "compact" => compact(&status),
        "dict" => dict(&status),
        "tab" | "table" => table(&status),
        _ => json::to_string(&status) + "\n",
    };
    io.out.write_all(text.as_bytes())?;
    Ok(())
}

/// A number with a comma between every three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn rate(status: &ServerStatusResponse) -> String {
    if status.flows_rate > 0.0 {
        return format!("{:.2}", status.flows_rate);
    }
    match status.uptime_ns {
        0 => "N/A".into(),
        ns => format!("{:.2}", status.seen_flows as f64 / (ns as f64 / 1e9)),
    }
}

fn uptime(status: &ServerStatusResponse) -> String {
    show_duration(i64::try_from(status.uptime_ns).unwrap_or(i64::MAX))
}

fn compact(status: &ServerStatusResponse) -> String {
    let mut text = format!("Current/Max Flows: {}/{}", grouped(status.num_flows), grouped(status.max_flows));
    if status.max_flows > 0 {
        text.push_str(&format!(" ({:.2}%)", status.num_flows as f64 * 100.0 / status.max_flows as f64));
    }
    text.push_str(&format!("\nFlows/s: {}\n", rate(status)));
    if let Some(connected) = status.num_connected_nodes {
        let total = status.num_unavailable_nodes.map(|missing| format!("/{}", connected + missing));
        text.push_str(&format!("Connected Nodes: {connected}{}\n", total.unwrap_or_default()));
    }
    if let Some(missing) = status.num_unavailable_nodes.filter(|missing| *missing > 0) {
        text.push_str(&format!("Unavailable Nodes: {missing}\n"));
        let mut names = status.unavailable_nodes.clone();
        names.sort_unstable();
        for name in &names {
            text.push_str(&format!("  - {name}\n"));
        }
        let shown = u32::try_from(names.len()).unwrap_or(u32::MAX);
        if shown > 0 && missing > shown {
            text.push_str(&format!("  - and {} more...\n", missing - shown));
        }
    }
    text
}

fn optional(number: Option<u32>) -> String {
    number.map_or("N/A".into(), |number| number.to_string())
}

fn dict(status: &ServerStatusResponse) -> String {
    let fields = [
        ("NUM FLOWS", grouped(status.num_flows)),
        ("MAX FLOWS", grouped(status.max_flows)),
        ("SEEN FLOWS", grouped(status.seen_flows)),
        ("FLOWS PER SECOND", rate(status)),
        ("UPTIME", uptime(status)),
        ("NUM CONNECTED NODES", optional(status.num_connected_nodes)),
        ("NUM UNAVAIL. NODES", optional(status.num_unavailable_nodes)),
        ("VERSION", status.version.clone()),
    ];
    fields.iter().map(|(key, value)| format!("{key:>20}: {value}\n")).collect()
}

fn table(status: &ServerStatusResponse) -> String {
    let mut tabs = TabWriter::default();
    tabs.write(
        "NUM FLOWS\tMAX FLOWS\tSEEN FLOWS\tFLOWS PER SECOND\tUPTIME\tNUM CONNECTED NODES\tNUM UNAVAILABLE NODES\tVERSION\n",
    );
    let cells = [
        grouped(status.num_flows),
        grouped(status.max_flows),
        grouped(status.seen_flows),
        rate(status),
        uptime(status),
        optional(status.num_connected_nodes),
        optional(status.num_unavailable_nodes),
        status.version.clone(),
    ];
    tabs.write(&(cells.join("\t") + "\n"));
    tabs.finish()
}
