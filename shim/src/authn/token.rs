//! Service account tokens: JWTs signed and verified with the cluster's key (RS256 or ES256).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::SignatureScheme;
use rustls::sign::SigningKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, SignatureVerificationAlgorithm};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::Arc;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};

/// Why the key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{0}: cannot be read as a PEM private key")]
    Pem(String, #[source] rustls_pki_types::pem::Error),
    #[error("{0}: neither an RSA nor an ECDSA P-256 key")]
    Unsupported(String),
}

/// The claims of a service account token (RFC 7519, and Kubernetes' own under `kubernetes.io`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    pub aud: Vec<String>,
    /// Unix seconds.
    pub exp: i64,
    pub iat: i64,
    pub iss: String,
    #[serde(default)]
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Private,
    #[serde(default)]
    pub nbf: i64,
    pub sub: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Private {
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    pub serviceaccount: Reference,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    pub name: String,
    #[serde(default)]
    pub uid: String,
}

/// Signs and verifies tokens of one issuer.
pub struct Tokens {
    key: Arc<dyn SigningKey>,
    algorithm: Algorithm,
    /// The raw key bits of the SubjectPublicKeyInfo.
    public: Vec<u8>,
    key_id: String,
    pub issuer: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Algorithm {
    Rs256,
    Es256,
}

impl Algorithm {
    const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
        }
    }
    const fn scheme(self) -> SignatureScheme {
        match self {
            Self::Rs256 => SignatureScheme::RSA_PKCS1_SHA256,
            Self::Es256 => SignatureScheme::ECDSA_NISTP256_SHA256,
        }
    }
}

impl Tokens {
    /// Reads the private key (`sa.key`).
    pub fn load(path: &Path, issuer: &str) -> Result<Self, KeyError> {
        let name = || path.display().to_string();
        let der = PrivateKeyDer::from_pem_file(path).map_err(|e| KeyError::Pem(name(), e))?;
        let key =
            rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).map_err(|_| KeyError::Unsupported(name()))?;
        let algorithm = [Algorithm::Rs256, Algorithm::Es256]
            .into_iter()
            .find(|a| key.choose_scheme(&[a.scheme()]).is_some())
            .ok_or_else(|| KeyError::Unsupported(name()))?;
        let spki = key.public_key().ok_or_else(|| KeyError::Unsupported(name()))?.to_vec();
        let (_, info) = SubjectPublicKeyInfo::from_der(&spki).map_err(|_| KeyError::Unsupported(name()))?;
        let public = info.subject_public_key.data.to_vec();
        let key_id = URL_SAFE_NO_PAD.encode(Sha256::digest(&spki));
        Ok(Self { key, algorithm, public, key_id, issuer: issuer.into() })
    }

    /// The compact form of a token with these claims; `None` if the key refuses to sign.
    pub fn sign(&self, claims: &Claims) -> Option<String> {
        let header = json!({"alg": self.algorithm.name(), "kid": self.key_id});
        let encode = |value: Vec<u8>| URL_SAFE_NO_PAD.encode(value);
        let mut token =
            format!("{}.{}", encode(header.to_string().into_bytes()), encode(serde_json::to_vec(claims).ok()?));
        let signature = self.key.choose_scheme(&[self.algorithm.scheme()])?.sign(token.as_bytes()).ok()?;
        let signature = match self.algorithm {
            Algorithm::Rs256 => signature,
            Algorithm::Es256 => raw_from_der(&signature)?,
        };
        token.push('.');
        token.push_str(&encode(signature));
        Some(token)
    }

    /// The claims of a token that this key signed for this issuer and that is valid at `now` (Unix seconds).
    /// Whether its account still exists is the caller's question.
    pub fn verify(&self, token: &str, now: i64) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        if header["alg"] != self.algorithm.name() {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let signature = match self.algorithm {
            Algorithm::Rs256 => signature,
            Algorithm::Es256 => der_from_raw(&signature)?,
        };
        self.verifier()?.verify_signature(&self.public, signed.as_bytes(), &signature).ok()?;
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        (claims.iss == self.issuer && claims.aud.contains(&self.issuer) && claims.nbf <= now && now < claims.exp)
            .then_some(claims)
    }

    fn verifier(&self) -> Option<&'static dyn SignatureVerificationAlgorithm> {
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let (_, found) = algorithms.mapping.iter().find(|(scheme, _)| *scheme == self.algorithm.scheme())?;
        found.first().copied()
    }

    /// The key set document of `/openid/v1/jwks`.
    pub fn jwks(&self) -> Option<Value> {
        let mut key = json!({"use": "sig", "kid": self.key_id, "alg": self.algorithm.name()});
        match self.algorithm {
            Algorithm::Rs256 => {
                let (_, rsa) = der_sequence(&self.public)?;
                let (modulus, rest) = der_integer(rsa)?;
                let (exponent, _) = der_integer(rest)?;
                key["kty"] = "RSA".into();
                key["n"] = URL_SAFE_NO_PAD.encode(modulus).into();
                key["e"] = URL_SAFE_NO_PAD.encode(exponent).into();
            }
            Algorithm::Es256 => {
                // An uncompressed point: 0x04, x, y.
                let point = self.public.get(1..65)?;
                key["kty"] = "EC".into();
                key["crv"] = "P-256".into();
                key["x"] = URL_SAFE_NO_PAD.encode(&point[..32]).into();
                key["y"] = URL_SAFE_NO_PAD.encode(&point[32..]).into();
            }
        }
        Some(json!({"keys": [key]}))
    }
}

/// Tag, length, content of one DER element of that tag; returns (rest, content).
fn der(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        let digits = rest.get(..count).filter(|_| count <= 4)?;
        (digits.iter().fold(0, |n, b| n << 8 | usize::from(*b)), &rest[count..])
    };
    (found == tag && rest.len() >= length).then(|| (&rest[length..], &rest[..length]))
}

fn der_sequence(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    der(bytes, 0x30)
}

/// An unsigned integer without its sign byte; returns (number, rest).
fn der_integer(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (rest, number) = der(bytes, 0x02)?;
    Some((number.strip_prefix(&[0]).unwrap_or(number), rest))
}

/// ECDSA: TLS signs as a DER sequence of r and s, a JWT carries both as 32 bytes each.
fn raw_from_der(signature: &[u8]) -> Option<Vec<u8>> {
    let (_, pair) = der_sequence(signature)?;
    let (r, rest) = der_integer(pair)?;
    let (s, _) = der_integer(rest)?;
    let mut raw = vec![0; 64];
    raw[32usize.checked_sub(r.len())?..32].copy_from_slice(r);
    raw[64usize.checked_sub(s.len())?..].copy_from_slice(s);
    Some(raw)
}

fn der_from_raw(raw: &[u8]) -> Option<Vec<u8>> {
    if raw.len() != 64 {
        return None;
    }
    let mut pair = Vec::with_capacity(72);
    for half in raw.chunks(32) {
        let digits: &[u8] = &half[half.iter().take_while(|b| **b == 0).count().min(31)..];
        let sign = digits[0] >= 0x80;
        pair.extend([0x02, digits.len() as u8 + u8::from(sign)]);
        if sign {
            pair.push(0);
        }
        pair.extend_from_slice(digits);
    }
    let mut der = vec![0x30, pair.len() as u8];
    der.append(&mut pair);
    Some(der)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ecdsa_signatures_survive_both_forms() {
        let mut raw = vec![0u8; 64];
        raw[3] = 0x91;
        raw[31] = 7;
        raw[32] = 0xff;
        raw[63] = 1;
        assert_eq!(raw_from_der(&der_from_raw(&raw).unwrap()).unwrap(), raw);
    }
}
