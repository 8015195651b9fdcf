//! Encodings over HTTP: protobuf, YAML and JSON, in and out, for objects, lists, watches, options and refusals.

use crate::support::Fixture;
#[allow(dead_code, reason = "each suite uses its part of what they share")]
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};
use skiff_shim::schema::Schema;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

struct Asked {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Asked {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{:?}", self.body))
    }

    /// The object of an answer in protobuf.
    fn object(&self, kind: &str) -> Value {
        assert_eq!(self.header("content-type"), PROTOBUF, "{:?}", self.body);
        schema(kind).decode_protobuf(&self.body).unwrap().value
    }
}

fn schema(kind: &str) -> &'static Schema {
    let core = skiff_shim::gvr::GroupVersion { group: "", version: "v1" };
    Schema::builtin(core, kind).unwrap()
}

async fn ask(client: &kube::Client, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Asked {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = client.send(request.body(Body::from(body.to_vec())).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Asked { status: parts.status, headers: parts.headers, body }
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

#[tokio::test]
async fn protobuf_goes_in_and_comes_out_of_every_verb() {
    let fixture = Fixture::start().await;
    let client = fixture.server.client("admin", &["system:masters"]);
    let both = [("content-type", PROTOBUF), ("accept", PROTOBUF)];
    let sent = schema("ConfigMap").encode_protobuf(&config_map("a"));
    let created = ask(&client, "POST", MAPS, &both, &sent).await;
    assert_eq!(created.status, StatusCode::CREATED);
    let mut object = created.object("ConfigMap");
    assert_eq!(object["data"], json!({"k": "v"}));

    object["data"]["k"] = "w".into();
    let replaced =
        ask(&client, "PUT", &format!("{MAPS}/a"), &both, &schema("ConfigMap").encode_protobuf(&object)).await;
    assert_eq!(replaced.object("ConfigMap")["data"], json!({"k": "w"}));
    let stale = ask(&client, "PUT", &format!("{MAPS}/a"), &both, &schema("ConfigMap").encode_protobuf(&object)).await;
    assert_eq!((stale.status, &stale.object("Status")["reason"]), (StatusCode::CONFLICT, &json!("Conflict")));
    let patch = [("content-type", "application/merge-patch+json"), ("accept", PROTOBUF)];
    let patched = ask(&client, "PATCH", &format!("{MAPS}/a"), &patch, br#"{"data":{"k":"x"}}"#).await;
    assert_eq!(patched.object("ConfigMap")["data"], json!({"k": "x"}));
    assert_eq!(ask(&client, "GET", &format!("{MAPS}/a"), &both, b"").await.object("ConfigMap")["data"]["k"], "x");

    let list = ask(&client, "GET", MAPS, &both, b"").await;
    let items = list.object("ConfigMapList")["items"].clone();
    assert!(items.as_array().unwrap().iter().any(|item| item["metadata"]["name"] == "a"), "{items}");
    let absent = ask(&client, "GET", &format!("{MAPS}/none"), &both, b"").await;
    assert_eq!(absent.status, StatusCode::NOT_FOUND);
    assert_eq!(absent.object("Status")["details"], json!({"name": "none", "kind": "configmaps"}));

    let options = json!({"preconditions": {"uid": "another"}});
    let options = schema("DeleteOptions").encode_protobuf(&options);
    let refused = ask(&client, "DELETE", &format!("{MAPS}/a"), &both, &options).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    let deleted = ask(&client, "DELETE", &format!("{MAPS}/a"), &both, b"").await;
    assert_eq!(deleted.object("Status")["status"], "Success");
    fixture.server.stop().await;
}

#[tokio::test]
async fn options_are_read_in_the_version_of_what_they_delete() {
    let fixture = Fixture::start().await;
    let client = fixture.server.client("admin", &["system:masters"]);
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {}});
    let json_body = [("content-type", "application/json")];
    assert_eq!(
        ask(&client, "POST", leases, &json_body, lease.to_string().as_bytes()).await.status,
        StatusCode::CREATED
    );
    // client-go names the group version of the resource.
    let options = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "DeleteOptions", "dryRun": ["All"]});
    let options = schema("DeleteOptions").encode_protobuf(&options);
    let answer = ask(&client, "DELETE", &format!("{leases}/l"), &[("content-type", PROTOBUF)], &options).await;
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    assert_eq!(ask(&client, "GET", &format!("{leases}/l"), &[], b"").await.status, StatusCode::OK, "it was a dry run");
    fixture.server.stop().await;
}

#[tokio::test]
async fn a_protobuf_watch_is_length_delimited_frames_around_enveloped_objects() {
    let fixture = Fixture::start().await;
    let client = fixture.server.client("admin", &["system:masters"]);
    let body = config_map("w").to_string();
    ask(&client, "POST", MAPS, &[("content-type", "application/json")], body.as_bytes()).await;
    let query = "?watch=true&resourceVersion=0&fieldSelector=metadata.name=w&timeoutSeconds=1";
    for (accept, kind) in [
        (PROTOBUF.to_owned(), "ConfigMap"),
        (format!("{PROTOBUF};as=PartialObjectMetadata;g=meta.k8s.io;v=v1"), "PartialObjectMetadata"),
    ] {
        let request = Request::get(format!("{MAPS}{query}")).header("accept", accept);
        let response = client.send(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
        let mut data = response.into_body().into_data_stream();
        let first = data.next().await.unwrap().unwrap();
        let length = u32::from_be_bytes(first[..4].try_into().unwrap()) as usize;
        let frame = &first[4..4 + length];
        // WatchEvent{type: "ADDED", object: RawExtension{raw: …}}
        assert!(frame.starts_with(b"\x0a\x05ADDED\x12"), "{frame:?}");
        let at = frame.windows(4).position(|bytes| bytes == b"k8s\0").unwrap();
        let object = schema(kind).decode_protobuf(&frame[at..]).unwrap().value;
        assert_eq!((&object["kind"], &object["metadata"]["name"]), (&json!(kind), &json!("w")));
    }
    fixture.server.stop().await;
}

#[tokio::test]
async fn metadata_travels_as_protobuf_and_tables_do_not() {
    let fixture = Fixture::start().await;
    let client = fixture.server.client("admin", &["system:masters"]);
    let body = config_map("m").to_string();
    ask(&client, "POST", MAPS, &[("content-type", "application/json")], body.as_bytes()).await;
    let accept = |form: &str| format!("{PROTOBUF};as={form};g=meta.k8s.io;v=v1");
    let one = ask(&client, "GET", &format!("{MAPS}/m"), &[("accept", &accept("PartialObjectMetadata"))], b"").await;
    assert_eq!(one.object("PartialObjectMetadata")["metadata"]["name"], "m");
    let all = ask(&client, "GET", MAPS, &[("accept", &accept("PartialObjectMetadataList"))], b"").await;
    let items = all.object("PartialObjectMetadataList")["items"].clone();
    assert!(items.as_array().unwrap().iter().any(|item| item["metadata"]["name"] == "m"), "{items}");
    let table = ask(&client, "GET", MAPS, &[("accept", &accept("Table"))], b"").await;
    assert_eq!(table.status, StatusCode::NOT_ACCEPTABLE);
    let fallback = format!("{},application/json", accept("Table"));
    assert_eq!(ask(&client, "GET", MAPS, &[("accept", &fallback)], b"").await.json()["kind"], "ConfigMapList");
    fixture.server.stop().await;
}

#[tokio::test]
async fn subresources_take_protobuf_bodies() {
    let fixture = Fixture::start().await;
    let client = fixture.server.client("admin", &["system:masters"]);
    let both = [("content-type", PROTOBUF), ("accept", PROTOBUF)];
    let account = json!({"metadata": {"name": "default"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    ask(&client, "POST", accounts, &both, &schema("ServiceAccount").encode_protobuf(&account)).await;
    let request = json!({"spec": {"audiences": ["a"]}});
    let token = Schema::named("authentication.k8s.io/v1", "TokenRequest").unwrap();
    let issued =
        ask(&client, "POST", &format!("{accounts}/default/token"), &both, &token.encode_protobuf(&request)).await;
    let issued = token.decode_protobuf(&issued.body).unwrap().value;
    assert!(issued["status"]["token"].as_str().unwrap().contains('.'), "{issued}");

    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let created = ask(&client, "POST", pods, &both, &schema("Pod").encode_protobuf(&pod)).await;
    assert_eq!(created.status, StatusCode::CREATED, "{:?}", created.body);
    let binding = schema("Binding")
        .encode_protobuf(&json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}}));
    let bound = ask(&client, "POST", &format!("{pods}/p/binding"), &both, &binding).await;
    assert_eq!((bound.status, &bound.object("Status")["status"]), (StatusCode::CREATED, &json!("Success")));
    let status = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}, "status": {"phase": "Running"}});
    let shown = ask(&client, "PUT", &format!("{pods}/p/status"), &both, &schema("Pod").encode_protobuf(&status)).await;
    assert_eq!(shown.object("Pod")["status"]["phase"], "Running");
    let eviction = Schema::named("policy/v1", "Eviction").unwrap();
    let eviction =
        eviction.encode_protobuf(&json!({"metadata": {"name": "p"}, "deleteOptions": {"gracePeriodSeconds": 0}}));
    let evicted = ask(&client, "POST", &format!("{pods}/p/eviction"), &both, &eviction).await;
    assert_eq!(evicted.status, StatusCode::CREATED, "{:?}", evicted.body);
    fixture.server.stop().await;
}

#[tokio::test]
async fn yaml_is_read_as_go_reads_it_and_unknown_types_are_refused() {
    let fixture = Fixture::start().await;
    let client = fixture.server.client("admin", &["system:masters"]);
    let yaml = [("content-type", "application/yaml"), ("accept", "application/yaml")];
    let created = ask(
        &client,
        "POST",
        MAPS,
        &yaml,
        b"kind: ConfigMap\napiVersion: v1\nmetadata:\n  name: yml\ndata:\n  a: |\n    1\n    2\n",
    )
    .await;
    assert_eq!((created.status, created.header("content-type")), (StatusCode::CREATED, "application/yaml"));
    let text = std::str::from_utf8(&created.body).unwrap();
    assert!(text.starts_with("apiVersion: v1\ndata:\n  a: |\n    1\n    2\nkind: ConfigMap\nmetadata:\n"), "{text}");
    let twice = b"kind: ConfigMap\napiVersion: v1\nmetadata: {name: z}\ndata: {a: x}\ndata: {b: x}\n";
    let warned = ask(&client, "POST", &format!("{MAPS}?dryRun=All"), &yaml, twice).await;
    assert_eq!(warned.header("warning"), r#"299 - "yaml: unmarshal errors:  line 5: key \"data\" already set in map""#);
    let strict = ask(&client, "POST", &format!("{MAPS}?fieldValidation=Strict"), &yaml, twice).await;
    assert_eq!(strict.status, StatusCode::BAD_REQUEST);
    assert!(std::str::from_utf8(&strict.body).unwrap().contains("strict decoding error: yaml: unmarshal errors"));
    let text = [("content-type", "text/plain")];
    let refused = ask(&client, "POST", MAPS, &text, b"hello").await;
    assert_eq!(
        (refused.status, &refused.json()["reason"]),
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, &json!("UnsupportedMediaType"))
    );
    let not_protobuf = ask(&client, "POST", MAPS, &[("content-type", PROTOBUF)], b"{}").await;
    assert_eq!(
        not_protobuf.json()["message"],
        "the object provided is unrecognized (must be of type ConfigMap): provided data does not appear to be a protobuf \
         message, expected prefix [107 56 115 0] ({})"
    );
    let watch = ask(&client, "GET", &format!("{MAPS}?watch=true"), &[("accept", "application/yaml")], b"").await;
    assert_eq!(watch.status, StatusCode::NOT_ACCEPTABLE);
    fixture.server.stop().await;
}

#[tokio::test]
async fn discovery_is_one_document_in_either_encoding_and_known_by_its_tag() {
    let fixture = Fixture::start().await;
    let client = fixture.server.client("admin", &["system:masters"]);
    let form = "g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let ours = ask(&client, "GET", "/apis", &[("accept", &format!("application/json;{form}"))], b"").await;
    assert_eq!(ours.header("content-type"), format!("application/json;{form}"));
    let protobuf = ask(&client, "GET", "/apis", &[("accept", &format!("{PROTOBUF};{form}"))], b"").await;
    assert_eq!(protobuf.header("content-type"), format!("{PROTOBUF};{form}"));
    let list = Schema::named("apidiscovery.k8s.io/v2", "APIGroupDiscoveryList").unwrap();
    let names = |list: &Value| -> Vec<Value> {
        list["items"].as_array().unwrap().iter().map(|group| group["metadata"]["name"].clone()).collect()
    };
    assert_eq!(names(&list.decode_protobuf(&protobuf.body).unwrap().value), names(&ours.json()));
    let headers = [("accept", &*format!("application/json;{form}")), ("if-none-match", ours.header("etag"))];
    assert_eq!(ask(&client, "GET", "/apis", &headers, b"").await.status, StatusCode::NOT_MODIFIED);
    let groups = ask(&client, "GET", "/apis", &[("accept", PROTOBUF)], b"").await;
    assert_eq!(groups.object("APIGroupList")["groups"][0]["name"], "apiregistration.k8s.io");
    fixture.server.stop().await;
}

#[tokio::test]
async fn openapi_documents_are_cached_under_their_hash() {
    let fixture = Fixture::start().await;
    let client = fixture.server.client("admin", &["system:masters"]);
    let index = ask(&client, "GET", "/openapi/v3", &[], b"").await.json();
    let url = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = ask(&client, "GET", &url, &[], b"").await;
    assert_eq!(document.header("cache-control"), "public, immutable");
    assert!(document.json()["components"]["schemas"]["io.k8s.api.core.v1.Pod"].is_object());
    let etag = document.header("etag").to_owned();
    let again = ask(&client, "GET", &url, &[("if-none-match", &etag)], b"").await;
    assert_eq!(again.status, StatusCode::NOT_MODIFIED);
    let moved = ask(&client, "GET", "/openapi/v3/api/v1?hash=00", &[], b"").await;
    assert_eq!((moved.status, moved.header("location")), (StatusCode::MOVED_PERMANENTLY, url.as_str()));
    assert_eq!(ask(&client, "GET", "/openapi/v3/apis/none/v1", &[], b"").await.status, StatusCode::NOT_FOUND);

    let swagger = ask(&client, "GET", "/openapi/v2", &[], b"").await;
    assert!(swagger.json()["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
    let wanted = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    let protobuf = ask(&client, "GET", "/openapi/v2", &[("accept", wanted)], b"").await;
    assert_eq!((protobuf.header("content-type"), &protobuf.body[..5]), (wanted, &b"\x0a\x032.0"[..]));
    fixture.server.stop().await;
}
