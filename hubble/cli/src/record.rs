//! `hubble record`: packets of chosen connections into capture files on the nodes.
//!
//! Only servers up to 1.17 know this; newer ones answer that they do not.

use crate::{
    Failure, Io,
    flags::parse_uint,
    remote,
    settings::Settings,
    times::{TimeFormat, quote},
};
use hubble_api::recorder::{
    FileSinkConfiguration, Filter, Protocol, RecordRequest, RecordResponse, RecordingStatistics, StartRecording,
    StopCondition, StopRecording, record_request::RequestType, record_response::ResponseType,
    recorder_client::RecorderClient,
};
use std::io::Write;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};

/// Reads `srcPrefix srcPort dstPrefix dstPort proto`.
fn filter(text: &str) -> Result<Filter, Failure> {
    let wrong = |why: String| {
        let text = quote(text);
        Failure(format!("invalid filter {text}: {why}; want \"srcPrefix srcPort dstPrefix dstPort proto\""))
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    let [source, source_port, destination, destination_port, protocol] = words[..] else {
        return Err(wrong(format!("it has {} words", words.len())));
    };
    let prefix = |text: &str| {
        let (ip, bits) = text.split_once('/').ok_or_else(|| wrong(format!("{} is no prefix", quote(text))))?;
        let ip: std::net::IpAddr = ip.parse().map_err(|_| wrong(format!("{} is no prefix", quote(text))))?;
        let max = if ip.is_ipv4() { 32 } else { 128 };
        let fits = bits.parse::<u8>().is_ok_and(|bits| bits <= max);
        if fits { Ok(text.to_owned()) } else { Err(wrong(format!("{} is no prefix", quote(text)))) }
    };
    let port = |text: &str| {
        let number = parse_uint(text, 16, false).ok().and_then(|port| u32::try_from(port).ok());
        number.ok_or_else(|| wrong(format!("{} is no port", quote(text))))
    };
    let protocol = match protocol.to_uppercase().as_str() {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        "ANY" => Protocol::Any,
        other => return Err(wrong(format!("unknown protocol {}: want TCP, UDP, SCTP or ANY", quote(other)))),
    };
    Ok(Filter {
        source_cidr: prefix(source)?,
        source_port: port(source_port)?,
        destination_cidr: prefix(destination)?,
        destination_port: port(destination_port)?,
        protocol: protocol.into(),
    })
}

fn start(settings: &Settings, words: &[String]) -> Result<StartRecording, Failure> {
    if words.is_empty() {
        return Err(Failure("which packets? want one or more of \"srcPrefix srcPort dstPrefix dstPort proto\"".into()));
    }
    let length = settings.number("max-capture-len");
    let elapsed = settings.duration("time-limit").map_err(Failure)?;
    let seconds = i64::try_from(elapsed.as_secs()).map_err(|_| Failure("invalid --time-limit: too long".into()))?;
    let nanos = i32::try_from(elapsed.subsec_nanos()).expect("below a billion");
    Ok(StartRecording {
        filesink: Some(FileSinkConfiguration { file_prefix: settings.text("file-prefix").into() }),
        include: words.iter().map(|word| filter(word)).collect::<Result<_, _>>()?,
        max_capture_length: u32::try_from(length)
            .map_err(|_| Failure(format!("invalid --max-capture-len: {length} is more than {}", u32::MAX)))?,
        stop_condition: Some(StopCondition {
            bytes_captured_count: settings.number("bytes-limit"),
            packets_captured_count: settings.number("packet-limit"),
            time_elapsed: (!elapsed.is_zero()).then_some(hubble_api::Duration { seconds, nanos }),
        }),
    })
}

/// `hubble record`.
pub async fn run(settings: &Settings, words: &[String], io: &mut Io<'_>) -> Result<(), Failure> {
    let start = start(settings, words)?;
    let mut client = RecorderClient::new(remote::connect(settings)?);
    let (requests, outgoing) = mpsc::channel(2);
    let request = |kind| RecordRequest { request_type: Some(kind) };
    let gone = |_| Failure("the connection to the server is gone".into());
    requests.send(request(RequestType::Start(start))).await.map_err(gone)?;
    let mut responses = match client.record(ReceiverStream::new(outgoing)).await {
        Ok(response) => response.into_inner(),
        Err(status) => return remote::stream_end(&status),
    };
    writeln!(io.err, "Started recording. Press CTRL+C to stop.")?;
    let mut stopping = false;
    loop {
        let response = tokio::select! {
            response = responses.next() => response,
            _ = tokio::signal::ctrl_c(), if !stopping => {
                writeln!(io.err, "Stopping recording...")?;
                stopping = true;
                // A server that stopped by itself no longer listens, and its result is on the way.
                let _ = requests.send(request(RequestType::Stop(StopRecording {}))).await;
                continue;
            }
        };
        match response {
            None => return Ok(()),
            Some(Err(status)) => return remote::stream_end(&status),
            Some(Ok(response)) => show(&response, io.out)?,
        }
    }
}

fn show(response: &RecordResponse, out: &mut dyn Write) -> Result<(), Failure> {
    let at = TimeFormat::Rfc3339.show(response.time.as_ref());
    match &response.response_type {
        Some(ResponseType::Running(running)) => {
            writeln!(out, "{at} Status: {}", counts(running.stats.as_ref()))?;
        }
        Some(ResponseType::Stopped(stopped)) => {
            writeln!(out, "{at} Result: {}", counts(stopped.stats.as_ref()))?;
            if let Some(file) = &stopped.filesink {
                writeln!(out, "{at} Output: {}", file.file_path)?;
            }
        }
        None => {}
    }
    out.flush()?;
    Ok(())
}

fn counts(stats: Option<&RecordingStatistics>) -> String {
    let RecordingStatistics { bytes_captured, packets_captured, packets_lost, bytes_lost } =
        stats.copied().unwrap_or_default();
    let mut text = format!("{packets_captured} packets ({bytes_captured} bytes) written");
    if packets_lost > 0 || bytes_lost > 0 {
        text.push_str(&format!(" and {packets_lost} packets ({bytes_lost} bytes) lost"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_and_what_is_wrong_with_them() {
        let good = filter("10.0.0.0/8 0 fd00::1/128 443 tcp").expect("a filter");
        assert_eq!(
            (good.source_cidr.as_str(), good.destination_port, good.protocol()),
            ("10.0.0.0/8", 443, Protocol::Tcp)
        );
        for (text, want) in [
            ("10.0.0.0/8 0 0.0.0.0/0 443", "it has 4 words"),
            ("10.0.0.0 0 0.0.0.0/0 443 ANY", "\"10.0.0.0\" is no prefix"),
            ("10.0.0.0/33 0 0.0.0.0/0 443 ANY", "\"10.0.0.0/33\" is no prefix"),
            ("10.0.0.0/8 http 0.0.0.0/0 443 ANY", "\"http\" is no port"),
            ("10.0.0.0/8 0 0.0.0.0/0 443 ICMP", "unknown protocol \"ICMP\": want TCP, UDP, SCTP or ANY"),
        ] {
            let Err(Failure(why)) = filter(text) else { panic!("{text} is accepted") };
            assert!(why.starts_with(&format!("invalid filter \"{text}\": {want}")), "{why}");
        }
        let stats = RecordingStatistics { bytes_captured: 120, packets_captured: 2, packets_lost: 1, bytes_lost: 60 };
        assert_eq!(counts(Some(&stats)), "2 packets (120 bytes) written and 1 packets (60 bytes) lost");
        assert_eq!(counts(None), "0 packets (0 bytes) written");
    }
}
