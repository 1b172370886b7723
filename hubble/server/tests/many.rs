//! A thousand observers at once, some of whom never read.

use futures::{StreamExt as _, future};
use hubble_api::{
    Timestamp,
    flow::Flow,
    observer::{GetFlowsRequest, get_flows_response::ResponseTypes, observer_client::ObserverClient},
};
use hubble_server::{Alone, Config, Observer, Peer, serve_incoming};
use hubble_transport::{Address, BoxIo, Dial, DialFuture, connect};
use std::time::Duration;
use tokio::{io::DuplexStream, sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

const OBSERVERS: usize = 1_000;
const FLOWS: i64 = 40;

/// Connections through memory.
struct Memory(mpsc::Sender<std::io::Result<DuplexStream>>);

impl Dial for Memory {
    fn dial(&self, _: Address) -> DialFuture {
        let accept = self.0.clone();
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            accept.send(Ok(theirs)).await.map_err(std::io::Error::other)?;
            let io: BoxIo = Box::new(ours);
            Ok(io)
        })
    }
}

/// Serves what comes through memory, as long as the tasks live.
fn serve(observer: &Observer) -> (Memory, JoinSet<()>) {
    let (accept, accepted) = mpsc::channel(16);
    let this = Peer { name: "n".into(), address: String::new(), server_name: None };
    let mut tasks = JoinSet::new();
    let observer = observer.clone();
    tasks.spawn(async move {
        serve_incoming(&observer, this, &Alone, ReceiverStream::new(accepted)).await.expect("it serves");
    });
    (Memory(accept), tasks)
}

async fn client(memory: &Memory) -> ObserverClient<Channel> {
    let address = Address::Tcp { host: "memory".into(), port: 1 };
    ObserverClient::new(connect(memory, address, None, Duration::from_secs(60)).await.expect("it accepts").channel)
}

fn flow(number: i64) -> Flow {
    Flow { uuid: number.to_string(), time: Some(Timestamp { seconds: number, nanos: 0 }), ..Flow::default() }
}

#[tokio::test]
async fn a_thousand_observers_all_see_every_flow_and_idle_ones_hold_nobody_up() {
    let observer = Observer::new(Config { node_name: "n".into(), ..Config::default() });
    let (memory, _serving) = serve(&observer);
    let request = GetFlowsRequest { follow: true, ..GetFlowsRequest::default() };
    // As many as a relay opens on its one connection, and others on their own.
    let mut one = client(&memory).await;
    let (mut streams, mut idle) = (Vec::new(), Vec::new());
    for at in 0..OBSERVERS {
        let stream = if at % 2 == 0 {
            one.get_flows(request.clone()).await
        } else {
            client(&memory).await.get_flows(request.clone()).await
        };
        let stream = stream.expect("accepted").into_inner();
        // Those on the shared connection are read, so that none takes the others' window.
        if at % 10 == 1 { idle.push(stream) } else { streams.push(stream) }
    }
    assert_eq!(observer.streams(), OBSERVERS);
    (1..=FLOWS).for_each(|number| observer.publish_flow(flow(number)));
    let whole = streams.into_iter().map(|stream| async move {
        let flows = stream.take(usize::try_from(FLOWS).expect("few"));
        let seen: Vec<String> = flows
            .map(|response| match response.expect("no error").response_types {
                Some(ResponseTypes::Flow(flow)) => flow.uuid,
                other => panic!("{other:?}"),
            })
            .collect()
            .await;
        assert!((1..=FLOWS).map(|number| number.to_string()).eq(seen), "in order, none missing");
    });
    future::join_all(whole).await;
    drop(idle);
    while observer.streams() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_streams_hold_of_the_past_is_bounded_and_given_back() {
    let observer = Observer::new(Config { node_name: "n".into(), held_events_max: 1_500, ..Config::default() });
    let (memory, _serving) = serve(&observer);
    // Long enough to fill every window on the way, so that most stays with the server.
    let bulky = |number| Flow { summary: "x".repeat(20_000), ..flow(number) };
    (1..=1_000).for_each(|number| observer.publish_flow(bulky(number)));
    let mut first = client(&memory).await;
    let unread = first.get_flows(GetFlowsRequest::default()).await.expect("one may hold a whole ring");
    while observer.held_events() == 1_000 {
        tokio::task::yield_now().await;
    }
    let mut second = client(&memory).await;
    let refused = second.get_flows(GetFlowsRequest::default()).await.expect_err("together they hold too much");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    assert!(refused.message().contains("hold") && refused.message().contains("ask for fewer"), "{}", refused.message());
    second.get_flows(GetFlowsRequest { number: 10, ..Default::default() }).await.expect("ten are few");
    drop((unread, first));
    while observer.held_events() > 10 {
        tokio::task::yield_now().await;
    }
    second.get_flows(GetFlowsRequest::default()).await.expect("there is room again");
}

#[tokio::test]
async fn followers_that_never_read_hold_a_bounded_number_of_events_and_refuse_nobody() {
    const SILENT: usize = 200;
    let observer = Observer::new(Config {
        node_name: "n".into(),
        ring_capacity: 255,
        observer_queue_max: 1_000,
        held_events_max: 5_000,
        ..Config::default()
    });
    let (memory, _serving) = serve(&observer);
    let request = GetFlowsRequest { follow: true, ..GetFlowsRequest::default() };
    let mut unread = Vec::new();
    for _ in 0..SILENT {
        unread.push(client(&memory).await.get_flows(request.clone()).await.expect("accepted"));
    }
    for number in 1..=3_000 {
        observer.publish_flow(Flow { summary: "x".repeat(4_000), ..flow(number) });
        tokio::task::yield_now().await;
    }
    // Each may have a batch set aside and one on its way, whatever the bound.
    let held = observer.held_events();
    assert!(held > 5_000 && held <= 5_000 + SILENT * 2 * 64, "{held} are held");
    let question = GetFlowsRequest { number: 10, ..GetFlowsRequest::default() };
    let answer = client(&memory).await.get_flows(question).await.expect("nobody is refused for their sake");
    assert_eq!(answer.into_inner().count().await, 10);
    drop(unread);
    while observer.held_events() > 0 {
        tokio::task::yield_now().await;
    }
}
