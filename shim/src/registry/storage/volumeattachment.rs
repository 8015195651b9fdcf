//! VolumeAttachments: a volume that is to be, or is, attached to a node.

use crate::meta::{Meta, Object};
use crate::registry::core::pod::validate::persistent_source;
use crate::registry::field::{Errors, Path};
use crate::registry::gv::STORAGE_V1;
use crate::registry::table::{AGE, NAME, age, boolean, text_column};
use crate::registry::value::{clear_status, keep_all_but_status, keep_status, same, text, truth};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, meta, names};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    gv: STORAGE_V1,
    resource: "volumeattachments",
    singular: "volumeattachment",
    kind: "VolumeAttachment",
    namespaced: false,
    storage: "volumeattachments",
    storage_gv: STORAGE_V1,
    subresources: &[Subresource { name: "status", kind: "VolumeAttachment", gv: STORAGE_V1, verbs: STATUS_VERBS }],
    columns: COLUMNS,
    row,
    returns_deleted: true,
    strategy: &Strategy {
        prepare_create: clear_status,
        prepare_update: keep_status,
        prepare_status: keep_all_but_status,
        validate,
        validate_update,
        allow_unconditional_update: false,
        ..Strategy::CLUSTER
    },
    ..ResourceDef::BASIC
};

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_cluster(object);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let attacher = text(&spec["attacher"]);
    if attacher.is_empty() {
        errors.push(path.child("attacher").required(""));
    } else {
        errors.extend(path.child("attacher").all_invalid(attacher, names::qualified_name(&attacher.to_lowercase())));
    }
    let (source, path_of_source) = (&spec["source"], path.child("source"));
    match (source["inlineVolumeSpec"].is_object(), source["persistentVolumeName"].as_str()) {
        (true, Some(_)) => errors
            .push(path_of_source.forbidden("must specify exactly one of inlineVolumeSpec and persistentVolumeName")),
        (true, None) => {
            persistent_source(&source["inlineVolumeSpec"], &path_of_source.child("inlineVolumeSpec"), &mut errors)
        }
        (false, None) => errors
            .push(path_of_source.required("must specify exactly one of inlineVolumeSpec and persistentVolumeName")),
        (false, Some("")) => errors
            .push(path_of_source.child("persistentVolumeName").required("must specify non empty persistentVolumeName")),
        (false, Some(name)) => {
            let texts = names::dns1123_subdomain(name, false);
            errors.extend(path_of_source.child("persistentVolumeName").all_invalid(name, texts));
        }
    }
    let node = text(&spec["nodeName"]);
    errors.extend(path.child("nodeName").all_invalid(node, names::dns1123_subdomain(node, false)));
    errors
}

fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    if !same(&new["spec"], &old["spec"]) {
        errors.push(Path::new("spec").invalid(new["spec"].clone(), "field is immutable"));
    }
    errors
}

fn row(object: &Object, now: i64) -> Vec<Value> {
    let spec = &object["spec"];
    vec![
        object.name().into(),
        text(&spec["attacher"]).into(),
        text(&spec["source"]["persistentVolumeName"]).into(),
        text(&spec["nodeName"]).into(),
        truth(&object["status"]["attached"]).into(),
        age(object, now),
    ]
}

const COLUMNS: &[Column] = &[
    NAME,
    Column {
        name: "Attacher",
        kind: "string",
        format: "name",
        priority: 0,
        description: "attacher indicates the name of the volume driver that MUST handle this request. This is the name returned by GetPluginName().",
    },
    text_column("PV", "persistentVolumeName represents the name of the persistent volume to attach."),
    text_column("Node", "nodeName represents the node that the volume should be attached to."),
    boolean(
        "Attached",
        "attached indicates the volume is successfully attached. This field must only be set by the entity completing the attach operation, i.e. the external-attacher.",
    ),
    AGE,
];
