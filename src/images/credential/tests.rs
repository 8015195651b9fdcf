//! Providers that are shell scripts: what they are asked, what they may answer, and for how long that holds.

use super::*;
use crate::cluster::fake::FakeCluster;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// A provider whose script writes each request into `asked` and then answers.
fn provider(dir: &Path, answer: &str) -> CredentialProviders {
    provider_with(dir, answer, json!({}))
}

/// The same; `more` is added to its configuration.
fn provider_with(dir: &Path, answer: &str, more: serde_json::Value) -> CredentialProviders {
    let script = format!("read -r line\necho \"$line $1 $GREETING\" >> {}/asked\n{answer}\n", dir.display());
    let body = dir.join("body");
    fs::write(&body, script).unwrap();
    // The shell reads it: a file just written is busy for exec while any other test forks.
    symlink("/bin/sh", dir.join("script")).unwrap();
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig",
        "providers": [{
            "name": "script", "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "defaultCacheDuration": "1h",
            "matchImages": ["*.example.org"], "args": [body, "get"], "env": [{"name": "GREETING", "value": "hello"}],
        }],
    });
    if let (Some(fields), serde_json::Value::Object(more)) = (config["providers"][0].as_object_mut(), more) {
        fields.extend(more);
    }
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    CredentialProviders::load(&Sources { config: dir.join("config.json"), bin_dir: dir.to_owned() }).unwrap()
}

async fn logins(providers: &CredentialProviders, image: &str) -> Vec<Login> {
    let cluster = FakeCluster::default();
    let keyring = providers.keyring(image, Puller { cluster: &cluster, pod: &Pod::default() }).await;
    keyring.lookup(image).into_iter().map(|found| found.login).collect()
}

fn answer(key: &str, more: &str) -> String {
    format!(
        r#"echo '{{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1",
        "cacheKeyType":"{key}",{more}"auth":{{"*.example.org":{{"username":"u","password":"p"}},
        "*.example.org/team":{{"username":"team","password":"t"}},"other.org":{{"username":"x","password":"y"}}}}}}'"#
    )
}

fn asked(dir: &Path) -> usize {
    fs::read_to_string(dir.join("asked")).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn a_provider_is_asked_as_the_kubelet_asks_and_only_for_its_images() {
    let dir = tempfile::tempdir().unwrap();
    let providers = provider(dir.path(), &answer("Image", ""));
    assert!(logins(&providers, "example.org/app").await.is_empty());
    assert_eq!(asked(dir.path()), 0);
    let login = |user: &str, password: &str| (user.to_owned(), password.to_owned());
    assert_eq!(logins(&providers, "a.example.org/team/app").await, [login("team", "t"), login("u", "p")]);
    assert_eq!(logins(&providers, "a.example.org/app").await, [login("u", "p")]);
    let said = fs::read_to_string(dir.path().join("asked")).unwrap();
    let (request, rest) = said.lines().next().unwrap().rsplit_once("} ").unwrap();
    let request: serde_json::Value = serde_json::from_str(&format!("{request}}}")).unwrap();
    let version = "credentialprovider.kubelet.k8s.io/v1";
    let expected =
        json!({"kind": "CredentialProviderRequest", "apiVersion": version, "image": "a.example.org/team/app"});
    assert_eq!((request, rest), (expected, "get hello"));
}

#[tokio::test]
async fn an_answer_is_kept_for_what_its_key_says_and_as_long_as_it_says() {
    for (key, more, times) in [
        ("Image", "", 3),
        ("Registry", "", 2),
        ("Global", "", 1),
        ("Global", r#""cacheDuration":"0s","#, 4),
        ("Global", r#""cacheDuration":"5m","#, 1),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let providers = provider(dir.path(), &answer(key, more));
        for image in ["a.example.org/one", "a.example.org/two", "b.example.org/one", "a.example.org/one"] {
            assert!(!logins(&providers, image).await.is_empty());
        }
        assert_eq!(asked(dir.path()), times, "{key} {more}");
    }
}

#[tokio::test]
async fn a_provider_that_fails_or_babbles_gives_nothing() {
    for script in [
        "exit 3",
        "echo nonsense",
        r#"echo '{"kind":"Other","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Image"}'"#,
        r#"echo '{"kind":"CredentialProviderResponse","apiVersion":"v9","cacheKeyType":"Image"}'"#,
        r#"echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1"}'"#,
    ] {
        let dir = tempfile::tempdir().unwrap();
        let providers = provider(dir.path(), script);
        assert!(logins(&providers, "a.example.org/app").await.is_empty(), "{script}");
        assert_eq!(asked(dir.path()), 1, "{script}");
    }
}

#[tokio::test]
async fn a_provider_gets_a_token_of_the_service_account_and_its_answer_holds_for_that_account() {
    let cluster = FakeCluster::default();
    let pod = |namespace: &str, account: &str| -> Pod {
        serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": "p"}, "spec": {"containers": [], "serviceAccountName": account},
        }))
        .unwrap()
    };
    let attributes = |required: bool, annotation: &str| {
        let keys = if required { json!([annotation]) } else { json!([]) };
        json!({"tokenAttributes": {
            "serviceAccountTokenAudience": "registry", "cacheType": "ServiceAccount", "requireServiceAccount": required,
            "requiredServiceAccountAnnotationKeys": keys,
        }})
    };
    let dir = tempfile::tempdir().unwrap();
    let providers = provider_with(dir.path(), &answer("Global", ""), attributes(true, "example.com/team"));
    // The fourth is the first one's again; a pod without a service account is none of the program's.
    for (namespace, account) in [("a", "builder"), ("a", "other"), ("b", "builder"), ("a", "builder"), ("a", "")] {
        let pod = pod(namespace, account);
        let found = providers.keyring("a.example.org/app", Puller { cluster: &cluster, pod: &pod }).await;
        let source = found.lookup("a.example.org/app").into_iter().next().map(|found| found.source);
        let (uid, namespace, name) = (format!("uid-of-{account}"), namespace.to_owned(), account.to_owned());
        let expected = Source::ServiceAccount(Coordinates { uid, namespace, name });
        assert_eq!(source, Some(expected).filter(|_| !account.is_empty()));
    }
    assert_eq!(asked(dir.path()), 3);
    let tokens = cluster.calls().iter().filter(|call| call.starts_with("service_account_token")).count();
    assert_eq!(tokens, 3, "an answer that is there needs no token");
    let line = fs::read_to_string(dir.path().join("asked")).unwrap();
    let (request, _) = line.lines().next().unwrap().rsplit_once("} ").unwrap();
    let request: serde_json::Value = serde_json::from_str(&format!("{request}}}")).unwrap();
    assert_eq!(request["serviceAccountToken"], "token-for-registry");
    assert_eq!(request["serviceAccountAnnotations"], json!({"example.com/team": "a"}));

    for (attributes, account, times) in
        [(attributes(true, "example.com/none"), "builder", 0), (attributes(false, ""), "", 1)]
    {
        let dir = tempfile::tempdir().unwrap();
        let providers = provider_with(dir.path(), &answer("Global", ""), attributes);
        let pod = pod("a", account);
        drop(providers.keyring("a.example.org/app", Puller { cluster: &cluster, pod: &pod }).await);
        assert_eq!(asked(dir.path()), times, "{account}");
    }
}

#[tokio::test]
async fn a_pods_token_is_no_password_that_is_kept_for_other_pods() {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"namespace": "a", "name": "p"}, "spec": {"containers": [], "serviceAccountName": "builder"},
    }))
    .unwrap();
    for (cache_type, expected) in [("ServiceAccount", 0), ("Token", 1)] {
        let cluster = FakeCluster::default();
        let dir = tempfile::tempdir().unwrap();
        let echo = answer("Global", "").replace(r#""password":"p""#, r#""password":"token-for-registry""#);
        let attributes = json!({"tokenAttributes": {
            "serviceAccountTokenAudience": "registry", "cacheType": cache_type, "requireServiceAccount": true,
        }});
        let providers = provider_with(dir.path(), &echo, attributes);
        let keyring = providers.keyring("a.example.org/app", Puller { cluster: &cluster, pod: &pod }).await;
        assert_eq!(keyring.lookup("a.example.org/app").len(), expected, "{cache_type}");
    }
}

#[tokio::test]
async fn a_program_that_hangs_for_one_account_answers_others() {
    let pod = |namespace: &str| -> Pod {
        serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": "p"}, "spec": {"containers": [], "serviceAccountName": "sa"},
        }))
        .unwrap()
    };
    let cluster = FakeCluster::default();
    let dir = tempfile::tempdir().unwrap();
    let fifo = |name: &str| {
        let path = dir.path().join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path
    };
    // For the team of namespace `slow` it says that it was asked, and waits.
    let (begun, go) = (fifo("begun"), fifo("go"));
    let wait = format!("case $line in *slow*) echo > {}; read -r _ < {} ;; esac", begun.display(), go.display());
    let attributes = json!({"tokenAttributes": {
        "serviceAccountTokenAudience": "registry", "cacheType": "ServiceAccount", "requireServiceAccount": true,
        "requiredServiceAccountAnnotationKeys": ["example.com/team"],
    }});
    let providers = provider_with(dir.path(), &format!("{wait}\n{}", answer("Global", "")), attributes);
    let (slow, quick) = (pod("slow"), pod("quick"));
    let ask = |pod| providers.keyring("a.example.org/app", Puller { cluster: &cluster, pod });
    let waiting = ask(&slow);
    let others = async {
        tokio::fs::read(begun).await.unwrap();
        let found = tokio::time::timeout(DEADLINE / 2, ask(&quick)).await.expect("it is not held up");
        assert_eq!(found.lookup("a.example.org/app").len(), 1);
        tokio::fs::write(go, "\n").await.unwrap();
    };
    let (waited, ()) = tokio::join!(waiting, others);
    assert_eq!(waited.lookup("a.example.org/app").len(), 1);
    assert_eq!(asked(dir.path()), 2);
}
