//! The life of a PKI directory: first start, restart, renewal, damage.

use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn names() -> Names {
    Names {
        node_name: "n1".into(),
        hostname: "box".into(),
        node_ips: vec!["192.0.2.7".parse().unwrap()],
        api_addresses: vec!["198.51.100.1".parse().unwrap()],
        service_ip: Some("10.43.0.1".parse().unwrap()),
        cluster_domain: "cluster.local".into(),
        server: true,
        node: true,
    }
}

fn facts(path: &Path) -> Facts {
    Facts::of_pem(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Runs `ensure` and lists what was issued, with the reason.
fn issued(pki: &Pki, names: &Names, now: SystemTime) -> Vec<String> {
    let done = ensure(pki, names, now).unwrap();
    done.iter().filter_map(|done| done.issued.map(|why| format!("{}: {why}", done.file))).collect()
}

#[test]
fn the_first_start_makes_everything_with_kubernetes_names() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new(dir.path());
    assert_eq!(issued(&pki, &names(), now()).len(), 7);
    let ca = facts(&pki.ca().cert);
    for (pair, common_name, organization, sans) in [
        (
            pki.apiserver(),
            "kube-apiserver",
            None,
            "10.43.0.1 127.0.0.1 192.0.2.7 198.51.100.1 box kubernetes kubernetes.default kubernetes.default.svc \
             kubernetes.default.svc.cluster.local localhost",
        ),
        (pki.apiserver_kubelet_client(), "kube-apiserver-kubelet-client", Some("system:masters"), ""),
        (pki.admin(), "kubernetes-admin", Some("system:masters"), ""),
        (pki.kubelet_client(), "system:node:n1", Some("system:nodes"), ""),
        (pki.kubelet(), "system:node:n1", Some("system:nodes"), "192.0.2.7 box n1"),
    ] {
        let cert = facts(&pair.cert);
        assert_eq!(cert.common_name, common_name);
        assert_eq!(cert.organization.as_deref(), organization);
        assert_eq!(cert.sans.into_iter().collect::<Vec<_>>().join(" "), sans);
        assert_eq!(cert.issuer_key_id, ca.key_id);
        assert_eq!(fs::metadata(&pair.key).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert!(fs::read_to_string(pki.service_account_public_key()).unwrap().starts_with("-----BEGIN PUBLIC KEY"));
}

#[test]
fn a_restart_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new(dir.path());
    issued(&pki, &names(), now());
    assert_eq!(issued(&pki, &names(), now()), [""; 0]);
}

#[test]
fn what_no_longer_serves_is_issued_anew_with_the_reason() {
    type Change = fn(&Pki, &mut Names, &mut SystemTime);
    let cases: [(&str, Change, &[&str]); 6] = [
        (
            "another address",
            |_, names, _| names.node_ips = vec!["192.0.2.8".parse().unwrap()],
            &["apiserver: made for other addresses", "kubelet: made for other addresses"],
        ),
        (
            "another node name",
            |_, names, _| names.node_name = "n2".into(),
            &["kubelet-client: made for another name", "kubelet: made for another name"],
        ),
        (
            "near its end",
            |_, _, now| *now += YEAR - RENEW_BEFORE,
            &[
                "apiserver: ends soon",
                "apiserver-kubelet-client: ends soon",
                "admin: ends soon",
                "kubelet-client: ends soon",
                "kubelet: ends soon",
            ],
        ),
        ("a lost key", |pki, _, _| fs::remove_file(pki.admin().key).unwrap(), &["admin: its key does not match"]),
        ("a damaged certificate", |pki, _, _| fs::write(pki.admin().cert, "x").unwrap(), &["admin: absent"]),
        // The CA's key signs a new certificate under which the old leaves stay valid.
        ("a lost CA certificate", |pki, _, _| fs::remove_file(pki.ca().cert).unwrap(), &["ca: absent"]),
    ];
    for (what, change, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (pki, mut names, mut now) = (Pki::new(dir.path()), names(), now());
        issued(&pki, &names, now);
        change(&pki, &mut names, &mut now);
        assert_eq!(issued(&pki, &names, now), expected, "{what}");
        assert_eq!(issued(&pki, &names, now), [""; 0], "{what}: and then it is stable");
    }
}

#[test]
fn a_ca_whose_key_is_elsewhere_is_respected() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new(dir.path());
    issued(&pki, &names(), now());
    fs::remove_file(pki.ca().key).unwrap();
    assert_eq!(issued(&pki, &names(), now()), [""; 0]);
    let error = ensure(&pki, &names(), now() + YEAR).unwrap_err().to_string();
    assert!(error.contains("apiserver.crt must be issued (ends soon), but there is no"), "{error}");
}

#[test]
fn the_service_account_key_is_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new(dir.path());
    fs::write(pki.service_account_key(), "damaged").unwrap();
    let error = ensure(&pki, &names(), now()).unwrap_err().to_string();
    assert!(error.contains("sa.key is no usable private key"), "{error}");
    assert_eq!(fs::read_to_string(pki.service_account_key()).unwrap(), "damaged");
}
