//! Questions that reach behind the ring, asked over a real socket of a server with a real history.

use hubble_api::{
    Timestamp,
    flow::{Flow, FlowFilter, Http, Layer7, Verdict, layer7::Record},
    observer::{GetFlowsRequest, GetFlowsResponse, get_flows_response::ResponseTypes, observer_client::ObserverClient},
};
use hubble_files::history::{Limits, Recorder};
use hubble_model::redact::{Headers, Redact};
use hubble_server::{Config, Extras, Listen, Observer, Server};
use hyper_util::rt::TokioIo;
use std::{path::Path, sync::Arc, time::Duration};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

struct Running {
    observer: Observer,
    channel: Channel,
    served: tokio::task::JoinHandle<Result<(), hubble_server::ServeError>>,
}

/// A server whose ring holds seven events, with its history in this folder.
async fn start(folder: &Path) -> Running {
    let config = Config { node_name: "node-1".into(), ring_capacity: 7, ..Config::default() };
    let limits = Limits { age_max: Duration::from_secs(4_000_000_000), ..Limits::default() };
    let recorder = Arc::new(Recorder::open(&folder.join("history"), limits, config.node()).expect("a folder of ours"));
    let headers = Headers::new(&[], &[]).expect("no lists");
    let redact = Redact { url_query: true, user_info: true, headers, kafka_api_key: false };
    let extras = Extras { taps: vec![recorder.clone()], history: Some(recorder), redact: Some(redact) };
    let observer = Observer::with(config, extras);
    let socket = folder.join("hubble.sock");
    let listen = Listen { unix: Some(socket.clone()), ..Listen::default() };
    let server = Server::bind(&listen, observer.clone()).await.expect("a fresh path");
    let served = tokio::spawn(server.run(std::future::pending()));
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = endpoint.connect_with_connector(connector).await.expect("the server listens");
    Running { observer, channel, served }
}

impl Running {
    fn publish(&self, seconds: std::ops::Range<i64>) {
        for at in seconds {
            let verdict = if at % 2 == 0 { Verdict::Forwarded } else { Verdict::Dropped };
            let time = Some(Timestamp { seconds: at, nanos: 0 });
            self.observer.publish_flow(Flow { time, uuid: at.to_string(), verdict: verdict.into(), ..Flow::default() });
        }
    }

    async fn ask(&self, request: GetFlowsRequest) -> Vec<GetFlowsResponse> {
        let mut stream =
            ObserverClient::new(self.channel.clone()).get_flows(request).await.expect("it is good").into_inner();
        let mut all = Vec::new();
        while let Some(response) = stream.message().await.expect("the server lives") {
            all.push(response);
        }
        all
    }

    /// Seconds of the flows of an answer that tells of no loss.
    async fn seconds(&self, request: GetFlowsRequest) -> Vec<i64> {
        let flows = self.ask(request).await.into_iter().map(|response| match response.response_types {
            Some(ResponseTypes::Flow(flow)) => flow.time.expect("a time").seconds,
            other => panic!("{other:?}"),
        });
        flows.collect()
    }

    async fn end(self) {
        self.observer.close();
        self.served.await.expect("it ends").expect("well");
    }
}

fn since(seconds: i64) -> GetFlowsRequest {
    GetFlowsRequest { since: Some(Timestamp { seconds, nanos: 0 }), ..GetFlowsRequest::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_past_goes_on_behind_the_ring_and_over_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(folder.path()).await;
    server.publish(0..100);
    let all: Vec<i64> = (0..100).collect();
    assert_eq!(
        server.seconds(GetFlowsRequest::default()).await,
        all,
        "each once, though the ring has the last of them too"
    );
    assert_eq!(server.seconds(since(40)).await, all[40..]);
    assert_eq!(server.seconds(since(98)).await, all[98..], "the ring reaches far enough");
    server.end().await;

    let server = start(folder.path()).await;
    let last = |number| GetFlowsRequest { number, ..GetFlowsRequest::default() };
    assert_eq!(server.seconds(last(3)).await, all[97..], "an empty ring, and yet there is a past");
    server.publish(100..110);
    let all: Vec<i64> = (0..110).collect();
    for number in [1, 6, 7, 8, 9, 10, 11, 50, 109, 110, 111] {
        let want = &all[all.len().saturating_sub(usize::try_from(number).expect("small"))..];
        assert_eq!(server.seconds(last(number)).await, want, "the last {number}");
    }
    assert_eq!(server.seconds(last(u64::MAX)).await, all, "as --all asks");
    assert_eq!(
        server.seconds(GetFlowsRequest { first: true, number: 5, ..GetFlowsRequest::default() }).await,
        all[..5]
    );
    let until = Some(Timestamp { seconds: 60, nanos: 0 });
    assert_eq!(server.seconds(GetFlowsRequest { until, ..since(50) }).await, all[50..=60]);
    let number = 4;
    assert_eq!(server.seconds(GetFlowsRequest { number, ..since(90) }).await, all[90..94], "the oldest since then");
    let dropped = FlowFilter { verdict: vec![Verdict::Dropped.into()], ..FlowFilter::default() };
    let odd = GetFlowsRequest { number: 6, whitelist: vec![dropped], ..GetFlowsRequest::default() };
    assert_eq!(server.seconds(odd).await, [99, 101, 103, 105, 107, 109]);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_gets_the_past_and_then_what_comes() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(folder.path()).await;
    server.publish(0..50);
    let request = GetFlowsRequest { follow: true, ..since(30) };
    let mut stream =
        ObserverClient::new(server.channel.clone()).get_flows(request).await.expect("it is good").into_inner();
    let mut seconds = Vec::new();
    while seconds.len() < 25 {
        if seconds.len() == 20 {
            server.publish(50..55);
        }
        let response = stream.message().await.expect("the server lives").expect("it follows");
        let Some(ResponseTypes::Flow(flow)) = response.response_types else { panic!("{response:?}") };
        seconds.push(flow.time.expect("a time").seconds);
    }
    assert_eq!(seconds, (30..55).collect::<Vec<_>>());
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_that_cannot_be_read_are_told_as_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(folder.path()).await;
    server.publish(0..50);
    assert_eq!(server.seconds(since(0)).await.len(), 50);
    let segment = folder.path().join("history/000000000001.seg");
    let mut bytes = std::fs::read(&segment).expect("the first segment");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&segment, bytes).expect("it is ours");
    let answer = server.ask(since(0)).await;
    let lost = answer.iter().filter_map(|response| match &response.response_types {
        Some(ResponseTypes::LostEvents(lost)) => Some(lost.num_events_lost),
        _ => None,
    });
    assert_eq!(lost.collect::<Vec<_>>(), [50], "of the block, some of which the ring still has");
    assert_eq!(answer.len(), 1 + 7);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_out_before_anything_keeps_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(folder.path()).await;
    let http = Http { url: "http://u:secret@h/p?token=secret".into(), ..Http::default() };
    let l7 = Some(Layer7 { record: Some(Record::Http(http)), ..Layer7::default() });
    server.observer.publish_flow(Flow { l7, ..Flow::default() });
    let live = server.ask(GetFlowsRequest { number: 1, ..GetFlowsRequest::default() }).await;
    server.publish(0..10);
    let kept = server.ask(GetFlowsRequest::default()).await;
    for response in [&live[0], &kept[0]] {
        let Some(ResponseTypes::Flow(flow)) = &response.response_types else { panic!("{response:?}") };
        let Some(Record::Http(http)) = flow.l7.as_ref().and_then(|l7| l7.record.as_ref()) else { panic!("{flow:?}") };
        assert_eq!(http.url, "http://u:HUBBLE_REDACTED@h/p");
    }
    server.end().await;
}
