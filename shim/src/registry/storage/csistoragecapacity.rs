//! CSIStorageCapacities: how much room a driver has where.

use crate::meta::Object;
use crate::registry::field::{Errors, Path};
use crate::registry::gv::STORAGE_V1;
use crate::registry::quantity::Nanos;
use crate::registry::value::text;
use crate::registry::{ResourceDef, Strategy, labels, meta, names};

pub const DEF: ResourceDef = ResourceDef {
    gv: STORAGE_V1,
    resource: "csistoragecapacities",
    singular: "csistoragecapacity",
    kind: "CSIStorageCapacity",
    storage: "csistoragecapacities",
    storage_gv: STORAGE_V1,
    strategy: &Strategy { validate, validate_update, allow_unconditional_update: false, ..Strategy::BASIC },
    ..ResourceDef::BASIC
};

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(object);
    let class = text(&object["storageClassName"]);
    errors.extend(Path::new("storageClassName").all_invalid(class, names::dns1123_subdomain(class, false)));
    for field in ["capacity", "maximumVolumeSize"] {
        if Nanos::parse(&object[field]).is_some_and(|n| n.0 < 0) {
            errors.push(Path::new(field).invalid(object[field].clone(), "must be greater than or equal to 0"));
        }
    }
    labels::validate_selector(&object["nodeTopology"], &Path::new("nodeTopology"), &mut errors);
    errors
}

fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    for field in ["nodeTopology", "storageClassName"] {
        meta::immutable(&new[field], &old[field], &Path::new(field), &mut errors);
    }
    errors
}
