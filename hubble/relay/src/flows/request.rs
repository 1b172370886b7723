//! What each node is asked, made of what the client asked.

use super::source::Resume;
use hubble_api::{FieldMask, observer::GetFlowsRequest};
use tonic::{
    Request,
    metadata::{KeyAndValueRef, MetadataMap},
};

/// Headers that are about one connection, or are for the relay alone.
const NOT_PASSED_ON: [&str; 7] =
    ["authorization", "cookie", "content-type", "user-agent", "te", "grpc-timeout", "grpc-accept-encoding"];

/// A client's request.
pub struct Asked {
    request: GetFlowsRequest,
    metadata: MetadataMap,
    /// Whether times were added to the mask, for the order alone.
    pub strip: bool,
    /// Whether the answer goes on with what comes.
    pub follow: bool,
    /// Whether it ends at a time.
    pub has_end: bool,
}

impl Asked {
    pub fn new(mut request: GetFlowsRequest, metadata: &MetadataMap) -> Self {
        let old = request.experimental.as_ref().and_then(|experimental| experimental.field_mask.clone());
        let mask = request.field_mask.take().filter(|mask| !mask.paths.is_empty());
        let mask = mask.or(old.filter(|mask| !mask.paths.is_empty()));
        let strip = mask.as_ref().is_some_and(|mask| mask.paths.iter().all(|path| path != "time"));
        request.field_mask = mask.map(|FieldMask { mut paths }| {
            if strip {
                paths.push("time".into());
            }
            FieldMask { paths }
        });
        let mut passed_on = MetadataMap::new();
        for entry in metadata.iter() {
            match entry {
                KeyAndValueRef::Ascii(key, value) if !NOT_PASSED_ON.contains(&key.as_str()) => {
                    passed_on.append(key.clone(), value.clone());
                }
                KeyAndValueRef::Binary(key, value) => {
                    passed_on.append_bin(key.clone(), value.clone());
                }
                KeyAndValueRef::Ascii(..) => {}
            }
        }
        let (follow, has_end) = (request.follow, request.until.is_some());
        Self { request, metadata: passed_on, strip, follow, has_end }
    }

    /// The request to one node: the client's own at the start; later, what came since.
    pub fn request(&self, at_start: bool, resume: &Resume) -> Request<GetFlowsRequest> {
        let mut message = self.request.clone();
        if !at_start {
            message.number = 0;
            message.since = resume.since().or(message.since);
        }
        let mut request = Request::new(message);
        *request.metadata_mut() = self.metadata.clone();
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hubble_api::{Timestamp, observer::get_flows_request::Experimental};

    #[test]
    fn nodes_are_asked_for_times_and_later_only_for_what_is_new() {
        let mask = |paths: &[&str]| Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() });
        let base = || GetFlowsRequest { number: 20, follow: true, ..GetFlowsRequest::default() };
        let asked = |request| Asked::new(request, &MetadataMap::new());
        let whole = asked(base());
        assert!(!whole.strip && whole.request(true, &Resume::default()).into_inner() == base());
        assert!(!asked(GetFlowsRequest { field_mask: mask(&["time"]), ..base() }).strip);
        let thin = asked(GetFlowsRequest { field_mask: mask(&["uuid"]), ..base() });
        assert!(thin.strip);
        assert_eq!(thin.request(true, &Resume::default()).into_inner().field_mask, mask(&["uuid", "time"]));
        let experimental = Some(Experimental { field_mask: mask(&["uuid"]) });
        assert!(asked(GetFlowsRequest { experimental, ..base() }).strip, "as clients before 1.18 send it");
        let mut resume = Resume::default();
        resume.takes(&crate::answer::Item { at_ns: 5, is_flow: true, bytes: Default::default() });
        let later = whole.request(false, &resume).into_inner();
        assert_eq!((later.number, later.since), (0, Some(Timestamp { seconds: 0, nanos: 5 })));
    }

    #[test]
    fn secrets_stay_with_the_relay() {
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", "Basic eDp5".parse().expect("a header"));
        metadata.insert("x-request-id", "7".parse().expect("a header"));
        let request = Asked::new(GetFlowsRequest::default(), &metadata);
        let request = request.request(true, &Resume::default());
        assert_eq!(request.metadata().get("x-request-id").map(|id| id.as_bytes()), Some(&b"7"[..]));
        assert!(request.metadata().get("authorization").is_none());
    }
}
