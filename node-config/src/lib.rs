//! The configuration of a node as plain resolved data, and the files skiff ships.
//!
//! | module | what |
//! |---|---|
//! | `agent` | `AgentConfig`: everything the node agent is told |
//! | `data_dir` | the data directory's layout, version and lock |
//! | `pki` | CA and certificates: make, load, renew |
//! | `kubeconfig` | read and write kubeconfig files |
//! | `shipped` | the files under `systemd/ containerd/ cni/ examples/`, and the pause binary |

pub mod agent;
