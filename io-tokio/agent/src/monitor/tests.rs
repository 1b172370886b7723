use super::*;
use tokio::io::AsyncReadExt;

#[test]
fn readers_get_records_and_are_told_of_losses() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("monitor.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bytes = runtime.block_on(async {
        let feed = Feed::default();
        let server = tokio::spawn(feed.clone().serve(path.clone(), SocketOwner::default()));
        while !path.exists() {
            tokio::task::yield_now().await;
        }
        let mut reader = UnixStream::connect(&path).await.unwrap();
        let mut greeting = [0; 8];
        reader.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, GREETING);
        feed.publish(3, [&b"one"[..], b"two"].into_iter());
        let mut bytes = greeting.to_vec();
        let mut chunk = [0; 4 + 16 + 2 * (4 + 16 + 3)];
        reader.read_exact(&mut chunk).await.unwrap();
        bytes.extend(chunk);
        server.abort();
        bytes
    });
    let mut feed = api::monitor::Feed::new(&bytes[..]).unwrap();
    for want in [
        Payload::Lost { cpu: 0, count: 3 },
        Payload::Sample { cpu: 0, data: b"one".to_vec() },
        Payload::Sample { cpu: 0, data: b"two".to_vec() },
    ] {
        assert_eq!(feed.next_payload().unwrap(), Some(want));
    }
}
