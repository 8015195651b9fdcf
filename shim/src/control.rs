//! The controllers: which there are, which run (`--controllers`), and as whom; each is a pure decider and a dumb writer.

mod call;
mod certificates;
mod discover;
mod event;
mod garbage;
mod informer;
mod leader;
mod namespace;
mod node_lifecycle;
mod per_namespace;
mod pod_gc;
mod queue;
mod resource_quota;
mod root_ca;
mod scheduler;
mod service_account;
mod service_addresses;
mod taint_eviction;
mod volumes;

use crate::config::Election;
use crate::task::Tasks;
use futures::future::BoxFuture;
use kube::Client;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What controllers are told beyond what they read from the API.
#[derive(Clone, Debug)]
pub struct ControlParams {
    /// `--leader-elect`: with it they run in one of the servers that share a store; `None` is here and at once.
    pub election: Option<Election>,
    /// The cluster's CA bundle, PEM: `ca.crt` of every namespace's `kube-root-ca.crt`.
    pub root_ca: Arc<str>,
    pub signing: Signing,
}

/// What certificates are signed with (kube-controller-manager's `--cluster-signing-…`).
#[derive(Clone, Debug)]
pub struct Signing {
    /// The CA's certificate and key, PEM; read for each signing.
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// How long certificates are valid that ask for nothing shorter.
    pub duration: Duration,
}

/// Which identity a controller has towards the API.
enum Identity {
    /// `system:serviceaccount:kube-system:<name>`, as stock's controllers have with `--use-service-account-credentials`.
    ServiceAccount(&'static str),
    /// A user of stock's control plane, without groups.
    User(&'static str),
}

/// One controller: upstream's name, the short name upstream still takes, its identity and its task.
struct Controller {
    name: &'static str,
    alias: &'static str,
    identity: Identity,
    run: fn(Client, &ControlParams) -> BoxFuture<'static, ()>,
}

/// Leases that stock's components lead by.
const CONTROLLER_MANAGER: &str = "kube-controller-manager";
const SCHEDULER: &str = "kube-scheduler";

impl Controller {
    /// Whose stock component's part it is.
    fn lease(&self) -> &'static str {
        if self.alias == SCHEDULER { SCHEDULER } else { CONTROLLER_MANAGER }
    }
}

/// Every controller there is. Names and aliases are kube-controller-manager's; service accounts are those of upstream's
/// bootstrap roles (`system:controller:<service account>`).
const CONTROLLERS: &[Controller] = &[
    // Not kube-controller-manager's: stock runs it as kube-scheduler.
    Controller {
        name: "scheduler",
        alias: SCHEDULER,
        identity: Identity::User("system:kube-scheduler"),
        run: |client, _| Box::pin(scheduler::run(client)),
    },
    Controller {
        name: "namespace-controller",
        alias: "namespace",
        identity: Identity::ServiceAccount("namespace-controller"),
        run: |client, _| Box::pin(namespace::run(client)),
    },
    Controller {
        name: "serviceaccount-controller",
        alias: "serviceaccount",
        identity: Identity::ServiceAccount("service-account-controller"),
        run: |client, _| Box::pin(service_account::run(client)),
    },
    Controller {
        name: "root-ca-certificate-publisher-controller",
        alias: "root-ca-cert-publisher",
        identity: Identity::ServiceAccount("root-ca-cert-publisher"),
        run: |client, params| Box::pin(root_ca::run(client, params.root_ca.clone())),
    },
    Controller {
        name: "node-lifecycle-controller",
        alias: "nodelifecycle",
        identity: Identity::ServiceAccount("node-controller"),
        run: |client, _| Box::pin(node_lifecycle::run(client)),
    },
    Controller {
        name: "taint-eviction-controller",
        alias: "taint-eviction-controller",
        identity: Identity::ServiceAccount("node-controller"),
        run: |client, _| Box::pin(taint_eviction::run(client)),
    },
    Controller {
        name: "garbage-collector-controller",
        alias: "garbagecollector",
        identity: Identity::ServiceAccount("generic-garbage-collector"),
        run: |client, _| Box::pin(garbage::run(client)),
    },
    Controller {
        name: "resourcequota-controller",
        alias: "resourcequota",
        identity: Identity::ServiceAccount("resourcequota-controller"),
        run: |client, _| Box::pin(resource_quota::run(client)),
    },
    Controller {
        name: "pod-garbage-collector-controller",
        alias: "podgc",
        identity: Identity::ServiceAccount("pod-garbage-collector"),
        run: |client, _| Box::pin(pod_gc::run(client)),
    },
    Controller {
        name: "persistentvolume-binder-controller",
        alias: "persistentvolume-binder",
        identity: Identity::ServiceAccount("persistent-volume-binder"),
        run: |client, _| Box::pin(volumes::run(client)),
    },
    Controller {
        name: "persistentvolumeclaim-protection-controller",
        alias: "pvc-protection",
        identity: Identity::ServiceAccount("pvc-protection-controller"),
        run: |client, _| Box::pin(volumes::protect_claims(client)),
    },
    Controller {
        name: "persistentvolume-protection-controller",
        alias: "pv-protection",
        identity: Identity::ServiceAccount("pv-protection-controller"),
        run: |client, _| Box::pin(volumes::protect_volumes(client)),
    },
    Controller {
        name: "certificatesigningrequest-approving-controller",
        alias: "csrapproving",
        identity: Identity::ServiceAccount("certificate-controller"),
        run: |client, _| Box::pin(certificates::approve::run(client)),
    },
    Controller {
        name: "certificatesigningrequest-signing-controller",
        alias: "csrsigning",
        identity: Identity::ServiceAccount("certificate-controller"),
        run: |client, params| Box::pin(certificates::sign::run(client, params.signing.clone())),
    },
    Controller {
        name: "certificatesigningrequest-cleaner-controller",
        alias: "csrcleaner",
        identity: Identity::ServiceAccount("certificate-controller"),
        run: |client, _| Box::pin(certificates::clean::run(client)),
    },
];

/// The controllers that `--controllers` names, with kube-controller-manager's syntax: `*` is all, `name` one, `-name` all
/// but this one. An explicit name outweighs `*`, and its first mention counts. Beyond upstream: only `-name` items imply
/// `*`, and `-*` is none. A name that does not exist is refused with the nearest that does.
pub fn select(spec: &str) -> Result<Vec<&'static str>, String> {
    // (controller, wanted), the first mention first.
    let mut named: Vec<(&'static str, bool)> = Vec::new();
    let mut all = None;
    let mut any_wanted = false;
    let items = spec.split(',').map(str::trim).filter(|item| !item.is_empty());
    for item in items {
        let (name, wanted) = match item.strip_prefix('-') {
            Some(name) => (name, false),
            None => (item, true),
        };
        any_wanted |= wanted;
        if name == "*" {
            all.get_or_insert(wanted);
        } else {
            named.push((resolve(name)?, wanted));
        }
    }
    let otherwise = all.unwrap_or(!named.is_empty() && !any_wanted);
    let runs = |name: &'static str| named.iter().find(|(n, _)| *n == name).map_or(otherwise, |(_, wanted)| *wanted);
    Ok(CONTROLLERS.iter().map(|c| c.name).filter(|name| runs(name)).collect())
}

/// The canonical name behind a name or an alias.
fn resolve(name: &str) -> Result<&'static str, String> {
    /// Below this similarity a suggestion confuses more than it helps.
    const NEAR: f64 = 0.75;
    if let Some(found) = CONTROLLERS.iter().find(|c| c.name == name || c.alias == name) {
        return Ok(found.name);
    }
    let mut text = format!("{name:?} is not a controller; ");
    let nearest = CONTROLLERS
        .iter()
        .flat_map(|c| [c.name, c.alias])
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    // Writing to a String cannot fail.
    let _ = match nearest {
        Some((likeness, known)) if likeness >= NEAR => write!(text, "did you mean {known:?}?"),
        _ => {
            let known: Vec<&str> = CONTROLLERS.iter().map(|c| c.name).collect();
            write!(text, "there are {}", known.join(", "))
        }
    };
    Err(text)
}

/// Starts the named controllers (`select`'s answer), each with a client of its own identity; they end with `tasks`.
/// With an election they wait until this server leads: the scheduler under stock's `kube-scheduler`, all others under
/// `kube-controller-manager`.
pub fn start(
    names: &[&'static str],
    client_for: impl Fn(&str, &[&str]) -> Client + Clone + Send + Sync + 'static,
    tasks: &Tasks,
    params: ControlParams,
) {
    for (lease, user) in [(CONTROLLER_MANAGER, "system:kube-controller-manager"), (SCHEDULER, "system:kube-scheduler")]
    {
        let chosen = CONTROLLERS.iter().filter(|c| names.contains(&c.name) && c.lease() == lease);
        let chosen: Vec<&'static Controller> = chosen.collect();
        match &params.election {
            _ if chosen.is_empty() => {}
            None => begin(&chosen, &client_for, tasks, &params),
            Some(Election { identity, timing }) => {
                let client = client_for(user, &[]);
                let candidate = leader::Candidate { client, lease, identity: identity.clone(), timing: *timing };
                let (client_for, params) = (client_for.clone(), params.clone());
                let term = move |group: &Tasks| begin(&chosen, &client_for, group, &params);
                tasks.spawn_to_end("leader election", candidate.run(tasks.clone(), term));
            }
        }
    }
}

fn begin(
    controllers: &[&Controller],
    client_for: &impl Fn(&str, &[&str]) -> Client,
    tasks: &Tasks,
    params: &ControlParams,
) {
    for controller in controllers {
        let client = match controller.identity {
            Identity::ServiceAccount(account) => client_for(
                &format!("system:serviceaccount:kube-system:{account}"),
                &["system:serviceaccounts", "system:serviceaccounts:kube-system"],
            ),
            Identity::User(user) => client_for(user, &[]),
        };
        tasks.spawn(controller.name, (controller.run)(client, params));
    }
}

/// Starts what kube-apiserver does itself, whichever controllers run.
pub fn start_own(client: Client, tasks: &Tasks) {
    tasks.spawn("service-addresses", service_addresses::run(client));
}

#[cfg(test)]
mod tests;
