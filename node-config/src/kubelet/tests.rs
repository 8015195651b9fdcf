//! Files of kubeadm and kind, defaults, bad input, and the order of file, drop-ins and flags.

use super::*;
use crate::duration::Duration;
use expect_test::{Expect, expect};
use serde_json::json;

/// A directory with these files, and where the first one is.
fn files(texts: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in texts {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let first = directory.path().join(texts[0].0);
    (directory, first)
}

fn load(body: &str) -> Result<KubeletConfiguration, ConfigError> {
    let text = format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{body}");
    let (_directory, file) = files(&[("config.yaml", &text)]);
    KubeletConfiguration::load(&Sources { file: Some(file), ..Sources::default() })
}

fn refused(body: &str, expected: Expect) {
    expected.assert_eq(&load(body).expect_err(body).to_string());
}

/// What kubeadm 1.34 to 1.36 write to /var/lib/kubelet/config.yaml.
const KUBEADM: &str = r#"
authentication:
  anonymous:
    enabled: false
  webhook:
    cacheTTL: 0s
    enabled: true
  x509:
    clientCAFile: /etc/kubernetes/pki/ca.crt
authorization:
  mode: Webhook
  webhook:
    cacheAuthorizedTTL: 0s
    cacheUnauthorizedTTL: 0s
cgroupDriver: systemd
clusterDNS:
- 10.96.0.10
clusterDomain: cluster.local
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cpuManagerReconcilePeriod: 0s
crashLoopBackOff: {}
evictionPressureTransitionPeriod: 0s
fileCheckFrequency: 0s
healthzBindAddress: 127.0.0.1
healthzPort: 10248
httpCheckFrequency: 0s
imageMaximumGCAge: 0s
imageMinimumGCAge: 0s
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
memorySwap: {}
nodeStatusReportFrequency: 0s
nodeStatusUpdateFrequency: 0s
rotateCertificates: true
runtimeRequestTimeout: 0s
shutdownGracePeriod: 0s
shutdownGracePeriodCriticalPods: 0s
staticPodPath: /etc/kubernetes/manifests
streamingConnectionIdleTimeout: 0s
syncFrequency: 0s
volumeStatsAggPeriod: 0s
"#;

/// What kind adds to it.
const KIND_NODE: &str = r#"
cgroupRoot: /kubelet
failSwapOn: false
imageGCHighThresholdPercent: 100
evictionHard:
  imagefs.available: "0%"
  nodefs.available: "0%"
  nodefs.inodesFree: "0%"
"#;

#[test]
fn what_kubeadm_writes_is_accepted_and_defaulted() {
    let config = load(KUBEADM).unwrap();
    assert_eq!(config.cgroup_driver, "systemd");
    assert_eq!(config.node_status_report_frequency, Duration::from_secs(300));
    assert_eq!(config.authentication.webhook.cache_ttl, Duration::from_secs(120));
    assert_eq!(config.authentication.x509.client_ca_file, "/etc/kubernetes/pki/ca.crt");
    assert_eq!(config.logging.flush_frequency, FlushFrequency::Text(Duration::from_secs(5)));
    assert_eq!(config.eviction_hard.unwrap()["memory.available"], "100Mi");
}

#[test]
fn what_kind_writes_is_accepted_and_its_thresholds_replace_the_defaults() {
    let config = load(&KUBEADM.replace("systemd", "cgroupfs").replace("memorySwap: {}", KIND_NODE)).unwrap();
    assert_eq!(config.cgroup_root, "/kubelet");
    assert_eq!(config.fail_swap_on, Some(false));
    let signals: Vec<String> = config.eviction_hard.unwrap().into_keys().collect();
    assert_eq!(signals, ["imagefs.available", "nodefs.available", "nodefs.inodesFree"]);
}

#[test]
fn the_defaults_are_upstreams() {
    let shown = serde_json::to_value(KubeletConfiguration::defaulted()).unwrap();
    expect![[r#"
        {"address":"0.0.0.0","authentication":{"anonymous":{"enabled":false},"webhook":{"cacheTTL":"2m0s","enabled":true},"x509":{}},"authorization":{"mode":"Webhook","webhook":{"cacheAuthorizedTTL":"5m0s","cacheUnauthorizedTTL":"30s"}},"cgroupDriver":"cgroupfs","cgroupsPerQOS":true,"configMapAndSecretChangeDetectionStrategy":"Watch","containerLogMaxFiles":5,"containerLogMaxSize":"10Mi","containerLogMaxWorkers":1,"containerLogMonitorInterval":"10s","containerRuntimeEndpoint":"unix:///run/containerd/containerd.sock","contentType":"application/vnd.kubernetes.protobuf","cpuCFSQuota":true,"cpuCFSQuotaPeriod":"100ms","cpuManagerPolicy":"none","cpuManagerReconcilePeriod":"10s","crashLoopBackOff":{"maxContainerRestartPeriod":"5m0s"},"enableControllerAttachDetach":true,"enableDebugFlagsHandler":true,"enableDebuggingHandlers":true,"enableProfilingHandler":true,"enableServer":true,"enableSystemLogHandler":true,"enforceNodeAllocatable":["pods"],"eventBurst":100,"eventRecordQPS":50,"evictionHard":{"imagefs.available":"15%","imagefs.inodesFree":"5%","memory.available":"100Mi","nodefs.available":"10%","nodefs.inodesFree":"5%"},"evictionPressureTransitionPeriod":"5m0s","failCgroupV1":true,"failSwapOn":true,"fileCheckFrequency":"20s","hairpinMode":"promiscuous-bridge","healthzBindAddress":"127.0.0.1","healthzPort":10248,"httpCheckFrequency":"20s","imageGCHighThresholdPercent":85,"imageGCLowThresholdPercent":80,"imageMaximumGCAge":"0s","imageMinimumGCAge":"2m0s","imagePullCredentialsVerificationPolicy":"NeverVerifyPreloadedImages","iptablesDropBit":15,"iptablesMasqueradeBit":14,"kubeAPIBurst":100,"kubeAPIQPS":50,"localStorageCapacityIsolation":true,"logging":{"flushFrequency":"5s","format":"text","options":{"json":{"infoBufferSize":"0"},"text":{"infoBufferSize":"0"}},"verbosity":0},"makeIPTablesUtilChains":true,"maxOpenFiles":1000000,"maxPods":110,"memoryManagerPolicy":"None","memorySwap":{},"memoryThrottlingFactor":0.9,"mergeDefaultEvictionSettings":false,"nodeLeaseDurationSeconds":40,"nodeStatusMaxImages":50,"nodeStatusReportFrequency":"5m0s","nodeStatusUpdateFrequency":"10s","oomScoreAdj":-999,"podLogsDir":"/var/log/pods","podPidsLimit":-1,"port":10250,"registerNode":true,"registryBurst":10,"registryPullQPS":5,"resolvConf":"/etc/resolv.conf","runtimeRequestTimeout":"2m0s","seccompDefault":false,"serializeImagePulls":true,"shutdownGracePeriod":"0s","shutdownGracePeriodCriticalPods":"0s","streamingConnectionIdleTimeout":"4h0m0s","syncFrequency":"1m0s","topologyManagerPolicy":"none","topologyManagerScope":"container","volumePluginDir":"/usr/libexec/kubernetes/kubelet-plugins/volume/exec/","volumeStatsAggPeriod":"1m0s"}"#]]
    .assert_eq(&shown.to_string());
}

#[test]
fn a_field_that_is_unknown_or_of_another_type_is_named_with_its_path() {
    refused("maxPod: 5", expect!["KubeletConfiguration maxPod: unknown field; did you mean maxPods?"]);
    refused(
        "authentication: {webhook: {enable: true}}",
        expect!["KubeletConfiguration authentication.webhook.enable: unknown field"],
    );
    refused("maxPods: many", expect![[r#"KubeletConfiguration maxPods: invalid type: string "many", expected i32"#]]);
    refused(
        "syncFrequency: 5 minutes",
        expect![[r#"KubeletConfiguration syncFrequency: "5 minutes" is not a duration, as in 300ms, 1m30s or 2h"#]],
    );
    refused(
        "clusterDNS: 10.96.0.10",
        expect![[r#"KubeletConfiguration clusterDNS: invalid type: string "10.96.0.10", expected a sequence"#]],
    );
}

#[test]
fn values_that_make_no_sense_are_all_named() {
    refused(
        "maxPods: -1\ncgroupDriver: cgroup\nimageGCLowThresholdPercent: 90\nevictionHard: {memory: 1Gi}\n\
         kubeReserved: {cpu: lots}\nenforceNodeAllocatable: [pods, none]\nstaticPodPath: manifests",
        expect![[r#"
            KubeletConfiguration is invalid:
              maxPods: -1 must be at least 0
              cgroupDriver: "cgroup" must be one of cgroupfs, systemd
              imageGCLowThresholdPercent: 90 must be less than imageGCHighThresholdPercent, 85
              enforceNodeAllocatable: nothing beside "none"
              kubeReserved.cpu: "lots" is not a quantity of at least 0, as in 100m or 1Gi
              evictionHard.memory: unknown signal; known are memory.available, nodefs.available, nodefs.inodesFree, imagefs.available, imagefs.inodesFree, containerfs.available, containerfs.inodesFree, allocatableMemory.available, pid.available
              staticPodPath: "manifests" must be an absolute path"#]],
    );
}

#[test]
fn a_file_of_another_kind_is_refused() {
    let (directory, file) = files(&[("config.yaml", "apiVersion: v1\nkind: ConfigMap\n"), ("bad.yaml", "a: [")]);
    let load = |file: PathBuf| {
        let error = KubeletConfiguration::load(&Sources { file: Some(file), ..Sources::default() }).unwrap_err();
        error.to_string().replace(&directory.path().display().to_string(), "")
    };
    expect!["/config.yaml: it must be an object with apiVersion: kubelet.config.k8s.io/v1beta1 and kind: KubeletConfiguration, not apiVersion: v1 and kind: ConfigMap"]
        .assert_eq(&load(file));
    expect!["/bad.yaml is neither YAML nor JSON"].assert_eq(&load(directory.path().join("bad.yaml")));
    expect!["cannot read /none.yaml"].assert_eq(&load(directory.path().join("none.yaml")));
}

#[test]
fn drop_ins_merge_in_the_order_of_their_names_and_flags_beat_them() {
    let head = format!("apiVersion: {API_VERSION}\nkind: {KIND}\n");
    let file = |body: &str| format!("{head}{body}");
    let (directory, base) = files(&[
        (
            "config.yaml",
            &file("maxPods: 1\nport: 1\nfeatureGates: {A: true}\nsystemReserved: {cpu: 1, memory: 1Gi}\n")
                .replace("cpu: 1,", "cpu: '1',"),
        ),
        ("d/20-b.conf", &file("maxPods: 3\n")),
        ("d/10-a.conf", &file("maxPods: 2\nsystemReserved: {cpu: '2'}\n")),
        ("d/30-c.yaml", &file("maxPods: 4\n")),
    ]);
    let flags = [
        ("port", "7"),
        ("feature-gates", "B=false"),
        ("anonymous-auth", "true"),
        ("register-with-taints", "k=v:NoSchedule"),
    ];
    let flags = flags.map(|(name, text)| {
        let flag = flags::FLAGS.iter().find(|flag| flag.name == name).unwrap();
        (flag.field.to_owned(), flag.parse(text).unwrap())
    });
    let config = KubeletConfiguration::load(&Sources {
        presumed: Map::from_iter([("clusterDomain".to_owned(), json!("presumed"))]),
        file: Some(base),
        drop_ins: Some(directory.path().join("d")),
        flags: flags.into_iter().collect(),
    })
    .unwrap();
    assert_eq!((config.max_pods, config.port, config.cluster_domain.as_str()), (3, 7, "presumed"));
    assert_eq!(config.feature_gates.into_iter().collect::<Vec<_>>(), [("A".into(), true), ("B".into(), false)]);
    assert_eq!(
        config.system_reserved.into_iter().collect::<Vec<_>>(),
        [("cpu".into(), "2".into()), ("memory".into(), "1Gi".into())]
    );
    assert_eq!(config.authentication.anonymous.enabled, Some(true));
    assert_eq!(config.register_with_taints[0].effect, "NoSchedule");
}

#[test]
fn every_flag_sets_a_field_that_exists() {
    for flag in flags::FLAGS {
        let text = match flag.kind {
            flags::Kind::Number => "1",
            flags::Kind::Bool => "true",
            flags::Kind::Map => "cpu=1",
            flags::Kind::Gates => "A=true",
            flags::Kind::Thresholds => "memory.available<1Mi",
            flags::Kind::Taints => "a=b:NoExecute",
            flags::Kind::Reservations => "0:memory=1Gi,hugepages-2Mi=4Mi;1:memory=2Gi",
            flags::Kind::Text | flags::Kind::List => "1m",
        };
        let mut fields = json!({});
        flags::apply(&mut fields, &Map::from_iter([(flag.field.to_owned(), flag.parse(text).unwrap())]));
        typed(&fields).unwrap_or_else(|error| panic!("--{}: {error}", flag.name));
    }
}

#[test]
fn what_has_no_effect_yet_is_named() {
    let config = load("maxPods: 5\ntracing: {samplingRatePerMillion: 5}\n").unwrap();
    assert_eq!(config.pending(), [("tracing", "send traces")]);
    assert_eq!((config.is_written("maxPods"), config.is_written("port")), (true, false));
    for (field, _) in pending::PENDING {
        assert!(field_names().contains(&field), "{field}");
    }
    assert!(KubeletConfiguration::load(&Sources::default()).unwrap().pending().is_empty());
    let names = field_names();
    assert!(names.len() > 120, "{names:?}");
}

#[test]
fn who_may_use_images_that_are_there_is_said_as_the_kubelet_wants_it() {
    const POLICY: &str = "imagePullCredentialsVerificationPolicy: NeverVerifyAllowlistedImages\n";
    const GATE: &str = "featureGates: {KubeletEnsureSecretPulledImages: false}\n";
    let listed = |pattern: &str| format!("{POLICY}preloadedImagesVerificationAllowlist: [{pattern:?}]");
    for pattern in ["r.io/team/app", "r.io:5000/*", "localhost/app", "docker.io/library/busybox", "r.io/a/b/*"] {
        load(&listed(pattern)).unwrap();
    }
    for (body, expected) in [
        (listed("r.io/app:1"), "neither tag nor digest is accepted in an image reference: \"r.io/app:1\""),
        (listed("r.io/app@sha256:0"), "neither tag nor digest"),
        (listed("r.io/a*"), "only patterns ending with '/*' are allowed"),
        (listed("*.io/*"), "only patterns ending with '/*' are allowed"),
        (listed("/*"), "at least registry hostname is required"),
        (listed(" r.io/app"), "leading/trailing spaces are not allowed"),
        (listed(""), "the supplied pattern is too short"),
        (listed("busybox"), "is to be named in full"),
        (listed("docker.io/busybox"), "is to be named in full"),
        ("preloadedImagesVerificationAllowlist: [r.io/app]".to_owned(), "only with imagePullCredentials"),
        ("imagePullCredentialsVerificationPolicy: Sometimes".to_owned(), "must be one of NeverVerify, "),
        (format!("{GATE}{POLICY}"), "must not be set while the feature gate KubeletEnsureSecretPulledImages is off"),
    ] {
        let error = load(&body).expect_err(&body).to_string();
        assert!(error.contains(expected), "{body}: {error}");
    }
    assert_eq!(load(GATE).unwrap().image_pull_credentials_verification_policy, "");
}

#[test]
fn what_would_go_unnoticed_or_never_end_is_refused() {
    for (body, expected) in [
        ("nodeStatusUpdateFrequency: -1s", "nodeStatusUpdateFrequency: -1s must not be negative"),
        ("runtimeRequestTimeout: -2m", "runtimeRequestTimeout: -2m0s must not be negative"),
        ("cpuCFSQuotaPeriod: 10ms", "cpuCFSQuotaPeriod: 10ms requires feature gate CustomCPUCFSQuotaPeriod"),
        ("featureGates: {CustomCPUCFSQuotaPeriod: true}\ncpuCFSQuotaPeriod: 2s", "must be between 1ms and 1s"),
        ("tlsCipherSuites: [TLS_NULL]", "tlsCipherSuites: Cipher suite TLS_NULL not supported or doesn't exist"),
    ] {
        let error = load(body).expect_err(body).to_string();
        assert!(error.contains(expected), "{body}: {error}");
    }
    load("featureGates: {CustomCPUCFSQuotaPeriod: true}\ncpuCFSQuotaPeriod: 10ms").unwrap();
    load("tlsCipherSuites: [TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305, TLS_RSA_WITH_RC4_128_SHA]").unwrap();
    load("volumeStatsAggPeriod: -1s").unwrap();
}
