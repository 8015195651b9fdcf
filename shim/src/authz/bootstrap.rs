//! What the built-in users and groups may do: upstream's bootstrap roles as constant tables (objects of RBAC come with their own issue).

use super::Attributes;
use crate::authn::{AUTHENTICATED, MASTERS, UNAUTHENTICATED, User};
use serde_json::{Value, json};

/// One grant: every verb on every resource of the groups; `*` is all of them.
struct Rule {
    groups: &'static [&'static str],
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
}

const fn rule(
    groups: &'static [&'static str],
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
) -> Rule {
    Rule { groups, resources, verbs }
}

const READ: &[&str] = &["get", "list", "watch"];
const EVENTS: Rule = rule(&["", "events.k8s.io"], &["events"], &["create", "patch", "update"]);
const LEASES: Rule =
    rule(&["coordination.k8s.io"], &["leases"], &["create", "get", "list", "update", "patch", "watch"]);

/// `system:public-info-viewer`: everyone.
const PUBLIC_PATHS: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];
/// `system:discovery`: everyone who is authenticated.
const DISCOVERY_PATHS: &[&str] = &["/api", "/apis", "/openapi"];
/// `system:service-account-issuer-discovery`: service accounts.
const ISSUER_PATHS: &[&str] = &["/.well-known/openid-configuration", "/openid/v1/jwks"];

/// `system:basic-user`.
const BASIC_USER: &[Rule] = &[
    rule(&["authorization.k8s.io"], &["selfsubjectaccessreviews", "selfsubjectrulesreviews"], &["create"]),
    rule(&["authentication.k8s.io"], &["selfsubjectreviews"], &["create"]),
];

/// `system:kube-scheduler`.
const SCHEDULER: &[Rule] = &[
    EVENTS,
    LEASES,
    rule(&[""], &["nodes", "namespaces"], READ),
    rule(&[""], &["pods"], &["delete", "get", "list", "watch"]),
    rule(&[""], &["bindings", "pods/binding"], &["create"]),
    rule(&[""], &["pods/status"], &["patch", "update"]),
    rule(&[""], &["replicationcontrollers", "services", "persistentvolumeclaims", "persistentvolumes"], READ),
    rule(&["apps"], &["replicasets", "statefulsets"], READ),
    rule(&["policy"], &["poddisruptionbudgets"], READ),
    rule(&["storage.k8s.io"], &["*"], READ),
    rule(&["resource.k8s.io"], &["*"], READ),
    rule(&["scheduling.k8s.io"], &["*"], READ),
];

/// `system:controller:<name>` by the name of its service account in `kube-system`.
const CONTROLLERS: &[(&str, &[Rule])] = &[
    (
        "namespace-controller",
        &[
            rule(&[""], &["namespaces"], &["delete", "get", "list", "watch"]),
            rule(&[""], &["namespaces/finalize", "namespaces/status"], &["update", "patch"]),
            rule(&["*"], &["*"], &["delete", "deletecollection", "get", "list", "watch"]),
        ],
    ),
    ("generic-garbage-collector", &[rule(&["*"], &["*"], &["delete", "get", "list", "patch", "update", "watch"])]),
    (
        "node-controller",
        &[
            rule(&[""], &["nodes"], &["delete", "get", "list", "patch", "update", "watch"]),
            rule(&[""], &["nodes/status", "pods/status"], &["patch", "update"]),
            rule(&[""], &["pods"], &["delete", "get", "list", "patch", "watch"]),
            rule(&["coordination.k8s.io"], &["leases"], READ),
        ],
    ),
    (
        // Quotas may count anything.
        "resourcequota-controller",
        &[
            rule(&["*"], &["*"], &["list", "watch"]),
            rule(&[""], &["resourcequotas"], READ),
            rule(&[""], &["resourcequotas/status"], &["update"]),
        ],
    ),
    (
        "pod-garbage-collector",
        &[
            rule(&[""], &["pods"], &["delete", "get", "list", "watch"]),
            rule(&[""], &["nodes"], READ),
            rule(&[""], &["pods/status"], &["patch"]),
        ],
    ),
    (
        "service-account-controller",
        &[rule(&[""], &["serviceaccounts"], &["create", "get", "list", "watch"]), rule(&[""], &["namespaces"], READ)],
    ),
    (
        "root-ca-cert-publisher",
        &[
            rule(&[""], &["configmaps"], &["create", "get", "list", "patch", "update", "watch"]),
            rule(&[""], &["namespaces"], READ),
        ],
    ),
    (
        "persistent-volume-binder",
        &[
            rule(&[""], &["persistentvolumes"], &["create", "delete", "get", "list", "patch", "update", "watch"]),
            rule(&[""], &["persistentvolumes/status"], &["patch", "update"]),
            rule(&[""], &["persistentvolumeclaims"], &["get", "list", "patch", "update", "watch"]),
            rule(&[""], &["persistentvolumeclaims/status"], &["patch", "update"]),
        ],
    ),
    (
        "pvc-protection-controller",
        &[
            rule(&[""], &["persistentvolumeclaims"], &["get", "list", "patch", "update", "watch"]),
            rule(&[""], &["pods"], READ),
        ],
    ),
    ("pv-protection-controller", &[rule(&[""], &["persistentvolumes"], &["get", "list", "patch", "update", "watch"])]),
    (
        "certificate-controller",
        &[
            rule(&["certificates.k8s.io"], &["certificatesigningrequests"], &["delete", "get", "list", "watch"]),
            rule(
                &["certificates.k8s.io"],
                &["certificatesigningrequests/approval", "certificatesigningrequests/status"],
                &["patch", "update"],
            ),
            rule(&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
        ],
    ),
    (
        "endpoint-controller",
        &[
            rule(&[""], &["services", "pods"], READ),
            rule(&[""], &["endpoints"], &["create", "delete", "get", "list", "patch", "update", "watch"]),
        ],
    ),
    (
        "endpointslice-controller",
        &[
            rule(&[""], &["services", "pods", "nodes"], READ),
            rule(
                &["discovery.k8s.io"],
                &["endpointslices"],
                &["create", "delete", "get", "list", "patch", "update", "watch"],
            ),
        ],
    ),
];

/// What every controller may do besides.
const ANY_CONTROLLER: &[Rule] = &[EVENTS, LEASES];

/// `system:kube-controller-manager` drives the controllers with its own identity too.
const CONTROLLER_MANAGER: &[Rule] = &[
    EVENTS,
    LEASES,
    rule(&["*"], &["*"], READ),
    rule(&[""], &["serviceaccounts", "serviceaccounts/token"], &["create"]),
];

/// What kubeadm binds to the group of its bootstrap tokens: asking for a certificate (`system:node-bootstrapper`), having
/// it approved (`system:certificates.k8s.io:certificatesigningrequests:nodeclient`), and `kubeadm:get-nodes`.
const NODE_BOOTSTRAPPER: &[Rule] = &[
    rule(&["certificates.k8s.io"], &["certificatesigningrequests"], &["create", "get", "list", "watch"]),
    rule(&["certificates.k8s.io"], &["certificatesigningrequests/nodeclient"], &["create"]),
    rule(&[""], &["nodes"], &["get"]),
];
const KUBEADM_TOKENS: &str = "system:bootstrappers:kubeadm:default-node-token";

/// Whether one of the tables grants it.
pub fn allows(user: &User, a: &Attributes<'_>) -> bool {
    if !a.is_resource {
        return allows_path(user, a);
    }
    tables(user).into_iter().flatten().any(|rule| rule.grants(a))
}

/// The tables that hold for the user.
fn tables(user: &User) -> [&'static [Rule]; 3] {
    let basic = if user.is_in(AUTHENTICATED) { BASIC_USER } else { &[] };
    let controller = match user.as_service_account() {
        Some(("kube-system", name)) => CONTROLLERS.iter().find(|(known, _)| *known == name),
        _ => None,
    };
    match (user.name.as_str(), controller) {
        ("system:kube-scheduler", _) => [basic, SCHEDULER, &[]],
        ("system:kube-controller-manager", _) => [basic, CONTROLLER_MANAGER, &[]],
        (_, Some((_, rules))) => [basic, rules, ANY_CONTROLLER],
        (_, None) if user.is_in(KUBEADM_TOKENS) => [basic, NODE_BOOTSTRAPPER, &[]],
        (_, None) => [basic, &[], &[]],
    }
}

/// What the user may do, as `SelfSubjectRulesReview` lists it: resource rules and paths.
pub fn rules(user: &User) -> (Vec<Value>, Vec<Value>) {
    if user.is_in(MASTERS) {
        let all = json!(["*"]);
        let resources = json!({"verbs": all, "apiGroups": all, "resources": all});
        return (vec![resources], vec![json!({"verbs": all, "nonResourceURLs": all})]);
    }
    let resources = tables(user).into_iter().flatten();
    let resources = resources.map(|r| json!({"verbs": r.verbs, "apiGroups": r.groups, "resources": r.resources}));
    let paths = |paths: Vec<String>| json!({"verbs": ["get"], "nonResourceURLs": paths});
    let whole = |list: &[&str]| list.iter().map(|path| (*path).to_owned()).collect();
    let mut urls = Vec::new();
    if user.is_in(AUTHENTICATED) || user.is_in(UNAUTHENTICATED) {
        urls.push(paths(whole(PUBLIC_PATHS)));
    }
    if user.is_in(AUTHENTICATED) {
        urls.push(paths(DISCOVERY_PATHS.iter().flat_map(|path| [(*path).to_owned(), format!("{path}/*")]).collect()));
    }
    if user.is_in("system:serviceaccounts") {
        urls.push(paths(whole(ISSUER_PATHS)));
    }
    (resources.collect(), urls)
}

fn allows_path(user: &User, a: &Attributes<'_>) -> bool {
    if a.verb != "get" && a.verb != "head" {
        return false;
    }
    let public = (user.is_in(AUTHENTICATED) || user.is_in(UNAUTHENTICATED)) && PUBLIC_PATHS.contains(&a.path);
    let under = |root: &&str| a.path == *root || a.path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
    public
        || (user.is_in(AUTHENTICATED) && DISCOVERY_PATHS.iter().any(under))
        || (user.is_in("system:serviceaccounts") && ISSUER_PATHS.contains(&a.path))
}

impl Rule {
    fn grants(&self, a: &Attributes<'_>) -> bool {
        let has = |list: &[&str], wanted: &str| list.contains(&"*") || list.contains(&wanted);
        let resource = if a.subresource.is_empty() {
            has(self.resources, a.resource)
        } else {
            self.resources.iter().any(|r| {
                *r == "*"
                    || r.split_once('/').is_some_and(|(resource, sub)| resource == a.resource && sub == a.subresource)
            })
        };
        has(self.groups, a.group) && has(self.verbs, a.verb) && resource
    }
}
