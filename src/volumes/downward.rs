//! downwardAPI content: the pod's own fields and its containers' resources as files. Pure.

use super::atomic::{Payload, Projection};
use super::content::bits;
use crate::decide::env::pod_limit;
use crate::model::node::NodeFacts;
use crate::units::{Bytes, Millicores};
use k8s_openapi::api::core::v1::{Container, DownwardAPIVolumeFile, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

pub(super) fn render(
    items: &[DownwardAPIVolumeFile],
    pod: &Pod,
    facts: &NodeFacts,
    default_mode: i32,
) -> Result<Payload, String> {
    let mut payload = Payload::new();
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => field_text(pod, &field.field_path)?,
            (None, Some(resource)) => resource_text(pod, resource, facts)?,
            (None, None) => continue,
        };
        let mode = bits(item.mode.unwrap_or(default_mode));
        payload.insert(item.path.clone(), Projection { data: text.into_bytes(), mode, uid: None });
    }
    Ok(payload)
}

/// `fieldpath.ExtractFieldPathAsString`.
fn field_text(pod: &Pod, path: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let map = match map {
            "metadata.annotations" => &meta.annotations,
            "metadata.labels" => &meta.labels,
            map => return Err(format!("fieldPath {map:?} does not support subscript")),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.annotations" => format_map(meta.annotations.as_ref()),
        "metadata.labels" => format_map(meta.labels.as_ref()),
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        path => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// `key="value"` lines by key, values quoted as Go's `%q`.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", go_quote(value)));
    lines.collect::<Vec<_>>().join("\n")
}

fn go_quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `resource.ExtractResourceValueByContainerNameAndNodeAllocatable`: limits fall back to what the node can give.
fn resource_text(pod: &Pod, wanted: &ResourceFieldSelector, facts: &NodeFacts) -> Result<String, String> {
    let name = wanted.container_name.as_deref().unwrap_or_default();
    let container = container(pod, name).ok_or_else(|| format!("container {name} not found"))?;
    let resources = container.resources.as_ref();
    let limits = resources.and_then(|r| r.limits.as_ref());
    let requests = resources.and_then(|r| r.requests.as_ref());
    let (values, resource) = match wanted.resource.split_once('.') {
        Some(("limits", resource)) => (limits, resource),
        Some(("requests", resource)) => (requests, resource),
        _ => return Err(format!("unsupported container resource : {}", wanted.resource)),
    };
    let own = values.and_then(|values| values.get(resource)).filter(|quantity| quantity.0 != "0");
    let quantity = match wanted.resource.starts_with("limits.") {
        true => own
            .or_else(|| pod.spec.as_ref().and_then(|spec| pod_limit(spec, resource)))
            .or_else(|| facts.allocatable.get(resource)),
        false => own,
    };
    divide(resource, quantity, wanted.divisor.as_ref()).map_err(|error| error.to_string())
}

fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|container| container.name == name)
}

/// Rounded up to whole divisors.
fn divide(
    resource: &str,
    quantity: Option<&Quantity>,
    divisor: Option<&Quantity>,
) -> Result<String, crate::units::QuantityError> {
    let in_unit = |quantity: &Quantity| match resource {
        "cpu" => Millicores::parse(quantity).map(|value| value.0),
        _ => Bytes::parse(quantity).map(|value| value.0),
    };
    let one = if resource == "cpu" { 1000 } else { 1 };
    let value = quantity.map(in_unit).transpose()?.unwrap_or(0);
    let divisor = divisor.map(in_unit).transpose()?.filter(|divisor| *divisor > 0).unwrap_or(one);
    Ok((value / divisor + i64::from(value % divisor > 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"b": "x-y", "a": "1"},
                         "annotations": {"q": "say \"hi\"\nthere"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "250m"}, "requests": {"memory": "33Mi"}}}]},
        }))
        .unwrap()
    }

    /// golden/pods/volumes/downward-volume.json
    #[test]
    fn fields_and_resources_become_text() {
        let mut facts = NodeFacts::default();
        facts.allocatable.insert("memory".into(), Quantity("1Gi".into()));
        let field = |path: &str| field_text(&pod(), path);
        assert_eq!(field("metadata.labels").unwrap(), "a=\"1\"\nb=\"x-y\"");
        assert_eq!(field("metadata.annotations").unwrap(), "q=\"say \\\"hi\\\"\\nthere\"");
        assert_eq!(field("metadata.labels['a']").unwrap(), "1");
        assert_eq!(field("metadata.uid").unwrap(), "u");
        assert_eq!(field("spec.nodeName").unwrap_err(), "unsupported fieldPath: spec.nodeName");
        for (resource, divisor, want) in [
            ("limits.cpu", "1m", "250"),
            ("limits.cpu", "0", "1"),
            ("requests.memory", "10Mi", "4"),
            ("limits.memory", "1Mi", "1024"),
            ("requests.cpu", "1", "0"),
        ] {
            let wanted = ResourceFieldSelector {
                container_name: Some("c".into()),
                resource: resource.into(),
                divisor: Some(Quantity(divisor.into())),
            };
            assert_eq!(resource_text(&pod(), &wanted, &facts).unwrap(), want, "{resource}");
        }
        let mut whole = pod();
        let limits = [("memory".to_owned(), Quantity("64Mi".to_owned()))];
        let resources =
            whole.spec.as_mut().and_then(|spec| spec.resources.get_or_insert_default().limits.replace(limits.into()));
        assert!(resources.is_none());
        let wanted = ResourceFieldSelector {
            container_name: Some("c".into()),
            resource: "limits.memory".into(),
            divisor: Some(Quantity("1Mi".into())),
        };
        assert_eq!(resource_text(&whole, &wanted, &facts).unwrap(), "64", "the pod's limit comes before the node's");
    }
}
