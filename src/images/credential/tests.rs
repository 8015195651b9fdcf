//! Providers that are shell scripts: what they are asked, what they may answer, and for how long that holds.

use super::*;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// A provider whose script writes each request into `asked` and then answers.
fn provider(dir: &Path, answer: &str) -> CredentialProviders {
    let script = format!("read -r line\necho \"$line $1 $GREETING\" >> {}/asked\n{answer}\n", dir.display());
    let body = dir.join("body");
    fs::write(&body, script).unwrap();
    // The shell reads it: a file just written is busy for exec while any other test forks.
    symlink("/bin/sh", dir.join("script")).unwrap();
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig",
        "providers": [{
            "name": "script", "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "defaultCacheDuration": "1h",
            "matchImages": ["*.example.org"], "args": [body, "get"], "env": [{"name": "GREETING", "value": "hello"}],
        }],
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    CredentialProviders::load(&Sources { config: dir.join("config.json"), bin_dir: dir.to_owned() }).unwrap()
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
    assert!(providers.logins("example.org/app").await.is_empty());
    assert_eq!(asked(dir.path()), 0);
    let login = |user: &str, password: &str| (user.to_owned(), password.to_owned());
    assert_eq!(providers.logins("a.example.org/team/app").await, [login("team", "t"), login("u", "p")]);
    assert_eq!(providers.logins("a.example.org/app").await, [login("u", "p")]);
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
            assert!(!providers.logins(image).await.is_empty());
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
        assert!(providers.logins("a.example.org/app").await.is_empty(), "{script}");
        assert_eq!(asked(dir.path()), 1, "{script}");
    }
}
