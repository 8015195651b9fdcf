//! certificatesigningrequest-signing-controller: signs what is approved for one of Kubernetes' own signers.

use super::request::{Asked, CLIENT, KUBELET_CLIENT, KUBELET_SERVING};
use super::{CallError, call, follow, has, is_issued, with_condition, write};
use crate::clock;
use crate::control::Signing;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::Client;
use kube::api::Api;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, SubjectPublicKeyInfo,
};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const LEGACY: &str = "kubernetes.io/legacy-unknown";
/// Clocks of other machines may lag ours.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Certificates that live shorter than this are backdated beyond their lifetime, not within it.
const SHORT: Duration = Duration::from_secs(8 * 3600);
/// What `expirationSeconds` may ask for at least.
const SHORTEST_ASKED: Duration = Duration::from_secs(10 * 60);

/// Why a certificate could not be signed.
#[derive(Debug, thiserror::Error)]
enum SignError {
    #[error("cannot read {}: {source}; see --cluster-signing-cert-file and --cluster-signing-key-file", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the CA in {} cannot sign: {source}", path.display())]
    Ca { path: PathBuf, source: rcgen::Error },
    #[error("{0}")]
    Request(#[from] rcgen::Error),
}

/// Signs, for ever.
pub(in crate::control) async fn run(client: Client, signing: Signing) {
    let signing = Arc::new(signing);
    follow(client.clone(), |request| waits(&request), |name| handle(client.clone(), signing.clone(), name)).await;
}

fn waits(request: &CertificateSigningRequest) -> bool {
    let ours = [CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY].contains(&request.spec.signer_name.as_str());
    ours && !is_issued(request) && has(request, "Approved") && !has(request, "Denied") && !has(request, "Failed")
}

async fn handle(client: Client, signing: Arc<Signing>, name: Arc<str>) -> Result<(), CallError> {
    let request = call(Api::<CertificateSigningRequest>::all(client.clone()).get(&name)).await?;
    if !waits(&request) {
        return Ok(());
    }
    let asked = match Asked::read(&request).and_then(|asked| check(&asked).map(|()| asked)) {
        Ok(asked) => asked,
        Err(why) => {
            let conditions = with_condition(&request, "Failed", "SignerValidationFailure", &why);
            return write(&client, "status", &request, json!({"conditions": conditions})).await;
        }
    };
    match sign(&signing, &asked, clock::now().wall) {
        Ok(pem) => {
            tracing::info!(request = %name, user = asked.username, signer = asked.signer, "certificate signed");
            write(&client, "status", &request, json!({"certificate": STANDARD.encode(pem)})).await
        }
        Err(error) => {
            // Tried again: an administrator may put the CA in place.
            Err(CallError::Unavailable(error.to_string()))
        }
    }
}

/// Upstream's rules of each signer.
fn check(asked: &Asked) -> Result<(), String> {
    match asked.signer.as_str() {
        KUBELET_CLIENT => asked.check_kubelet_client(),
        KUBELET_SERVING => asked.check_kubelet_serving(),
        CLIENT => asked.check_client_usages(),
        _ => Ok(()),
    }
}

/// How long the certificate lives: what is asked for, within what is allowed.
fn lifetime(asked: Option<i32>, longest: Duration) -> Duration {
    match asked.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs) {
        Some(asked) if asked < longest => asked.max(SHORTEST_ASKED).min(longest),
        Some(_) | None => longest,
    }
}

/// First and last moment, in Unix seconds; nothing outlives its CA.
fn validity(now: i64, lifetime: Duration, ca_ends: i64) -> (i64, i64) {
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let (backdate, mut end) = (seconds(BACKDATE), now.saturating_add(seconds(lifetime)));
    if lifetime >= SHORT {
        end -= backdate;
    }
    (now - backdate, end.min(ca_ends))
}

/// The signed certificate as PEM.
fn sign(signing: &Signing, asked: &Asked, now: Timestamp) -> Result<String, SignError> {
    let (ca_pem, key_pem) = (read(&signing.cert_file)?, read(&signing.key_file)?);
    let ca_error = |path: &Path| {
        let path = path.to_owned();
        move |source| SignError::Ca { path, source }
    };
    let key = KeyPair::from_pem(&key_pem).map_err(ca_error(&signing.key_file))?;
    let ca_ends = last_moment(&ca_pem).unwrap_or(i64::MAX);
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, key).map_err(ca_error(&signing.cert_file))?;
    let lifetime = lifetime(asked.expiration_seconds, signing.duration);
    let mut params = params(asked)?;
    let (begin, end) = validity(now.as_second(), lifetime, ca_ends);
    let moment = |second: i64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(second.max(0).unsigned_abs());
    (params.not_before, params.not_after) = (moment(begin), moment(end));
    let public_key = SubjectPublicKeyInfo::from_der(&asked.public_key)?;
    Ok(params.signed_by(&public_key, &issuer)?.pem())
}

fn read(path: &Path) -> Result<String, SignError> {
    std::fs::read_to_string(path).map_err(|source| SignError::Read { path: path.to_owned(), source })
}

fn last_moment(pem: &str) -> Option<i64> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    Some(block.parse_x509().ok()?.validity().not_after.timestamp())
}

/// Subject, names and usages as they were asked for; never a CA.
fn params(asked: &Asked) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for (oid, value) in &asked.subject {
        params.distinguished_name.push(DnType::from_oid(oid), value.as_str());
    }
    for name in &asked.dns_names {
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    for name in &asked.emails {
        params.subject_alt_names.push(SanType::Rfc822Name(name.as_str().try_into()?));
    }
    for name in &asked.uris {
        params.subject_alt_names.push(SanType::URI(name.as_str().try_into()?));
    }
    params.subject_alt_names.extend(asked.addresses.iter().map(|address| SanType::IpAddress(*address)));
    for usage in &asked.usages {
        match usage_of(usage) {
            Some(Usage::Key(purpose)) => params.key_usages.push(purpose),
            Some(Usage::Extended(purpose)) => params.extended_key_usages.push(purpose),
            None => {}
        }
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

enum Usage {
    Key(KeyUsagePurpose),
    Extended(ExtendedKeyUsagePurpose),
}

/// Upstream's dictionaries of usages; validation lets no others through.
fn usage_of(usage: &str) -> Option<Usage> {
    use ExtendedKeyUsagePurpose as Extended;
    use KeyUsagePurpose as Key;
    // id-kp (RFC 5280), Microsoft's and Netscape's server-gated crypto.
    let id_kp = |last: u64| Extended::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, last]);
    Some(match usage {
        "signing" | "digital signature" => Usage::Key(Key::DigitalSignature),
        "content commitment" => Usage::Key(Key::ContentCommitment),
        "key encipherment" => Usage::Key(Key::KeyEncipherment),
        "key agreement" => Usage::Key(Key::KeyAgreement),
        "data encipherment" => Usage::Key(Key::DataEncipherment),
        "cert sign" => Usage::Key(Key::KeyCertSign),
        "crl sign" => Usage::Key(Key::CrlSign),
        "encipher only" => Usage::Key(Key::EncipherOnly),
        "decipher only" => Usage::Key(Key::DecipherOnly),
        "any" => Usage::Extended(Extended::Any),
        "server auth" => Usage::Extended(Extended::ServerAuth),
        "client auth" => Usage::Extended(Extended::ClientAuth),
        "code signing" => Usage::Extended(Extended::CodeSigning),
        "email protection" | "s/mime" => Usage::Extended(Extended::EmailProtection),
        "ipsec end system" => Usage::Extended(id_kp(5)),
        "ipsec tunnel" => Usage::Extended(id_kp(6)),
        "ipsec user" => Usage::Extended(id_kp(7)),
        "timestamping" => Usage::Extended(Extended::TimeStamping),
        "ocsp signing" => Usage::Extended(Extended::OcspSigning),
        "microsoft sgc" => Usage::Extended(Extended::Other(vec![1, 3, 6, 1, 4, 1, 311, 10, 3, 3])),
        "netscape sgc" => Usage::Extended(Extended::Other(vec![2, 16, 840, 1, 113_730, 4, 1])),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::request::tests::request;
    use super::*;
    use node_config::pki::{self, Names, Pki};

    #[test]
    fn lifetimes_are_what_is_asked_for_within_what_is_allowed() {
        let (year, minute) = (Duration::from_secs(365 * 24 * 3600), Duration::from_secs(60));
        for (asked, longest, expected) in [
            (None, year, year.as_secs()),
            (Some(3600), year, 3600),
            (Some(30), year, 600),
            (Some(i32::MAX), year, year.as_secs()),
            (Some(3600), minute, 60),
            (None, minute, 60),
        ] {
            assert_eq!(lifetime(asked, longest).as_secs(), expected, "{asked:?} {longest:?}");
        }
    }

    #[test]
    fn long_lives_are_backdated_within_short_ones_beyond_and_none_outlives_the_ca() {
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(validity(1_000_000, day, i64::MAX), (999_700, 1_086_100));
        assert_eq!(validity(1_000_000, Duration::from_secs(20), i64::MAX), (999_700, 1_000_020));
        assert_eq!(validity(1_000_000, day, 1_000_100), (999_700, 1_000_100));
    }

    #[test]
    fn what_is_signed_is_what_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path());
        let names = Names {
            node_name: "n".into(),
            hostname: "n".into(),
            node_ips: Vec::new(),
            api_addresses: Vec::new(),
            service_ip: None,
            cluster_domain: "cluster.local".into(),
            server: true,
            node: false,
        };
        pki::ensure(&pki, &names, clock::now().wall.into()).unwrap();
        let signing =
            Signing { cert_file: pki.ca().cert, key_file: pki.ca().key, duration: Duration::from_secs(24 * 3600) };
        let asked = Asked::read(&request(KUBELET_SERVING, &["digital signature", "server auth"], &["n1", "10.0.0.1"]));
        let pem = sign(&signing, &asked.unwrap(), clock::now().wall).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let certificate = block.parse_x509().unwrap();
        assert_eq!(certificate.subject().to_string(), "O=system:nodes, CN=system:node:n1");
        assert_eq!(certificate.issuer().to_string(), "CN=kubernetes");
        assert_eq!(certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 2);
        let usages = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usages.server_auth && !usages.client_auth && !certificate.is_ca());
        assert!(certificate.key_usage().unwrap().unwrap().value.digital_signature());
        let ca = std::fs::read(pki.ca().cert).unwrap();
        let (_, ca) = x509_parser::pem::parse_x509_pem(&ca).unwrap();
        certificate.verify_signature(Some(ca.parse_x509().unwrap().public_key())).unwrap();
    }
}
