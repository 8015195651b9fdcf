//! The node's identity: its client and its serving certificate, on disk as the kubelet keeps them.
//!
//! | module | what |
//! |---|---|
//! | `store` | `--cert-dir`: `kubelet-client-<date>.pem`, and the link that names the current one |
//! | `request` | what is asked for in a CertificateSigningRequest |
//! | `renewal` | when a certificate is renewed |
//! | `bootstrap` | from a bootstrap kubeconfig to a client certificate and a kubeconfig of the node's own |
//! | `self_signed` | a serving certificate where nobody signs one |

pub mod bootstrap;
pub mod renewal;
pub mod request;
pub mod self_signed;
pub mod store;

use rcgen::KeyPair;

/// A key of the kind that the kubelet makes: ECDSA P-256. rcgen's default; an error means that the system has no
/// randomness to give.
pub fn new_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
}
