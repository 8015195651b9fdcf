//! What the audit log is told of a request: where it came from, what was sent, what was answered, when a stream ended.

use super::metrics::Counted;
use super::{Body, encode};
use crate::audit::{Level, Origin, Record};
use crate::pipeline::{Answer, served_bytes, to_served};
use crate::request::info::RequestInfo;
use crate::schema::Schema;
use http::HeaderMap;
use http::request::Parts;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// The client's address, in a request's extensions; that of in-process clients is the loopback, as upstream's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) IpAddr);

/// Where the request came from.
pub(super) fn origin(parts: &Parts, id: &str) -> Origin {
    let peer = parts.extensions.get::<Peer>().map_or(Ipv6Addr::LOCALHOST.into(), |peer| peer.0.to_canonical());
    Origin {
        id: id.to_owned(),
        uri: parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
        user_agent: text(&parts.headers, "user-agent").to_owned(),
        source_ips: source_ips(&parts.headers, peer),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

/// `X-Forwarded-For`, `X-Real-Ip` and the peer, each address once (apimachinery's `SourceIPs`).
fn source_ips(headers: &HeaderMap, peer: IpAddr) -> Vec<String> {
    let forwarded = text(headers, "x-forwarded-for").split(',').map(str::trim).filter_map(|ip| ip.parse().ok());
    let real: Option<IpAddr> = text(headers, "x-real-ip").trim().parse().ok();
    let mut ips: Vec<IpAddr> = forwarded.collect();
    for ip in real.into_iter().chain([peer]) {
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    ips.iter().map(IpAddr::to_string).collect()
}

/// A body as the log shows it, whatever it was encoded as; a protobuf one only if it is of the resource's own kind.
pub(super) fn sent(info: &RequestInfo, content_type: &str, body: &[u8]) -> Option<Value> {
    if content_type.starts_with("application/vnd.kubernetes.protobuf") {
        let def = crate::registry::find(&info.group, &info.version, &info.resource)?;
        return Schema::builtin(def.gv, def.kind)?.decode_protobuf(body).ok().map(|decoded| decoded.value);
    }
    if content_type.starts_with("application/yaml") {
        return serde_saphyr::from_str(std::str::from_utf8(body).ok()?).ok();
    }
    serde_json::from_slice(body).ok()
}

/// Records the object or list of an answer, where the policy wants it.
pub(super) fn answered(record: &Record, answer: &Answer) {
    if record.level() < Level::RequestResponse {
        return;
    }
    let object = match answer {
        Answer::Object(object) => served_bytes(&object.def, &object.bytes).ok().and_then(|b| encode::parse(&b).ok()),
        Answer::Document { value, .. } => Some(value.clone()),
        Answer::Collection(list) => {
            let items = list.entries.iter().filter_map(|e| encode::parse(&e.bytes).ok());
            let items: Vec<Value> = items.map(|item| to_served(&list.def, item)).collect();
            Some(json!({
                "kind": format!("{}List", list.def.kind), "apiVersion": list.def.gv.to_string(),
                "metadata": {"resourceVersion": list.revision.to_string()}, "items": items,
            }))
        }
        Answer::Watch(_) | Answer::Connect(_) | Answer::Meta(_) => None,
    };
    if let Some(object) = object {
        record.answered(object);
    }
}

/// A watch or stream: counted, and on the record, until the last of its parts is dropped.
pub(super) struct Open {
    record: Option<Arc<Record>>,
    /// 0 until the answer has begun.
    code: AtomicU16,
    _counted: Counted,
}

impl Open {
    pub(super) fn new(record: Option<Arc<Record>>, counted: Counted) -> Arc<Self> {
        Arc::new(Self { record, code: AtomicU16::new(0), _counted: counted })
    }

    /// The answer begins; `body` keeps the stream open.
    pub(super) async fn begin(self: Arc<Self>, code: u16, body: Body) -> Body {
        if let Some(record) = &self.record {
            record.started(code).await;
        }
        self.code.store(code, Ordering::Relaxed);
        body.map_frame(move |frame| {
            let _open = &self;
            frame
        })
        .boxed_unsync()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let code = self.code.load(Ordering::Relaxed);
        if let Some(record) = self.record.as_ref().filter(|_| code != 0) {
            record.ended(code);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_comes_from_every_address_that_it_passed_once() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", "10.0.0.1, nonsense, 10.0.0.2".parse().unwrap());
        headers.insert("x-real-ip", "10.0.0.1".parse().unwrap());
        let peer = "127.0.0.1".parse().unwrap();
        assert_eq!(source_ips(&headers, peer), ["10.0.0.1", "10.0.0.2", "127.0.0.1"]);
        assert_eq!(source_ips(&HeaderMap::new(), peer), ["127.0.0.1"]);
    }
}
