//! DESIGN's layers as data, held against every path that the code names: imports go to lower layers only.

use crate::source::{self, Source, paths_of};

/// One layer: its modules, lowest layer first. Modules of one layer may know each other where `together` says so.
struct Layer {
    name: &'static str,
    modules: &'static [&'static str],
    together: bool,
}

const fn layer(name: &'static str, modules: &'static [&'static str]) -> Layer {
    Layer { name, modules, together: true }
}

/// The agent (`src/`).
const AGENT: &[Layer] = &[
    layer("base", &["ids", "units", "clock", "metrics"]),
    layer("model", &["model"]),
    layer("decide", &["decide"]),
    layer(
        "edge",
        &[
            "runtime", "cluster", "identity", "volumes", "plugins", "managers", "probe", "cgroups", "images", "logs",
            "logind", "disk", "stats", "sys",
        ],
    ),
    layer("supervisor", &["supervisor"]),
    layer("actors", &["actors"]),
    layer("serve", &["server"]),
    layer("app", &["app"]),
    layer("cli", &["cli"]),
];

/// The API server (`shim/src/`).
const SHIM: &[Layer] = &[
    layer("base", &["clock", "meta", "gvr", "revision", "selector", "task"]),
    layer("store", &["store"]),
    layer("schema", &["schema"]),
    layer("registry", &["cel", "registry"]),
    // What a request is and how it can fail: the words in which identity and admission are decided.
    layer("request", &["request", "error"]),
    layer("rules", &["authn", "authz", "admission", "audit"]),
    layer("config", &["config"]),
    layer("pipeline", &["pipeline"]),
    layer("http", &["http"]),
    layer("control", &["client", "control"]),
    layer("app", &["app"]),
];

/// A crate that only these files may name.
struct Fence {
    of: &'static str,
    crates: &'static [&'static str],
    allowed: &'static [&'static str],
}

const FENCES: &[Fence] = &[
    Fence { of: "src/", crates: &["skiff_shim"], allowed: &["src/cli.rs", "src/cli/"] },
    Fence { of: "shim/src/", crates: &["skiff"], allowed: &[] },
    Fence { of: "node-config/src/", crates: &["skiff", "skiff_shim"], allowed: &[] },
    Fence {
        of: "src/",
        crates: &["tonic", "prost", "k8s_cri", "containerd_client"],
        allowed: &["src/runtime.rs", "src/runtime/", "src/plugins/", "src/probe/grpc.rs"],
    },
    Fence { of: "src/", crates: &["kube"], allowed: &["src/cluster.rs", "src/cluster/"] },
    Fence {
        of: "src/",
        // Not hyper_util: tonic's connector over a unix socket needs its `TokioIo`.
        crates: &["hyper"],
        allowed: &["src/server.rs", "src/server/", "src/probe/http.rs"],
    },
    Fence { of: "shim/src/", crates: &["hyper"], allowed: &["shim/src/http.rs", "shim/src/http/"] },
    Fence {
        of: "shim/src/",
        crates: &["etcd_client", "tonic"],
        allowed: &["shim/src/store/etcd.rs", "shim/src/store/etcd/"],
    },
    Fence { of: "shim/src/", crates: &["rusqlite"], allowed: &["shim/src/store.rs", "shim/src/store/"] },
];

fn position(layers: &[Layer], module: &str) -> Option<usize> {
    layers.iter().position(|layer| layer.modules.contains(&module))
}

/// `src/runtime/cri.rs` → `runtime`; the crate's root files have none.
fn module_of<'a>(file: &'a Source, room: &str) -> Option<&'a str> {
    let path = file.path.strip_prefix(room)?;
    let first = path.split('/').next()?;
    Some(first.strip_suffix(".rs").unwrap_or(first)).filter(|module| !matches!(*module, "lib" | "main"))
}

fn upward_imports(room: &str, layers: &[Layer]) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in source::under(room).iter().filter(|file| !file.is_test()) {
        let Some(module) = module_of(file, room) else { continue };
        let Some(own) = position(layers, module) else {
            wrong.push(format!("{}: module {module} is in no layer: add it to DESIGN and to this table", file.path));
            continue;
        };
        for path in paths_of(&file.product_code(), "crate") {
            let target = path.split("::").next().unwrap_or_default();
            let Some(other) = position(layers, target) else { continue };
            let allowed = other < own || (other == own && (layers[own].together || target == module));
            if !allowed {
                let (own, other) = (layers[own].name, layers[other].name);
                wrong.push(format!("{}: {own} names crate::{path}, which is in the layer {other}", file.path));
            }
        }
    }
    wrong
}

#[test]
fn the_agent_imports_lower_layers_only() {
    let wrong = upward_imports("src/", AGENT);
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_api_server_imports_lower_layers_only() {
    let wrong = upward_imports("shim/src/", SHIM);
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn each_foreign_crate_is_named_only_where_it_belongs() {
    let mut wrong = Vec::new();
    for fence in FENCES {
        for file in source::under(fence.of).iter().filter(|file| !file.is_test()) {
            if fence.allowed.iter().any(|allowed| file.path.starts_with(allowed)) {
                continue;
            }
            let code = file.product_code();
            for name in fence.crates {
                if !paths_of(&code, name).is_empty() {
                    wrong.push(format!("{} names {name}; it belongs to {}", file.path, fence.allowed.join(", ")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn only_the_pipeline_commits() {
    let allowed = ["shim/src/store", "shim/src/pipeline", "shim/src/registry", "shim/src/app.rs"];
    let wrong: Vec<String> = source::under("shim/src")
        .into_iter()
        .filter(|file| !file.is_test() && !allowed.iter().any(|allowed| file.path.starts_with(allowed)))
        .filter(|file| file.product_code().contains(".commit("))
        .map(|file| file.path)
        .collect();
    assert!(wrong.is_empty(), "{wrong:?} call commit");
}

#[test]
fn deciding_neither_waits_nor_reads_a_clock() {
    for file in source::under("src/decide").iter().chain(&source::under("src/model")) {
        let code = file.product_code();
        for word in [".await", "async fn", "clock::now", "tracing::", "tokio::spawn"] {
            assert!(!code.contains(word), "{}: {word}", file.path);
        }
    }
}
