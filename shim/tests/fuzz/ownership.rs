//! Server-side apply and updates by several managers, of objects and field sets that anyone could send.

use super::bounds::bounded;
use super::{KINDS, object, tree};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use skiff_shim::schema::apply::{ApplyError, Builtin, Managers, Set, Versions, Writer};
use skiff_shim::schema::{FieldValidation, Schema};

/// One write: whose, by apply or update, with force or without, and what.
type Write = (usize, bool, bool, Value);

fn writes() -> impl Strategy<Value = (usize, Vec<Write>)> {
    (0..KINDS.len(), vec((0..3usize, any::<bool>(), any::<bool>(), object()), 1..6))
}

const WRITERS: [&str; 3] = ["kubectl", "a", "b"];

fn versions<'a>(schema: &'static Schema, empty: &'a Value, reset: &'a Set) -> Versions<'a, Builtin> {
    let of = move |version: &str| (version == schema.api_version()).then(|| schema.typed());
    Versions { of: Box::new(of), convert: Box::new(|object, _| Some(object.clone())), empty, reset }
}

/// As the pipeline has it: in the form of its kind, with the header that says which.
fn sent(schema: &'static Schema, version: &str, kind: &str, body: &Value) -> Option<Value> {
    let mut object = schema.decode(body.to_string().as_bytes(), FieldValidation::Ignore).ok()?.value;
    object["apiVersion"] = version.into();
    object["kind"] = kind.into();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    Some(object)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn objects_are_applied_or_refused_and_applied_again_change_nothing((at, writes) in writes()) {
        bounded(|| {
            let (version, kind) = KINDS[at];
            let schema = Schema::named(version, kind).expect("a built-in");
            let empty = json!({"apiVersion": version, "kind": kind});
            let reset = Set::default();
            let versions = versions(schema, &empty, &reset);
            let (mut live, mut managers) = (empty.clone(), Managers::default());
            for (who, applies, force, body) in writes {
                let Some(object) = sent(schema, version, kind, &body) else { continue };
                let writer = Writer { manager: WRITERS[who], subresource: "", version, now: "2024-05-06T07:08:09Z" };
                if !applies {
                    managers = managers.update(&versions, &live, &object, writer);
                    live = object;
                    continue;
                }
                match managers.clone().apply(&versions, &live, &object, writer, force) {
                    Err(ApplyError::Conflicts(conflicts)) => prop_assert!(!force && !conflicts.is_empty()),
                    Err(ApplyError::BadRequest(text) | ApplyError::Misfit(text)) => prop_assert!(!text.is_empty()),
                    Ok(applied) => {
                        live = applied.object.unwrap_or(live);
                        managers = applied.managers;
                        let again = managers.clone().apply(&versions, &live, &object, writer, false);
                        let again = again.map(|applied| applied.object.filter(|object| *object != live));
                        prop_assert!(matches!(again, Ok(None)), "{again:?} instead of {live}");
                    }
                }
                // Entries are what they were once they have been stored.
                let entries = managers.clone().write().unwrap_or_default();
                let read = Managers::read(&entries);
                prop_assert_eq!(read.as_ref(), Ok(&managers), "{}", entries);
            }
            Ok(())
        })?;
    }

    #[test]
    fn field_sets_of_any_make_are_read_or_refused(entries in vec(tree(), 0..3), fields in fields()) {
        bounded(|| {
            drop(Managers::read(&Value::Array(entries)));
            let entry = json!({"manager": "a", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields});
            if let Ok(managers) = Managers::read(&json!([entry])) {
                drop(managers.write());
            }
            if let Ok(set) = Set::read(&fields) {
                prop_assert_eq!(&set.union(&set), &set);
                prop_assert!(set.difference(&set).is_empty());
                drop(set.paths());
            }
            Ok(())
        })?;
    }
}

/// `FieldsV1`, nearly.
fn fields() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        "f:[a-z]{0,4}",
        Just(".".to_owned()),
        "v:[0-9\"a-z]{0,4}",
        "i:-?[0-9]{0,3}",
        Just(r#"k:{"name":"a"}"#.to_owned()),
        Just("k:{".to_owned()),
        ".{0,4}",
    ];
    let empty = Just(json!({})).boxed();
    empty.prop_recursive(5, 40, 5, move |inner| {
        proptest::collection::btree_map(name.clone(), inner, 0..5)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    })
}
