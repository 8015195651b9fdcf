//! CertificateSigningRequests, with their approval and what signers write.

use crate::meta::{Meta, Object};
use crate::registry::duration::human_duration;
use crate::registry::field::{Errors, Path};
use crate::registry::gv::CERTIFICATES_V1;
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::{carry_over, clear_status, items, keep_all_but_status, keep_status, root, text};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, meta, meta_fields, names};
use crate::selector::Pairs;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

const KIND: &str = "CertificateSigningRequest";

pub const DEF: ResourceDef = ResourceDef {
    gv: CERTIFICATES_V1,
    resource: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    kind: KIND,
    short_names: &["csr"],
    namespaced: false,
    storage: "certificatesigningrequests",
    storage_gv: CERTIFICATES_V1,
    subresources: &[
        Subresource { name: "approval", kind: KIND, gv: CERTIFICATES_V1, verbs: STATUS_VERBS },
        Subresource { name: "status", kind: KIND, gv: CERTIFICATES_V1, verbs: STATUS_VERBS },
    ],
    columns: COLUMNS,
    row,
    selectable: &["spec.signerName"],
    fields,
    strategy: &Strategy {
        prepare_create: clear_status,
        prepare_update,
        prepare_status,
        validate,
        validate_status,
        ..Strategy::CLUSTER
    },
    ..ResourceDef::BASIC
};

/// By whom it is asked for is not for the client to say: `(field, value)` of the spec.
pub fn set_requester(request: &mut Object, fields: &[(&str, Value)]) {
    for (field, value) in fields {
        request["spec"][*field] = value.clone();
    }
}

fn fields(request: &Object) -> Pairs {
    let mut pairs = meta_fields(request);
    pairs.insert("spec.signerName".into(), text(&request["spec"]["signerName"]).into());
    pairs
}

/// A request stays what it was.
fn prepare_update(new: &mut Object, old: &Object) {
    carry_over(new, old, "spec");
    keep_status(new, old);
}

const APPROVALS: [&str; 2] = ["Approved", "Denied"];

/// A signer's write leaves the approval alone.
fn prepare_status(new: &mut Object, old: &Object) {
    keep_all_but_status(new, old);
    let is_approval = |c: &&Value| APPROVALS.contains(&text(&c["type"]));
    let mut conditions: Vec<Value> = items(&old["status"]["conditions"]).iter().filter(is_approval).cloned().collect();
    conditions.extend(items(&new["status"]["conditions"]).iter().filter(|c| !is_approval(c)).cloned());
    if !conditions.is_empty() {
        new["status"]["conditions"] = conditions.into();
    }
}

/// An approver writes conditions and nothing else.
pub fn prepare_approval(new: &mut Object, old: &Object) {
    let conditions = new["status"]["conditions"].clone();
    keep_all_but_status(new, old);
    carry_over(new, old, "status");
    if let Some(status) = root(new).entry("status").or_insert_with(|| Value::Object(Default::default())).as_object_mut()
    {
        status.insert("conditions".to_owned(), conditions);
    }
}

/// Gives conditions the times that the client left out.
pub fn stamp_conditions(new: &mut Object, old: &Object, now: &str) {
    let Some(conditions) = new["status"].get_mut("conditions").and_then(Value::as_array_mut) else { return };
    for condition in conditions {
        if text(&condition["lastUpdateTime"]).is_empty() {
            condition["lastUpdateTime"] = now.into();
        }
        if text(&condition["lastTransitionTime"]).is_empty() {
            let same = |c: &&Value| c["type"] == condition["type"] && c["status"] == condition["status"];
            let before = items(&old["status"]["conditions"]).iter().find(same);
            let since = before.map_or_else(|| now.into(), |before| before["lastTransitionTime"].clone());
            condition["lastTransitionTime"] = since;
        }
    }
}

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const MIN_SECONDS: i64 = 600;

fn validate(request: &Object) -> Errors {
    // Any name that fits into a path: kubelets name theirs after a digest in base64.
    let mut errors = meta::validate(request, false, names::path_segment);
    let (spec, path) = (&request["spec"], Path::new("spec"));
    if !is_pem(text(&spec["request"]), "CERTIFICATE REQUEST") {
        let detail = "PEM block type must be CERTIFICATE REQUEST";
        errors.push(path.child("request").invalid(spec["request"].clone(), detail));
    }
    let usages = items(&spec["usages"]);
    if usages.is_empty() {
        errors.push(path.child("usages").required(""));
    }
    for (index, usage) in usages.iter().map(text).enumerate() {
        let path = path.child("usages").index(index);
        if !USAGES.contains(&usage) {
            errors.push(path.not_supported(usage, &USAGES));
        }
        if usages[..index].iter().any(|earlier| text(earlier) == usage) {
            errors.push(path.duplicate(usage));
        }
    }
    let signer = text(&spec["signerName"]);
    signer_name(signer, &path.child("signerName"), &mut errors);
    if signer == "kubernetes.io/legacy-unknown" {
        let detail = "the legacy signerName is not allowed via this API version";
        errors.push(path.child("signerName").invalid(signer, detail));
    }
    if let Some(seconds) = spec["expirationSeconds"].as_i64().filter(|s| *s < MIN_SECONDS) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(path.child("expirationSeconds").invalid(seconds, detail));
    }
    errors
}

/// `ValidateSignerName`.
pub fn signer_name(name: &str, path: &Path, errors: &mut Errors) {
    const MAX_BYTES: usize = 571;
    if name.is_empty() {
        errors.push(path.required(""));
        return;
    }
    let form = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
    let Some((domain, rest)) = name.split_once('/').filter(|(_, rest)| !rest.contains('/')) else {
        errors.push(path.invalid(name, form));
        return;
    };
    errors.extend(path.all_invalid(name, names::dns1123_subdomain(domain, false)));
    if !domain.contains('.') {
        errors.push(path.invalid(name, form));
    }
    errors.extend(path.all_invalid(name, names::dns1123_subdomain(rest, false)));
    if name.len() > MAX_BYTES {
        errors.push(path.too_long(MAX_BYTES));
    }
}

/// Whether the base64 text is a PEM block of that label around something in DER.
fn is_pem(encoded: &str, label: &str) -> bool {
    let Ok(pem) = STANDARD.decode(encoded) else { return false };
    let Ok((_, block)) = x509_parser::pem::parse_x509_pem(&pem) else { return false };
    block.label == label && block.contents.first() == Some(&0x30)
}

/// The organizations (groups, to Kubernetes) of the subject that the request asks for.
pub fn organizations(request: &Object) -> Vec<String> {
    of_subject(request, |subject| {
        subject.iter_organization().filter_map(|part| part.as_str().ok().map(str::to_owned)).collect()
    })
}

/// The common name (user, to Kubernetes) of that subject; empty where it has none.
pub fn common_name(request: &Object) -> String {
    of_subject(request, |subject| {
        subject.iter_common_name().next().and_then(|part| part.as_str().ok()).unwrap_or_default().to_owned()
    })
}

fn of_subject<T: Default>(request: &Object, read: impl FnOnce(&x509_parser::x509::X509Name<'_>) -> T) -> T {
    use x509_parser::prelude::FromDer;
    let Ok(pem) = STANDARD.decode(text(&request["spec"]["request"])) else { return T::default() };
    let Ok((_, block)) = x509_parser::pem::parse_x509_pem(&pem) else { return T::default() };
    let parsed = x509_parser::certification_request::X509CertificationRequest::from_der(&block.contents);
    let Ok((_, parsed)) = parsed else { return T::default() };
    read(&parsed.certification_request_info.subject)
}

/// The approval: its conditions, of which none may go.
pub fn validate_approval(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    conditions(new, old, &mut errors);
    errors
}

fn conditions(new: &Object, old: &Object, errors: &mut Errors) {
    let (list, path) = (items(&new["status"]["conditions"]), Path::new("status").child("conditions"));
    for (index, condition) in list.iter().enumerate() {
        let path = path.index(index);
        let (kind, status) = (text(&condition["type"]), text(&condition["status"]));
        if kind.is_empty() {
            errors.push(path.child("type").required(""));
        }
        let supported: &[&str] =
            if matches!(kind, "Approved" | "Denied" | "Failed") { &["True"] } else { &["False", "True", "Unknown"] };
        if status.is_empty() {
            errors.push(path.child("status").required(""));
        } else if !supported.contains(&status) {
            errors.push(path.child("status").not_supported(status, supported));
        }
        if list[..index].iter().any(|earlier| text(&earlier["type"]) == kind) {
            errors.push(path.child("type").duplicate(kind));
        }
    }
    let has = |kind: &str| list.iter().any(|c| text(&c["type"]) == kind);
    if has("Approved") && has("Denied") {
        errors.push(path.invalid("Denied", "Approved and Denied conditions are mutually exclusive"));
    }
    for kind in ["Approved", "Denied", "Failed"] {
        let had = items(&old["status"]["conditions"]).iter().any(|c| text(&c["type"]) == kind);
        if had && !has(kind) {
            let detail = format!("updates may not remove a condition of type \"{kind}\"");
            errors.push(path.forbidden(&detail));
        }
    }
}

fn validate_status(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let path = Path::new("status").child("certificate");
    let (certificate, before) = (text(&new["status"]["certificate"]), text(&old["status"]["certificate"]));
    if !certificate.is_empty() && !is_pem(certificate, "CERTIFICATE") {
        errors.push(path.invalid("<certificate data>", "must contain at least one CERTIFICATE PEM block"));
    }
    if !before.is_empty() && certificate != before {
        errors.push(path.forbidden("updates may not modify existing certificate content"));
    }
    conditions(new, old, &mut errors);
    errors
}

fn row(request: &Object, now: i64) -> Vec<Value> {
    let spec = &request["spec"];
    let signer = match text(&spec["signerName"]) {
        "" => "<none>",
        signer => signer,
    };
    let duration = spec["expirationSeconds"].as_i64().map_or("<none>".to_owned(), human_duration);
    vec![
        request.name().into(),
        age(request, now),
        signer.into(),
        text(&spec["username"]).into(),
        duration.into(),
        state(&request["status"]).into(),
    ]
}

fn state(status: &Value) -> String {
    let has = |kind: &str| items(&status["conditions"]).iter().any(|c| text(&c["type"]) == kind);
    // Must be in order of precedence.
    let mut state = if has("Denied") {
        "Denied".to_owned()
    } else if has("Approved") {
        "Approved".to_owned()
    } else {
        "Pending".to_owned()
    };
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !text(&status["certificate"]).is_empty() {
        state.push_str(",Issued");
    }
    state
}

const COLUMNS: &[Column] = &[
    NAME,
    AGE,
    text_column(
        "SignerName",
        "Requested signer for the request. It is a qualified name in the form: `scope-hostname.io/name`. If empty, it will be defaulted:\n 1. If it's a kubelet client certificate, it is assigned\n    \"kubernetes.io/kube-apiserver-client-kubelet\".\n 2. If it's a kubelet serving certificate, it is assigned\n    \"kubernetes.io/kubelet-serving\".\n 3. Otherwise, it is assigned \"kubernetes.io/legacy-unknown\".\nDistribution of trust for signers happens out of band. You can select on this field using `spec.signerName`.",
    ),
    text_column("Requestor", "Base64-encoded PKCS#10 CSR data"),
    text_column(
        "RequestedDuration",
        "expirationSeconds is the requested duration of validity of the issued certificate. The certificate signer may issue a certificate with a different validity duration so a client must check the delta between the notBefore and and notAfter fields in the issued certificate to determine the actual duration.\n\nThe v1.22+ in-tree implementations of the well-known Kubernetes signers will honor this field as long as the requested duration is not greater than the maximum duration they will honor per the --cluster-signing-duration CLI flag to the Kubernetes controller manager.\n\nCertificate signers may not honor this field for various reasons:\n\n  1. Old signer that is unaware of the field (such as the in-tree\n     implementations prior to v1.22)\n  2. Signer whose configured maximum is shorter than the requested duration\n  3. Signer whose configured minimum is longer than the requested duration\n\nThe minimum valid value for expirationSeconds is 600, i.e. 10 minutes.",
    ),
    text_column("Condition", "Conditions applied to the request, such as approval or denial."),
];
