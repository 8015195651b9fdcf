//! Ports of containers.

use super::one_of;
use crate::registry::field::{Errors, Path};
use crate::registry::names;
use crate::registry::value::{items, text};
use serde_json::Value;

pub(super) fn validate(ports: &[Value], path: &Path, errors: &mut Errors) {
    let mut seen = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = text(&port["name"]);
        if !name.is_empty() {
            let texts = names::port_name(name);
            if !texts.is_empty() {
                errors.extend(path.child("name").all_invalid(name, texts));
            } else if seen.contains(&name) {
                errors.push(path.child("name").duplicate(name));
            } else {
                seen.push(name);
            }
        }
        match port["containerPort"].as_i64().unwrap_or(0) {
            0 => errors.push(path.child("containerPort").required("")),
            number => number_in_range(number, &path.child("containerPort"), errors),
        }
        match port["hostPort"].as_i64().unwrap_or(0) {
            0 => {}
            number => number_in_range(number, &path.child("hostPort"), errors),
        }
        one_of(&port["protocol"], &path.child("protocol"), &["SCTP", "TCP", "UDP"], errors);
    }
}

pub(super) fn number_in_range(number: i64, path: &Path, errors: &mut Errors) {
    errors.extend(names::port_number(number).into_iter().map(|text| path.invalid(number, &text)));
}

/// Each port of the host is taken once in a pod.
pub(super) fn host_ports(containers: &[Value], path: &Path, seen: &mut Vec<String>, errors: &mut Errors) {
    for (index, container) in containers.iter().enumerate() {
        for (number, port) in items(&container["ports"]).iter().enumerate() {
            let host_port = port["hostPort"].as_i64().unwrap_or(0);
            if host_port == 0 {
                continue;
            }
            let key = format!("{}/{}/{host_port}", text(&port["protocol"]), text(&port["hostIP"]));
            if seen.contains(&key) {
                let path = path.index(index).child("ports").index(number).child("hostPort");
                errors.push(path.duplicate(key));
            } else {
                seen.push(key);
            }
        }
    }
}

/// In the host's network a container's port is the host's.
pub(super) fn host_network(containers: &[Value], path: &Path, errors: &mut Errors) {
    for (index, container) in containers.iter().enumerate() {
        for (number, port) in items(&container["ports"]).iter().enumerate() {
            if port["hostPort"] != port["containerPort"] {
                let path = path.index(index).child("ports").index(number).child("hostPort");
                let host_port = port["hostPort"].as_i64().unwrap_or(0);
                errors.push(path.invalid(host_port, "must match `containerPort` when `hostNetwork` is true"));
            }
        }
    }
}
