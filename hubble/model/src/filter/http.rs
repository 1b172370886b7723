//! Fields of HTTP requests and responses.

use super::{Check as Field, FilterError, regexes};
use crate::FlowView;
use alloc::{borrow::Cow, boxed::Box, string::String, vec::Vec};
use hubble_api::{
    event_type,
    flow::{FlowFilter, Http, HttpHeader, layer7::Record},
};
use regex::Regex;

#[derive(Debug)]
pub(super) enum Check {
    /// Three digits, or fewer as a prefix.
    Status(Box<[(String, bool)]>),
    Method(Box<[String]>),
    Path(Box<[Regex]>),
    Url(Box<[Regex]>),
    Header(Box<[HttpHeader]>),
}

pub(super) fn compile(f: &FlowFilter, checks: &mut Vec<Field>) -> Result<(), FilterError> {
    let l7_only = |field| {
        let any = f.event_type.is_empty() || f.event_type.iter().any(|kind| kind.r#type == event_type::L7);
        if any { Ok(()) } else { Err(FilterError::NeedsL7 { field }) }
    };
    if !f.http_status_code.is_empty() {
        l7_only("http status code")?;
        let codes = f.http_status_code.iter().map(|code| status(code)).collect::<Result<_, _>>()?;
        checks.push(Field::Http(Check::Status(codes)));
    }
    if !f.http_method.is_empty() {
        l7_only("http method")?;
        checks.push(Field::Http(Check::Method(f.http_method.as_slice().into())));
    }
    if !f.http_path.is_empty() {
        l7_only("http path")?;
        checks.push(Field::Http(Check::Path(regexes(&f.http_path, "http path")?)));
    }
    if !f.http_url.is_empty() {
        l7_only("http url")?;
        checks.push(Field::Http(Check::Url(regexes(&f.http_url, "http url")?)));
    }
    if !f.http_header.is_empty() {
        l7_only("http header")?;
        checks.push(Field::Http(Check::Header(f.http_header.as_slice().into())));
    }
    Ok(())
}

/// `404`, `40+` or `4+`.
fn status(code: &str) -> Result<(String, bool), FilterError> {
    let (digits, prefix) = code.strip_suffix('+').map_or((code, false), |digits| (digits, true));
    let length = if prefix { 1..=2 } else { 3..=3 };
    let good = length.contains(&digits.len())
        && digits.bytes().all(|c| c.is_ascii_digit())
        && matches!(digits.as_bytes().first(), Some(b'1'..=b'5'));
    if good { Ok((digits.into(), prefix)) } else { Err(FilterError::StatusCode(code.into())) }
}

/// The decimal digits of a status code that has three.
fn digits(code: u32) -> Option<[u8; 3]> {
    let digit = |n: u32| b'0' + u8::try_from(n % 10).expect("a digit");
    (100..1000).contains(&code).then(|| [digit(code / 100), digit(code / 10), digit(code)])
}

impl Check {
    pub fn matches<V: FlowView + ?Sized>(&self, flow: &V) -> bool {
        let Some(Record::Http(http)) = flow.l7().and_then(|l7| l7.record.as_ref()) else { return false };
        self.matches_http(http)
    }

    fn matches_http(&self, http: &Http) -> bool {
        match self {
            Self::Status(codes) => {
                digits(http.code).is_some_and(|code| codes.iter().any(|(want, _)| code.starts_with(want.as_bytes())))
            }
            Self::Method(methods) => methods.iter().any(|want| want.eq_ignore_ascii_case(&http.method)),
            Self::Path(list) => path(&http.url).is_some_and(|path| list.iter().any(|regex| regex.is_match(&path))),
            Self::Url(list) => !http.url.is_empty() && list.iter().any(|regex| regex.is_match(&http.url)),
            Self::Header(list) => {
                list.iter().any(|want| http.headers.iter().any(|has| has.key == want.key && has.value == want.value))
            }
        }
    }
}

/// The decoded path of a request URI: an absolute path, or a URL with a scheme. Anything else has none.
fn path(url: &str) -> Option<Cow<'_, str>> {
    if url.is_empty() || url.bytes().any(|c| c < b' ' || c == 0x7f) {
        return None;
    }
    if url == "*" {
        return Some(Cow::Borrowed("*"));
    }
    let (scheme, rest) = split_scheme(url)?;
    let rest = rest.split_once('?').map_or(rest, |(before, _)| before);
    if !rest.starts_with('/') {
        // `mailto:x` has a scheme and no path; without a scheme it is no request URI.
        return scheme.then_some(Cow::Borrowed(""));
    }
    let path = match rest.strip_prefix("//") {
        Some(authority) if scheme => {
            let end = authority.find('/').unwrap_or(authority.len());
            if authority[..end].contains([' ', '<', '>', '"']) {
                return None;
            }
            &authority[end..]
        }
        _ => rest,
    };
    decode(path)
}

/// Whether there is a scheme, and what follows it; none when the text starts with a colon.
fn split_scheme(url: &str) -> Option<(bool, &str)> {
    for (at, c) in url.bytes().enumerate() {
        match c {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return None,
            b':' => return Some((true, &url[at + 1..])),
            _ => return Some((false, url)),
        }
    }
    Some((false, url))
}

fn decode(path: &str) -> Option<Cow<'_, str>> {
    if !path.contains('%') {
        return Some(Cow::Borrowed(path));
    }
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(c) = bytes.next() {
        if c != b'%' {
            out.push(c);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let value = digit()? * 16 + digit()?;
        out.push(u8::try_from(value).expect("two digits of sixteen"));
    }
    Some(Cow::Owned(String::from_utf8_lossy(&out).into_owned()))
}
