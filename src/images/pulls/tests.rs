//! Who may use an image after which pulls, over restarts, and with what a kubelet wrote.

use super::*;
use crate::images::keyring::{Coordinates, Source};
use crate::runtime::fake::FakeRuntime;

const IMAGE: &str = "r.io/team/app:1";
const ID: &str = "sha256:app";

fn secret(name: &str, password: &str) -> Credential {
    let coordinates = Coordinates { uid: format!("{name}-uid"), namespace: "ns".into(), name: name.into() };
    Credential::new(("user".into(), password.into()), Source::Secret(coordinates))
}

fn account(name: &str) -> Credential {
    let coordinates = Coordinates { uid: format!("{name}-uid"), namespace: "ns".into(), name: name.into() };
    Credential::new(("token".into(), name.into()), Source::ServiceAccount(coordinates))
}

fn of_node() -> Credential {
    Credential::new(("node".into(), "p".into()), Source::Node)
}

fn records(root: &Path) -> Arc<PullRecords> {
    Arc::new(PullRecords::new(root, Verification::Pulled))
}

async fn allows(records: &Arc<PullRecords>, offered: Vec<Credential>) -> bool {
    records.allows(IMAGE, ID, async { &offered }).await
}

/// Files below `image_manager`, as `pulled/<content>`.
fn kept(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["pulling", "pulled"] {
        for file in files(&root.join("image_manager").join(folder)) {
            found.push(format!("{folder}/{}", fs::read_to_string(file).unwrap()));
        }
    }
    found
}

#[tokio::test]
async fn who_pulled_an_image_may_use_it_and_so_may_who_shows_the_same() {
    let rotated = || secret("one", "new");
    let copy = || secret("copy", "p");
    // With what it was pulled, what the pod has, whether it may.
    let table: [(Option<Credential>, Vec<Credential>, bool); 14] = [
        (None, vec![], true),
        (Some(of_node()), vec![], true),
        (Some(secret("one", "p")), vec![secret("one", "p")], true),
        (Some(secret("one", "p")), vec![copy()], true),
        (Some(secret("one", "p")), vec![rotated()], true),
        (Some(secret("one", "p")), vec![of_node(), copy()], true),
        (Some(secret("one", "p")), vec![], false),
        (Some(secret("one", "p")), vec![of_node()], false),
        (Some(secret("one", "p")), vec![secret("two", "other")], false),
        (Some(secret("one", "p")), vec![account("one")], false),
        (Some(account("a")), vec![account("a")], true),
        (Some(account("a")), vec![secret("one", "p"), account("a")], true),
        (Some(account("a")), vec![account("b"), account("a")], false),
        (Some(account("a")), vec![], false),
    ];
    for (row, (pulled_with, offered, expected)) in table.into_iter().enumerate() {
        let root = tempfile::tempdir().unwrap();
        let records = records(root.path());
        assert!(allows(&records, vec![]).await, "nobody pulled it here");
        let pull = records.begin(IMAGE).await.unwrap();
        assert!(!allows(&records, offered.clone()).await, "{row}: it is not known yet who may");
        pull.succeeded(ID, pulled_with.as_ref()).await;
        assert_eq!(allows(&records, offered.clone()).await, expected, "{row}");
        // Another life of the agent knows the same.
        assert_eq!(allows(&self::records(root.path()), offered).await, expected, "{row}");
    }
}

#[tokio::test]
async fn an_image_pulled_under_one_name_is_not_open_under_another() {
    let root = tempfile::tempdir().unwrap();
    let records = records(root.path());
    records.begin(IMAGE).await.unwrap().succeeded(ID, None).await;
    let nothing = Vec::new();
    for (image, expected) in [("r.io/team/app:2", true), ("r.io/team/app@sha256:0", true), ("r.io/other/app:1", false)]
    {
        assert_eq!(records.allows(image, ID, async { &nothing }).await, expected, "{image}");
    }
}

#[tokio::test]
async fn a_secret_that_is_as_good_is_kept_beside_the_first() {
    let root = tempfile::tempdir().unwrap();
    let records = records(root.path());
    records.begin(IMAGE).await.unwrap().succeeded(ID, Some(&secret("one", "p"))).await;
    assert!(allows(&records, vec![secret("copy", "p")]).await);
    // Then the first is rotated, and the copy has what nobody else has.
    assert!(allows(&records, vec![secret("one", "new")]).await);
    assert!(allows(&records, vec![secret("third", "p")]).await);
    assert!(allows(&records, vec![secret("fourth", "new")]).await);
    let [text] = &kept(root.path())[..] else { panic!("one record") };
    for name in ["one", "copy", "third", "fourth"] {
        assert!(text.contains(&format!("\"name\":\"{name}\"")), "{name}: {text}");
    }
    // Once every pod of the node can pull it, secrets mean nothing.
    records.begin(IMAGE).await.unwrap().succeeded(ID, Some(&of_node())).await;
    let [text] = &kept(root.path())[..] else { panic!("one record") };
    assert!(text.contains(r#""credentialMapping":{"r.io/team/app":{"nodePodsAccessible":true}}"#), "{text}");
}

#[tokio::test]
async fn files_are_a_kubelets() {
    let root = tempfile::tempdir().unwrap();
    let records = records(root.path());
    let pull = records.begin("secretorg/myimage:customtag").await.unwrap();
    // Name and content as in the kubelet's own tests.
    let intent = root
        .path()
        .join("image_manager/pulling/sha256-5f3ca9e4d82e32203c2fafb410dfae9c8047bc6ebe57d642fe264d479e152955");
    let expected = "{\"kind\":\"ImagePullIntent\",\"apiVersion\":\"kubelet.config.k8s.io/v1beta1\",\
                    \"image\":\"secretorg/myimage:customtag\"}\n";
    assert_eq!(fs::read_to_string(&intent).unwrap(), expected);
    drop(pull);
    assert!(!intent.exists(), "the pull failed");
    let pulled = root.path().join("image_manager/pulled");
    fs::create_dir_all(&pulled).unwrap();
    let record = r#"{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1alpha1","lastUpdatedTime":"2024-10-21T12:26:40Z","imageRef":"sha256:app","credentialMapping":{"r.io/team/app":{"kubernetesSecrets":[{"uid":"x","namespace":"default","name":"pull-secret","credentialHash":"DIGEST"}]}}}"#;
    fs::write(pulled.join(file_name(ID)), record.replace("DIGEST", &secret("s", "p").digest)).unwrap();
    assert!(!allows(&records, vec![]).await);
    assert!(allows(&records, vec![secret("s", "p")]).await);
    for broken in ["{", "{}", &record.replace("imageRef", "other")] {
        fs::write(pulled.join(file_name(ID)), broken).unwrap();
        assert!(!allows(&records, vec![secret("s", "p")]).await, "{broken}");
    }
}

#[tokio::test]
async fn pulls_that_a_crash_cut_off_leave_images_that_have_to_be_shown_a_login_for() {
    let root = tempfile::tempdir().unwrap();
    let before = records(root.path());
    for image in ["busybox", IMAGE] {
        // Killed: nobody is told what came of it.
        std::mem::forget(before.begin(image).await.unwrap());
    }
    let runtime = FakeRuntime::default();
    runtime.put_image("docker.io/library/busybox:latest");
    let records = records(root.path());
    records.recover(&runtime).await;
    let id = runtime.image("docker.io/library/busybox:latest").await.unwrap().unwrap().id;
    let nothing = Vec::new();
    assert!(!records.allows("busybox", &id, async { &nothing }).await);
    assert!(!allows(&records, vec![]).await, "the pull may still end");
    let kept = kept(root.path());
    let is_of = |prefix: &'static str| move |text: &&String| text.starts_with(prefix);
    assert_eq!((kept.iter().filter(is_of("pulling/")).count(), kept.iter().filter(is_of("pulled/")).count()), (1, 1));
}

#[tokio::test]
async fn a_pull_among_several_that_ends_leaves_the_image_as_one_that_is_pulled() {
    let root = tempfile::tempdir().unwrap();
    let records = records(root.path());
    let (one, two) = (records.begin(IMAGE).await.unwrap(), records.begin(IMAGE).await.unwrap());
    drop(one);
    assert!(!allows(&records, vec![]).await);
    drop(two);
    assert!(allows(&records, vec![]).await, "what is here is somebody else's");
}

#[tokio::test]
async fn records_go_with_their_images_but_not_those_that_came_meanwhile() {
    let root = tempfile::tempdir().unwrap();
    let records = records(root.path());
    assert!(records.is_empty());
    for id in ["sha256:old", "sha256:used"] {
        records.begin(id).await.unwrap().succeeded(id, None).await;
    }
    let later = clock::now().wall + jiff::SignedDuration::from_secs(60);
    records.prune(BTreeSet::new(), clock::now().wall - jiff::SignedDuration::from_secs(60)).await;
    assert_eq!(kept(root.path()).len(), 2);
    records.prune(["sha256:used".to_owned()].into(), later).await;
    let [text] = &kept(root.path())[..] else { panic!("one record") };
    assert!(text.contains("sha256:used"), "{text}");
}
