//! `/openapi/v2`: the whole API as one Swagger 2.0 document, turned piece by piece out of the v3 documents, as JSON text
//! or as gnostic's protobuf (`swagger_proto`).

use super::{
    PublishedKind, ServedKind, component, custom, document_path, groups, inflate, paths, swagger_proto, wanted,
};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

const V3_REFERENCE: &str = "#/components/schemas/";

/// The document as JSON.
pub fn swagger_json(served: &[ServedKind], published: &[PublishedKind]) -> Bytes {
    let mut out = String::with_capacity(4 << 20);
    out.push_str(r#"{"swagger":"2.0","info":{"title":"Kubernetes","version":"v1.36.2"},"paths":{"#);
    let used = each_path(served, |path, item| push_entry(&mut out, path, &item));
    out.push_str(r#"},"definitions":{"#);
    each_definition(&used, published, |name, schema| push_entry(&mut out, name, &schema));
    out.push_str(
        r#"},"securityDefinitions":{"BearerToken":{"description":"Bearer Token authentication","type":"apiKey","#,
    );
    out.push_str(r#""name":"authorization","in":"header"}},"security":[{"BearerToken":[]}]}"#);
    out.into()
}

fn push_entry(out: &mut String, name: &str, value: &Value) {
    if !out.ends_with('{') {
        out.push(',');
    }
    out.push_str(&format!("{}:{value}", Value::from(name)));
}

/// The document as `application/com.github.proto-openapi.spec.v2.v1.0+protobuf`.
pub fn swagger_protobuf(served: &[ServedKind], published: &[PublishedKind]) -> Bytes {
    let mut out = swagger_proto::Document::new("Kubernetes", "v1.36.2");
    let used = each_path(served, |path, item| out.path(path, &item));
    each_definition(&used, published, |name, schema| out.definition(name, &schema));
    out.finish().into()
}

/// Every path in v2's form, one version's at a time; gives back the text of the references they make.
fn each_path(served: &[ServedKind], mut take: impl FnMut(&str, Value)) -> String {
    let mut used = String::new();
    let names = groups(served);
    let versions: BTreeSet<String> = served.iter().map(|kind| document_path(kind.gv)).collect();
    let roots = names.iter().map(|group| format!("apis/{group}"));
    let roots: Vec<String> = ["api", "apis", "version"].map(str::to_owned).into_iter().chain(roots).collect();
    let documents = versions.iter().map(|document| paths::of_version(document, served));
    let documents = documents.chain(roots.iter().filter_map(|document| paths::of_root(document, &names)));
    for (path, item) in documents.flatten() {
        for reference in super::refs(&item.to_string()) {
            used.push_str(&format!("\"{V3_REFERENCE}{reference}\""));
        }
        take(&path, path_item(item));
    }
    used
}

fn each_definition(used: &str, published: &[PublishedKind], mut take: impl FnMut(&str, Value)) {
    let text = inflate();
    for (name, schema) in custom::components(published) {
        take(&name, definition(schema));
    }
    let names: BTreeSet<&str> = wanted(&text, used).into_keys().collect();
    for (name, (_, schema)) in text.lines().filter_map(component).filter(|(name, _)| names.contains(name)) {
        // The components are ours, and a test parses every one of them.
        take(name, definition(serde_json::from_str(schema).unwrap_or_default()));
    }
}

/// A v3 schema as v2 says it: no defaults, references bare, unions by their format.
fn definition(schema: Value) -> Value {
    let Value::Object(mut schema) = schema else {
        return match schema {
            Value::Array(items) => Value::Array(items.into_iter().map(definition).collect()),
            other => other,
        };
    };
    schema.remove("default");
    if let Some(Value::Array(all)) = schema.get("allOf")
        && let [Value::Object(only)] = &all[..]
        && let Some(reference) = only.get("$ref").cloned()
    {
        schema.remove("allOf");
        schema.insert("$ref".to_owned(), reference);
    }
    if let Some(Value::Array(choices)) = schema.remove("oneOf") {
        let integer = choices.iter().any(|choice| choice["type"] == "integer");
        schema.insert("type".to_owned(), "string".into());
        if integer {
            schema.insert("format".to_owned(), "int-or-string".into());
        }
    }
    for (key, value) in &mut schema {
        match (key.as_str(), &mut *value) {
            ("$ref", Value::String(text)) => *text = text.replace(V3_REFERENCE, "#/definitions/"),
            ("properties", Value::Object(fields)) => {
                for field in fields.values_mut() {
                    *field = definition(field.take());
                }
            }
            ("items" | "additionalProperties" | "allOf" | "not", value) => *value = definition(value.take()),
            _ => {}
        }
    }
    Value::Object(schema)
}

fn path_item(item: Value) -> Value {
    let Value::Object(item) = item else { return item };
    let turned = item.into_iter().map(|(key, value)| match (key.as_str(), value) {
        ("parameters", Value::Array(list)) => (key, Value::Array(list.into_iter().map(parameter).collect())),
        (_, Value::Object(operation_v3)) => {
            let turned = operation(operation_v3);
            (key, turned)
        }
        (_, value) => (key, value),
    });
    Value::Object(turned.collect())
}

fn parameter(mut parameter: Value) -> Value {
    let schema = parameter["schema"].take();
    let Value::Object(mut out) = parameter else { return parameter };
    out.remove("schema");
    for (key, value) in schema.as_object().into_iter().flatten() {
        out.insert(key.clone(), value.clone());
    }
    Value::Object(out)
}

fn operation(mut operation: Map<String, Value>) -> Value {
    let mut parameters: Vec<Value> = match operation.remove("parameters") {
        Some(Value::Array(list)) => list.into_iter().map(parameter).collect(),
        _ => Vec::new(),
    };
    let mut consumes = json!(["*/*"]);
    if let Some(mut body) = operation.remove("requestBody")
        && let Value::Object(content) = body["content"].take()
    {
        let schema = content.values().next().map(|media| media["schema"].clone()).unwrap_or_default();
        consumes = content.keys().cloned().collect();
        let mut parameter = json!({"name": "body", "in": "body", "schema": definition(schema)});
        if body["required"] == true {
            parameter["required"] = true.into();
        }
        parameters.insert(0, parameter);
    }
    let mut produces = json!([]);
    let mut responses = Map::new();
    for (code, response) in operation.remove("responses").as_ref().and_then(Value::as_object).into_iter().flatten() {
        let mut out = json!({"description": response["description"]});
        if let Some(content) = response["content"].as_object() {
            produces = content.keys().cloned().collect();
            let schema = content.values().next().map(|media| media["schema"].clone()).unwrap_or_default();
            out["schema"] = definition(schema);
        }
        responses.insert(code.clone(), out);
    }
    operation.insert("consumes".to_owned(), consumes);
    operation.insert("produces".to_owned(), produces);
    operation.insert("schemes".to_owned(), json!(["https"]));
    operation.insert("responses".to_owned(), Value::Object(responses));
    if !parameters.is_empty() {
        operation.insert("parameters".to_owned(), Value::Array(parameters));
    }
    Value::Object(operation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_lose_what_swagger_does_not_know() {
        let v3 = json!({
            "type": "object", "description": "D", "required": ["a"],
            "properties": {
                "a": {"allOf": [{"$ref": "#/components/schemas/x.Y"}], "default": {}, "description": "A"},
                "b": {"type": "array", "items": {"allOf": [{"$ref": "#/components/schemas/x.Z"}], "default": {}}, "x-kubernetes-list-type": "atomic"},
                "c": {"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"},
                "d": {"oneOf": [{"type": "string"}, {"type": "number"}]},
                "default": {"type": "string", "default": ""},
            },
        });
        let v2 = json!({
            "type": "object", "description": "D", "required": ["a"],
            "properties": {
                "a": {"$ref": "#/definitions/x.Y", "description": "A"},
                "b": {"type": "array", "items": {"$ref": "#/definitions/x.Z"}, "x-kubernetes-list-type": "atomic"},
                "c": {"type": "string", "format": "int-or-string"},
                "d": {"type": "string"},
                "default": {"type": "string"},
            },
        });
        assert_eq!(definition(v3), v2);
    }

    #[test]
    fn operations_carry_their_body_as_a_parameter() {
        let v3 = json!({"parameters": [{"name": "n", "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}}], "put": {
            "operationId": "x", "requestBody": {"required": true, "content": {"*/*": {"schema": {"$ref": "#/components/schemas/x.Y"}}}},
            "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/x.Y"}}}}, "401": {"description": "Unauthorized"}},
        }});
        let v2 = json!({"parameters": [{"name": "n", "in": "path", "required": true, "type": "string", "uniqueItems": true}], "put": {
            "operationId": "x", "consumes": ["*/*"], "produces": ["application/json"], "schemes": ["https"],
            "parameters": [{"name": "body", "in": "body", "required": true, "schema": {"$ref": "#/definitions/x.Y"}}],
            "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/x.Y"}}, "401": {"description": "Unauthorized"}},
        }});
        assert_eq!(path_item(v3), v2);
    }
}
