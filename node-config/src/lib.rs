//! The configuration of a node as plain resolved data, and the files skiff ships.
//!
//! | module | what |
//! |---|---|
//! | `agent` | `AgentConfig`: everything the node agent is told |
//! | `credential_provider` | CredentialProviderConfig: which programs give passwords for which images |
//! | `duration` | `metav1.Duration`, Go's grammar |
//! | `kubelet` | KubeletConfiguration: parsed, defaulted, validated; the flags that set its fields |
//! | `net` | address ranges: network, gateway, first service address |
//! | `files` | atomic writes with the right mode |
//! | `data_dir` | the data directory's layout, version and lock |
//! | `pki` | CA and certificates: make, load, renew |
//! | `kubeconfig` | read and write kubeconfig files |
//! | `shipped` | the files under `systemd/ containerd/ cni/ examples/ kind/`, and the pause binary |

pub mod agent;
pub mod credential_provider;
pub mod data_dir;
pub mod duration;
pub mod files;
pub mod kubeconfig;
pub mod kubelet;
pub mod net;
pub mod pki;
pub mod shipped;
