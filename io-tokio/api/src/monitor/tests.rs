use super::*;

fn stream(frames: &[Payload]) -> Vec<u8> {
    let mut out = GREETING.to_vec();
    for frame in frames {
        frame.encode(&mut out);
    }
    out
}

#[test]
fn frames_come_back_as_they_were_sent() {
    let sent = [
        Payload::Sample { cpu: 1, data: vec![1, 2, 3] },
        Payload::Lost { cpu: 0, count: 70_000 },
        Payload::Sample { cpu: 0, data: vec![] },
    ];
    let bytes = stream(&sent);
    let mut feed = Feed::new(&bytes[..]).expect("greeting");
    for frame in &sent {
        assert_eq!(feed.next_payload().expect("a frame").as_ref(), Some(frame));
    }
    assert_eq!(feed.next_payload().expect("the end"), None);
}

#[test]
fn another_protocol_is_refused() {
    assert!(matches!(Feed::new(&b"HTTP/1.1 200"[..]), Err(FeedError::Greeting)));
}

#[test]
fn impossible_frames_are_refused() {
    for (length, rest) in [(3_u32, 3_usize), (u32::MAX, 64)] {
        let mut bytes = GREETING.to_vec();
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.resize(bytes.len() + rest, 0);
        let mut feed = Feed::new(&bytes[..]).expect("greeting");
        assert!(matches!(feed.next_payload(), Err(FeedError::Frame { .. })));
    }
}

#[test]
fn reading_never_panics() {
    bolero::check!().for_each(|bytes| {
        let mut all = GREETING.to_vec();
        all.extend_from_slice(bytes);
        let mut feed = Feed::new(&all[..]).expect("greeting");
        while let Ok(Some(_)) = feed.next_payload() {}
    });
}
