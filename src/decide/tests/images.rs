//! Plans of images that are not there.

use super::*;

/// The pull of `a` failed that many seconds ago.
fn pull_failed(case: &mut Case, seconds: u64) {
    let since = Instant::now() - Duration::from_secs(seconds);
    let retry = Retry { message: "no route".to_owned(), failures: 1, at: since + Duration::from_secs(10) };
    case.memory.images.insert(ContainerName::new("a"), ImageState::Failed { reason: "ErrImagePull", retry, since });
    case.seen.containers.remove(0);
}

#[test]
fn a_failed_pull_shows_first_as_itself_and_then_backs_off_which_is_told_once() {
    check(
        |case| pull_failed(case, 0),
        &expect![[r#"
            Sync
            Pending +PRTSC +I -R -CR +PS
              a: waiting ErrImagePull, restarts 0
              b: running, ready, restarts 0
            wake in 2s
        "#]],
    );
    check(
        |case| pull_failed(case, 2),
        &expect![[r#"
            Sync
              event BackOff: Back-off pulling image "img"
              event Failed: Error: ImagePullBackOff
            Pending +PRTSC +I -R -CR +PS
              a: waiting ImagePullBackOff, restarts 0
              b: running, ready, restarts 0
            wake in 8s
        "#]],
    );
    check(
        |case| {
            pull_failed(case, 3);
            let shown = json!({"containerStatuses": [{"name": "a", "image": "img", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff"}}}]});
            case.memory.status = serde_json::from_value(shown).expect("a status");
        },
        &expect![[r#"
            Sync
            Pending +PRTSC +I -R -CR +PS
              a: waiting ImagePullBackOff, restarts 0
              b: running, ready, restarts 0
            wake in 7s
        "#]],
    );
}

fn with_image_volume(case: &mut Case) {
    case.seen.containers.clear();
    case.pod["spec"]["volumes"] = json!([{"name": "v", "image": {"reference": "data:1"}}]);
    for index in [0, 1] {
        case.pod["spec"]["containers"][index]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    }
    case.images(&["a", "b"]);
}

#[test]
fn containers_wait_for_the_images_that_they_mount_each_got_once() {
    check(
        with_image_volume,
        &expect![[r#"
            Sync
              EnsureVolumeImage { volume: "v" }
            Pending +PRTSC +I -R -CR +PS
              a: waiting ContainerCreating, restarts 0
              b: waiting ContainerCreating, restarts 0
        "#]],
    );
    check(
        |case| {
            with_image_volume(case);
            let there = ImageState::Present { reference: "sha256:2".to_owned() };
            case.memory.volume_images.insert("v".to_owned(), there);
        },
        &expect![[r#"
            Sync
              start a#0 in s0
              start b#0 in s0
            Pending +PRTSC +I -R -CR +PS
              a: waiting ContainerCreating, restarts 0
              b: waiting ContainerCreating, restarts 0
        "#]],
    );
}

#[test]
fn a_mounted_image_that_cannot_be_pulled_is_what_the_container_waits_for() {
    check(
        |case| {
            with_image_volume(case);
            let now = Instant::now();
            let retry = Retry { message: "gone".to_owned(), failures: 1, at: now + Duration::from_secs(10) };
            let failed = ImageState::Failed { reason: "ErrImagePull", retry, since: now };
            case.memory.volume_images.insert("v".to_owned(), failed);
        },
        &expect![[r#"
            Sync
            Pending +PRTSC +I -R -CR +PS
              a: waiting ErrImagePull, restarts 0
              b: waiting ErrImagePull, restarts 0
            wake in 2s
        "#]],
    );
}
