//! Takes secrets out of application messages, before anything keeps or counts them.
//!
//! Settings and replacement text are the original's. A URL is handled as text: what looks like a query or a password is
//! taken out also where the rest is no proper URL.

use alloc::{borrow::ToOwned, collections::BTreeSet, format, string::String};
use hubble_api::flow::{Flow, layer7::Record};

/// What stands where something was taken out.
pub const REDACTED: &str = "HUBBLE_REDACTED";

/// What is taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redact {
    /// Query and fragment of URLs.
    pub url_query: bool,
    /// Passwords in URLs.
    pub user_info: bool,
    /// Which headers keep their values.
    pub headers: Headers,
    /// Kafka's API key.
    pub kafka_api_key: bool,
}

/// Which headers keep their values; names are in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Headers {
    /// These alone; with an empty list, none.
    Only(BTreeSet<String>),
    /// All but these.
    AllBut(BTreeSet<String>),
}

impl Headers {
    /// From the two lists, of which one at most may have names.
    pub fn new(allow: &[String], deny: &[String]) -> Option<Self> {
        let lower = |names: &[String]| names.iter().map(|name| name.to_lowercase()).collect();
        match (allow.is_empty(), deny.is_empty()) {
            (_, true) => Some(Self::Only(lower(allow))),
            (true, false) => Some(Self::AllBut(lower(deny))),
            (false, false) => None,
        }
    }

    fn keeps(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        match self {
            Self::Only(names) => names.contains(&name),
            Self::AllBut(names) => !names.contains(&name),
        }
    }
}

impl Redact {
    /// Takes out of a flow what is to be taken out, from its summary too.
    pub fn apply(&self, flow: &mut Flow) {
        let Some(record) = flow.l7.as_mut().and_then(|l7| l7.record.as_mut()) else { return };
        match record {
            Record::Http(http) => {
                if let Some(url) = self.url(&http.url) {
                    let old = core::mem::replace(&mut http.url, url);
                    flow.summary = flow.summary.replace(&old, &http.url);
                }
                for header in http.headers.iter_mut().filter(|header| !self.headers.keeps(&header.key)) {
                    REDACTED.clone_into(&mut header.value);
                }
            }
            Record::Kafka(kafka) if self.kafka_api_key && !kafka.api_key.is_empty() => {
                flow.summary = flow.summary.replace(&kafka.api_key, REDACTED);
                REDACTED.clone_into(&mut kafka.api_key);
            }
            Record::Kafka(_) | Record::Dns(_) => {}
        }
    }

    /// The URL without what is to be taken out; none when nothing is.
    fn url(&self, url: &str) -> Option<String> {
        let kept = if self.url_query { url.split(['?', '#']).next().unwrap_or_default() } else { url };
        let without = self.user_info.then(|| without_password(kept)).flatten();
        without.or_else(|| (kept.len() < url.len()).then(|| kept.to_owned()))
    }
}

/// `scheme://user:password@host/…` with the password replaced.
fn without_password(url: &str) -> Option<String> {
    let (before, behind) = url.split_once("//")?;
    let end = behind.find(['/', '?', '#']).unwrap_or(behind.len());
    let (authority, rest) = behind.split_at(end);
    let (user_info, host) = authority.rsplit_once('@')?;
    let (user, _) = user_info.split_once(':')?;
    Some(format!("{before}//{user}:{REDACTED}@{host}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{string::ToString, vec, vec::Vec};
    use hubble_api::flow::{Dns, Http, HttpHeader, Kafka, Layer7};

    fn redact(headers: Headers) -> Redact {
        Redact { url_query: true, user_info: true, headers, kafka_api_key: true }
    }

    fn none() -> Headers {
        Headers::new(&[], &[]).unwrap()
    }

    fn flow(record: Record, summary: &str) -> Flow {
        let l7 = Layer7 { record: Some(record), ..Layer7::default() };
        Flow { l7: Some(l7), summary: summary.into(), ..Flow::default() }
    }

    #[test]
    fn urls_lose_what_is_asked_and_nothing_else() {
        let all = redact(none());
        let query = Redact { user_info: false, ..all.clone() };
        let password = Redact { url_query: false, ..all.clone() };
        for (how, url, want) in [
            (&all, "http://u:p@h/x?a=1#f", "http://u:HUBBLE_REDACTED@h/x"),
            (&all, "http://h/x", "http://h/x"),
            (&all, "/x#f?a", "/x"),
            (&query, "http://u:p@h/x?a=1", "http://u:p@h/x"),
            (&password, "http://u:p:q@r@h?a=@b", "http://u:HUBBLE_REDACTED@h?a=@b"),
            (&password, "http://u@h/a:b@c", "http://u@h/a:b@c"),
            (&password, "http://h/?next=//u:p@h", "http://h/?next=//u:p@h"),
            (&all, "", ""),
        ] {
            let http = Http { url: url.into(), ..Http::default() };
            let mut flow = flow(Record::Http(http), &format!("HTTP/1.1 GET {url}"));
            how.apply(&mut flow);
            let Some(Layer7 { record: Some(Record::Http(http)), .. }) = &flow.l7 else { panic!("{flow:?}") };
            assert_eq!(http.url, want, "{url}");
            assert_eq!(flow.summary, format!("HTTP/1.1 GET {want}"));
        }
    }

    #[test]
    fn headers_follow_the_lists_whatever_their_case() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (allow, deny, kept) in [
            (&[][..], &[][..], &[][..]),
            (&["x-trace"], &[], &["X-Trace"]),
            (&[], &["AUTHORIZATION"], &["X-Trace", "Cookie"]),
        ] {
            let headers = ["X-Trace", "Authorization", "Cookie"]
                .map(|key| HttpHeader { key: key.into(), value: "v".into() })
                .to_vec();
            let mut flow = flow(Record::Http(Http { headers, ..Http::default() }), "");
            redact(Headers::new(&names(allow), &names(deny)).unwrap()).apply(&mut flow);
            let Some(Layer7 { record: Some(Record::Http(http)), .. }) = &flow.l7 else { panic!("{flow:?}") };
            for header in &http.headers {
                let want = if kept.contains(&header.key.as_str()) { "v" } else { REDACTED };
                assert_eq!(header.value, want, "{allow:?} {deny:?} {}", header.key);
            }
        }
        assert_eq!(Headers::new(&names(&["a"]), &names(&["b"])), None);
    }

    #[test]
    fn kafka_loses_its_key_and_dns_nothing() {
        let kafka = Kafka { api_key: "fetch".into(), topic: "t".into(), ..Kafka::default() };
        let mut asked = flow(Record::Kafka(kafka.clone()), "Kafka request fetch topic t");
        redact(none()).apply(&mut asked);
        assert_eq!(asked.summary, "Kafka request HUBBLE_REDACTED topic t");
        let mut kept = flow(Record::Kafka(kafka), "Kafka request fetch topic t");
        Redact { kafka_api_key: false, ..redact(none()) }.apply(&mut kept);
        assert_eq!(kept.summary, "Kafka request fetch topic t");
        let dns = flow(Record::Dns(Dns { query: "a?b".into(), ips: vec!["::1".into()], ..Dns::default() }), "a?b");
        let mut same = dns.clone();
        redact(none()).apply(&mut same);
        assert_eq!(same, dns);
    }
}
