//! `hubble record` against a server that has the service.

mod common;

use hubble_api::{
    Timestamp,
    recorder::{
        FileSinkResult, RecordRequest, RecordResponse, RecordingRunningResponse, RecordingStatistics,
        RecordingStoppedResponse, StartRecording,
        record_request::RequestType,
        record_response::ResponseType,
        recorder_server::{Recorder, RecorderServer},
    },
};
use hubble_cli::settings::Environment;
use std::{pin::Pin, sync::Mutex};
use tokio_stream::{StreamExt as _, wrappers::UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Reports once, then says that the recording has ended; keeps what it was asked for.
#[derive(Default)]
struct Tape(std::sync::Arc<Mutex<Option<StartRecording>>>);

type Stream = Pin<Box<dyn tokio_stream::Stream<Item = Result<RecordResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Recorder for Tape {
    type RecordStream = Stream;
    async fn record(&self, request: Request<Streaming<RecordRequest>>) -> Result<Response<Stream>, Status> {
        let first = request.into_inner().next().await.ok_or_else(|| Status::invalid_argument("nothing"))??;
        let Some(RequestType::Start(start)) = first.request_type else {
            return Err(Status::invalid_argument("not a start"));
        };
        *self.0.lock().expect("nobody panicked") = Some(start);
        let stats = |packets| {
            let (bytes_captured, packets_captured) = (packets * 60, packets);
            Some(RecordingStatistics { bytes_captured, packets_captured, ..RecordingStatistics::default() })
        };
        let filesink = Some(FileSinkResult { file_path: "/var/run/cilium/pcaps/hubble_1_a_n.pcap".into() });
        let answer = |seconds, kind| {
            let time = Some(Timestamp { seconds, nanos: 0 });
            Ok(RecordResponse { node_name: "n".into(), time, response_type: Some(kind) })
        };
        Ok(Response::new(Box::pin(tokio_stream::iter([
            answer(1, ResponseType::Running(RecordingRunningResponse { stats: stats(1) })),
            answer(2, ResponseType::Stopped(RecordingStoppedResponse { stats: stats(3), filesink })),
        ]))))
    }
}

#[tokio::test]
async fn what_is_recorded_and_where() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("hubble.sock");
    let listener = tokio::net::UnixListener::bind(&path).expect("a fresh path");
    let tape = Tape::default();
    let asked = tape.0.clone();
    let server = tonic::transport::Server::builder().add_service(RecorderServer::new(tape));
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
    let address = format!("unix://{}", path.display());
    let filter = "10.0.0.0/8 0 0.0.0.0/0 443 TCP";
    let limits = ["--packet-limit", "3", "--time-limit", "1m30s", "--max-capture-len", "96", "--file-prefix", "x"];
    let args = [&["record", "--server", &address, filter][..], &limits].concat();
    let (code, out, err) = common::hubble(&args, "", &Environment::default()).await;
    assert_eq!((code, err.as_str()), (0, "Started recording. Press CTRL+C to stop.\n"));
    let want = "\
1970-01-01T00:00:01Z Status: 1 packets (60 bytes) written
1970-01-01T00:00:02Z Result: 3 packets (180 bytes) written
1970-01-01T00:00:02Z Output: /var/run/cilium/pcaps/hubble_1_a_n.pcap
";
    assert_eq!(out, want);
    let start = asked.lock().expect("nobody panicked").take().expect("asked");
    let stop = start.stop_condition.expect("limits");
    assert_eq!((start.max_capture_length, start.include.len(), stop.packets_captured_count), (96, 1, 3));
    assert_eq!(stop.time_elapsed.map(|elapsed| (elapsed.seconds, elapsed.nanos)), Some((90, 0)));
    assert_eq!(start.filesink.map(|sink| sink.file_prefix).as_deref(), Some("x"));
}

#[tokio::test]
async fn servers_of_today_do_not_record() {
    let lab = common::Lab::start().await;
    let args = ["record", "--server", &lab.server(), "10.0.0.0/8 0 0.0.0.0/0 443 TCP"];
    let (code, out, err) = common::hubble(&args, "", &Environment::default()).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.starts_with("rpc error: code = Unimplemented desc = "), "{err}");
    let (code, _, err) = common::hubble(&["record"], "", &Environment::default()).await;
    assert!(code == 1 && err.starts_with("which packets? want one or more of "), "{err}");
    lab.stop.cancel();
}
