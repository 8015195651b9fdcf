//! Tables of environments.

use super::*;
use serde_json::{Value, json};

fn node() -> NodeFacts {
    NodeFacts {
        ips: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        allocatable: [("cpu", "3500m"), ("memory", "4Gi"), ("ephemeral-storage", "10Gi")]
            .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
            .into(),
        ..Default::default()
    }
}

fn sources() -> Sources {
    let map = json!({"metadata": {"name": "m"}, "data": {"a": "1", "b": "two", "with-dash": "x"}});
    let secret = json!({"metadata": {"name": "s"}, "data": {"a": "c2VjcmV0"}});
    let file = |text: &str| Some(EnvFile { path: "/host/f".to_owned(), text: text.to_owned() });
    let at = |path: &str| ("v".to_owned(), path.to_owned());
    Sources {
        config_maps: [
            ("m".to_owned(), Some(Arc::new(serde_json::from_value(map).unwrap()))),
            ("none".to_owned(), None),
        ]
        .into(),
        secrets: [("s".to_owned(), Some(Arc::new(serde_json::from_value(secret).unwrap()))), ("none".to_owned(), None)]
            .into(),
        pod_ips: vec!["10.0.0.9".parse().unwrap()],
        files: [(at("f"), file("K='v'\nE=''\n")), (at("bad"), file("nonsense")), (at("none"), None)].into(),
        services: Vec::new(),
    }
}

/// The environment of a container as one line, or why it has none.
fn check(container: Value, expected: &str) {
    let mut whole = json!({"name": "c", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "100M"}}});
    whole.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    let other = json!({"name": "o", "resources": {"limits": {"memory": "64Mi", "cpu": "0"}}});
    let pod = json!({
        "metadata": {"name": "p", "namespace": "d", "uid": "u", "labels": {"l": "x"}, "annotations": {"an/n": "y"}},
        "spec": {"nodeName": "n", "serviceAccountName": "sa", "containers": [whole, other]},
    });
    let pod = DesiredPod::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
    let container = pod.spec().containers[0].clone();
    let answer = match environment(&pod, &container, &node(), &sources()) {
        Ok(list) => list.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "),
        Err(error) => error.to_string(),
    };
    assert_eq!(answer, expected);
}

fn variable(source: Value) -> Value {
    json!({"env": [{"name": "V", "valueFrom": source}]})
}

#[test]
fn fields_of_the_pod() {
    for (path, expected) in [
        ("metadata.name", "V=p"),
        ("metadata.namespace", "V=d"),
        ("metadata.uid", "V=u"),
        ("metadata.labels['l']", "V=x"),
        ("metadata.labels['none']", "V="),
        ("metadata.annotations['an/n']", "V=y"),
        ("spec.nodeName", "V=n"),
        ("spec.serviceAccountName", "V=sa"),
        ("status.hostIP", "V=192.0.2.1"),
        ("status.hostIPs", "V=192.0.2.1,2001:db8::1"),
        ("status.podIP", "V=10.0.0.9"),
        ("status.podIPs", "V=10.0.0.9"),
        ("spec.none", "unsupported fieldPath: spec.none"),
    ] {
        check(variable(json!({"fieldRef": {"fieldPath": path}})), expected);
    }
}

#[test]
fn resources_are_rounded_up_to_the_divisor_and_limits_fall_back_to_the_node() {
    for (name, resource, divisor, expected) in [
        ("", "limits.cpu", "0", "V=2"),
        ("", "limits.cpu", "1m", "V=1500"),
        ("", "requests.cpu", "1", "V=0"),
        ("", "requests.memory", "1Mi", "V=96"),
        ("", "requests.memory", "1M", "V=100"),
        ("", "limits.memory", "1Gi", "V=4"),
        ("o", "limits.memory", "1Ki", "V=65536"),
        ("o", "limits.cpu", "1m", "V=3500"),
        ("o", "limits.ephemeral-storage", "1Gi", "V=10"),
        ("o", "limits.hugepages-2Mi", "1", "V=0"),
        ("none", "limits.cpu", "1", "container none not found"),
        ("", "limits.none", "1", "unsupported container resource : limits.none"),
    ] {
        let source = json!({"resourceFieldRef": {"containerName": name, "resource": resource, "divisor": divisor}});
        check(variable(source), expected);
    }
}

#[test]
fn keys_of_config_maps_and_secrets() {
    let key = |kind: &str, name: &str, key: &str, optional: bool| {
        variable(json!({kind: {"name": name, "key": key, "optional": optional}}))
    };
    for (container, expected) in [
        (key("configMapKeyRef", "m", "b", false), "V=two"),
        (key("configMapKeyRef", "m", "z", false), "couldn't find key z in ConfigMap d/m"),
        (key("configMapKeyRef", "m", "z", true), ""),
        (key("configMapKeyRef", "none", "z", false), "configmap \"none\" not found"),
        (key("configMapKeyRef", "none", "z", true), ""),
        (key("secretKeyRef", "s", "a", false), "V=secret"),
        (key("secretKeyRef", "s", "z", false), "couldn't find key z in Secret d/s"),
        (key("secretKeyRef", "none", "z", false), "secret \"none\" not found"),
    ] {
        check(container, expected);
    }
}

#[test]
fn variables_of_files() {
    let key = |path: &str, key: &str, optional: bool| {
        variable(json!({"fileKeyRef": {"volumeName": "v", "path": path, "key": key, "optional": optional}}))
    };
    for (container, expected) in [
        (key("f", "K", false), "V=v"),
        (key("f", "Z", false), "environment variable key \"Z\" not found in file \"/host/f\""),
        (key("f", "E", false), "environment variable key \"E\" not found in file \"/host/f\""),
        (key("f", "Z", true), ""),
        (key("bad", "K", true), "couldn't parse env file"),
        (key("none", "K", false), "couldn't parse env file"),
        (key("none", "K", true), "couldn't parse env file"),
    ] {
        check(container, expected);
    }
}

#[test]
fn what_is_written_comes_after_what_is_taken_whole_and_the_last_of_a_name_wins() {
    let from = json!([{"configMapRef": {"name": "m"}}, {"prefix": "P_", "secretRef": {"name": "s"}},
        {"secretRef": {"name": "s"}}, {"configMapRef": {"name": "none", "optional": true}}]);
    check(json!({"envFrom": from}), "P_a=secret a=secret b=two with-dash=x");
    check(json!({"envFrom": [{"configMapRef": {"name": "none"}}]}), "configmap \"none\" not found");
    let env = json!([{"name": "X", "value": "$(a)-$(X)-$$(a)"}, {"name": "b", "value": ""}, {"name": "Y", "value": "$(X)"},
        {"name": "X", "value": "$(X)2"}]);
    check(
        json!({"envFrom": [{"configMapRef": {"name": "m"}}], "env": env}),
        "a=1 with-dash=x b= Y=1-$(X)-$(a) X=1-$(X)-$(a)2",
    );
}

#[test]
fn services_show_under_their_names_and_are_left_out_where_links_are_off() {
    let service = |namespace: &str, name: &str, ip: &str| -> Arc<Service> {
        let ports = json!([{"port": 80}, {"name": "dns-udp", "port": 53, "protocol": "UDP"}]);
        let service =
            json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": ip, "ports": ports}});
        Arc::new(serde_json::from_value(service).unwrap())
    };
    let services = vec![
        service("d", "my-svc", "10.1.0.1"),
        service("d", "headless", "None"),
        service("e", "other", "10.1.0.2"),
        service("default", "kubernetes", "10.1.0.3"),
        service("d", "kubernetes", "None"),
    ];
    let names = |links: bool| {
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"enableServiceLinks": links, "containers": [{"name": "c"}]}});
        let pod = DesiredPod::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
        let sources = Sources { services: services.clone(), ..Sources::default() };
        environment(&pod, &pod.spec().containers[0], &node(), &sources).unwrap()
    };
    let all = names(true);
    let value = |name: &str| all.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    for (name, expected) in [
        ("MY_SVC_SERVICE_HOST", Some("10.1.0.1")),
        ("MY_SVC_SERVICE_PORT", Some("80")),
        ("MY_SVC_SERVICE_PORT_DNS_UDP", Some("53")),
        ("MY_SVC_PORT", Some("tcp://10.1.0.1:80")),
        ("MY_SVC_PORT_53_UDP", Some("udp://10.1.0.1:53")),
        ("MY_SVC_PORT_53_UDP_PROTO", Some("udp")),
        ("KUBERNETES_SERVICE_HOST", Some("10.1.0.3")),
        ("HEADLESS_SERVICE_HOST", None),
        ("OTHER_SERVICE_HOST", None),
    ] {
        assert_eq!(value(name), expected, "{name}");
    }
    assert!(names(false).iter().all(|(name, _)| name.starts_with("KUBERNETES_")));
}

#[test]
fn commands_expand_what_the_environment_knows() {
    let environment = [("A".to_owned(), "1".to_owned())];
    let words = ["$(A)", "$$(A)", "$(B)", "$A", "$(A", "a$", "$$$(A)"].map(str::to_owned).to_vec();
    assert_eq!(expand_all(Some(&words), &environment), ["1", "$(A)", "$(B)", "$A", "$(A", "a$", "$1"]);
}
