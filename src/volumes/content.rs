//! configMap and secret content: which keys become which files. Pure.

use super::atomic::{Payload, Projection};
use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath, Secret};

/// What the API server fills in for `defaultMode` (octal 0644).
pub(super) const DEFAULT_MODE: i32 = 0o644;

/// How keys are projected.
pub(super) struct Keys<'a> {
    pub items: &'a [KeyToPath],
    pub default_mode: i32,
    pub optional: bool,
}

pub(super) fn config_map(map: &ConfigMap, keys: &Keys<'_>) -> Result<Payload, String> {
    let text = |key: &str| map.data.as_ref()?.get(key).map(|text| text.clone().into_bytes());
    let binary = |key: &str| map.binary_data.as_ref()?.get(key).map(|bytes| bytes.0.clone());
    let all = map.data.iter().flat_map(|data| data.keys()).chain(map.binary_data.iter().flat_map(|data| data.keys()));
    project(all, |key| text(key).or_else(|| binary(key)), keys, "configmap references non-existent config key")
}

pub(super) fn secret(secret: &Secret, keys: &Keys<'_>) -> Result<Payload, String> {
    let data = |key: &str| secret.data.as_ref()?.get(key).map(|bytes| bytes.0.clone());
    let all = secret.data.iter().flat_map(|data| data.keys());
    project(all, data, keys, "references non-existent secret key")
}

fn project<'a>(
    all: impl Iterator<Item = &'a String>,
    data: impl Fn(&str) -> Option<Vec<u8>>,
    keys: &Keys<'_>,
    missing: &str,
) -> Result<Payload, String> {
    let file = |data: Vec<u8>, mode: Option<i32>| Projection {
        data,
        mode: bits(mode.unwrap_or(keys.default_mode)),
        uid: None,
    };
    if keys.items.is_empty() {
        return Ok(all.filter_map(|key| Some((key.clone(), file(data(key)?, None)))).collect());
    }
    let mut payload = Payload::new();
    for item in keys.items {
        match data(&item.key) {
            Some(bytes) => drop(payload.insert(item.path.clone(), file(bytes, item.mode))),
            None if keys.optional => {}
            None => return Err(format!("{missing}: {}", item.key)),
        }
    }
    Ok(payload)
}

/// Permission bits only.
pub(super) fn bits(mode: i32) -> u32 {
    mode.unsigned_abs() & 0o777
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_files_and_a_missing_one_is_named() {
        let map: ConfigMap = serde_json::from_value(serde_json::json!({
            "metadata": {}, "data": {"a": "alpha"}, "binaryData": {"bin": "AAE="},
        }))
        .unwrap();
        let item = |key: &str, mode| KeyToPath { key: key.into(), path: format!("sub/{key}"), mode };
        let show = |items: &[KeyToPath], optional| {
            config_map(&map, &Keys { items, default_mode: 0o440, optional }).map(|files| {
                files.iter().map(|(path, f)| format!("{path} {:o} {}", f.mode, f.data.len())).collect::<Vec<_>>()
            })
        };
        assert_eq!(show(&[], false).unwrap(), ["a 440 5", "bin 440 2"]);
        assert_eq!(
            show(&[item("a", Some(0o755)), item("bin", None)], false).unwrap(),
            ["sub/a 755 5", "sub/bin 440 2"]
        );
        assert_eq!(show(&[item("zz", None)], false).unwrap_err(), "configmap references non-existent config key: zz");
        assert_eq!(show(&[item("zz", None)], true).unwrap(), Vec::<String>::new());
    }
}
