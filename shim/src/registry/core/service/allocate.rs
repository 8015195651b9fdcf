//! Which address and ports a service gets. Pure: the caller knows what is taken and commits the outcome.

use crate::meta::Object;
use crate::registry::field::{Errors, FieldError, Path};
use crate::registry::ip::parse_cidr;
use crate::registry::value::{default_text, items, items_mut, object_mut, text};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// `--service-node-port-range`'s default.
pub const DEFAULT_NODE_PORTS: RangeInclusive<u16> = 30000..=32767;
/// As many addresses of an IPv6 range are used as an IPv4 /12 has.
const MAX_ADDRESSES: u128 = 1 << 20;

/// `--service-cluster-ip-range`.
#[derive(Clone, Debug)]
pub struct ServiceRange {
    text: String,
    /// The network's first address as a number.
    base: u128,
    ipv4: bool,
    /// Addresses between the network's own and the last (for IPv4 the broadcast address).
    size: u128,
}

impl ServiceRange {
    pub fn parse(cidr: &str) -> Option<Self> {
        let (ip, bits) = parse_cidr(cidr)?;
        let (number, width) = match ip {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
            IpAddr::V6(v6) => (u128::from(v6), 128),
        };
        let host_bits = width - u32::from(bits);
        let all = 1u128.checked_shl(host_bits).unwrap_or(u128::MAX);
        let base = number & !(all.wrapping_sub(1));
        let size = (all - if ip.is_ipv4() { 2.min(all) } else { 1 }).min(MAX_ADDRESSES);
        Some(Self { text: cidr.to_owned(), base, ipv4: ip.is_ipv4(), size })
    }

    /// The first address, which the service `kubernetes` has.
    pub fn first(&self) -> IpAddr {
        self.at(1)
    }

    fn at(&self, offset: u128) -> IpAddr {
        let number = self.base + offset;
        if self.ipv4 {
            // An IPv4 base plus an offset below 2^32 stays an IPv4 number.
            IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)))
        } else {
            IpAddr::V6(Ipv6Addr::from(number))
        }
    }

    fn contains(&self, ip: IpAddr) -> bool {
        let number = match ip {
            IpAddr::V4(v4) if self.ipv4 => u128::from(u32::from(v4)),
            IpAddr::V6(v6) if !self.ipv4 => u128::from(v6),
            IpAddr::V4(_) | IpAddr::V6(_) => return false,
        };
        number.checked_sub(self.base).is_some_and(|offset| (1..=self.size).contains(&offset))
    }

    fn family(&self) -> &'static str {
        if self.ipv4 { "IPv4" } else { "IPv6" }
    }

    /// A free address. The low band is left to those who ask for a certain one, as long as there are others;
    /// `seed` is any number, so that addresses are not reused at once.
    fn pick(&self, used: &BTreeSet<IpAddr>, seed: u64) -> Option<IpAddr> {
        let low_band = (self.size / 16).clamp(16, 256).min(self.size);
        let upper = self.size - low_band;
        let scan = |from: u128, count: u128| {
            let start = if count == 0 { 0 } else { u128::from(seed) % count };
            (0..count).map(move |step| from + (start + step) % count)
        };
        scan(low_band + 1, upper).chain(scan(1, low_band)).map(|n| self.at(n)).find(|ip| !used.contains(ip))
    }
}

/// Gives a service without one a cluster address, checks one that was asked for, and settles the IP families.
/// An address the service has already is no conflict: leave it out of `used` on updates.
pub fn allocate_cluster_ip(
    service: &mut Object,
    range: &ServiceRange,
    used: &BTreeSet<IpAddr>,
    seed: u64,
) -> Result<(), Errors> {
    let path = Path::new("spec");
    let Some(spec) = object_mut(service, "spec") else { return Ok(()) };
    if spec.get("type").map(text) == Some("ExternalName") {
        return Ok(());
    }
    families(&Value::Object(spec.clone()), range, &path)?;
    default_text(spec, "ipFamilyPolicy", "SingleStack");
    if spec.get("ipFamilies").is_none_or(|f| items(f).is_empty()) {
        spec.insert("ipFamilies".to_owned(), json!([range.family()]));
    }
    let wanted = spec.get("clusterIP").map(|v| text(v).to_owned()).unwrap_or_default();
    if wanted == "None" {
        return Ok(());
    }
    let ip = if wanted.is_empty() {
        range.pick(used, seed).ok_or_else(|| vec![full(&path.child("clusterIP"), "serviceIP")])?
    } else {
        let refuse = |why: String| {
            let detail = format!("failed to allocate IP {wanted}: {why}");
            vec![path.child("clusterIPs").invalid(json!([wanted]), &detail)]
        };
        let ip: IpAddr = wanted.parse().map_err(|_| refuse("invalid IP".to_owned()))?;
        if !range.contains(ip) {
            let text = &range.text;
            return Err(refuse(format!(
                "the provided IP ({wanted}) is not in the valid range. The range of valid IPs is {text}"
            )));
        }
        if used.contains(&ip) {
            return Err(refuse("provided IP is already allocated".to_owned()));
        }
        ip
    };
    spec.insert("clusterIP".to_owned(), ip.to_string().into());
    spec.insert("clusterIPs".to_owned(), json!([ip.to_string()]));
    Ok(())
}

/// One family is served; dual-stack may be preferred but not required.
fn families(spec: &Value, range: &ServiceRange, path: &Path) -> Result<(), Errors> {
    let mut errors = Errors::new();
    let families: Vec<&str> = items(&spec["ipFamilies"]).iter().map(text).collect();
    let policy = text(&spec["ipFamilyPolicy"]);
    if families.len() > 1 && policy == "SingleStack" {
        let detail = "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified";
        errors.push(path.child("ipFamilyPolicy").invalid(policy, detail));
        return Err(errors);
    }
    for (index, family) in families.iter().enumerate().filter(|(_, family)| **family != range.family()) {
        errors.push(path.child("ipFamilies").index(index).invalid(*family, "not configured on this cluster"));
    }
    if policy == "RequireDualStack" {
        let detail = "this cluster is not configured for dual-stack services";
        errors.push(path.child("ipFamilyPolicy").invalid(policy, detail));
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn full(path: &Path, what: &str) -> FieldError {
    FieldError {
        cause: crate::registry::field::Cause::Internal,
        field: path.as_str().to_owned(),
        message: format!("Internal error: failed to allocate a {what}: range is full"),
    }
}

/// Gives the ports of a NodePort or LoadBalancer service numbers on every node, and a health check port where the
/// traffic policy asks for one. `used` leaves out what the service has already.
pub fn allocate_node_ports(
    service: &mut Object,
    range: &RangeInclusive<u16>,
    used: &BTreeSet<u16>,
    seed: u64,
) -> Result<(), Errors> {
    let path = Path::new("spec");
    let Some(spec) = object_mut(service, "spec") else { return Ok(()) };
    let kind = spec.get("type").map(|v| text(v).to_owned()).unwrap_or_default();
    if !matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        return Ok(());
    }
    let wants_ports = spec.get("allocateLoadBalancerNodePorts").and_then(Value::as_bool).unwrap_or(true);
    let local = spec.get("externalTrafficPolicy").map(text) == Some("Local");
    let mut taken = used.clone();
    // (number, protocol) → ports of one number may differ in protocol.
    let mut own: Vec<(u16, String)> = Vec::new();
    for (index, port) in items_mut(spec, "ports").enumerate() {
        let path = path.child("ports").index(index).child("nodePort");
        let protocol = port.get("protocol").map(|v| text(v).to_owned()).unwrap_or_default();
        let asked = port.get("nodePort").and_then(Value::as_i64).unwrap_or(0);
        if asked == 0 {
            if !wants_ports && kind == "LoadBalancer" {
                continue;
            }
            let free = pick_port(range, &taken, seed.wrapping_add(index as u64));
            let number = free.ok_or_else(|| vec![full(&path, "nodePort")])?;
            taken.insert(number);
            own.push((number, protocol));
            port.insert("nodePort".to_owned(), number.into());
            continue;
        }
        let Some(number) = u16::try_from(asked).ok().filter(|n| range.contains(n)) else {
            let detail = format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                range.start(),
                range.end()
            );
            return Err(vec![path.invalid(asked, &detail)]);
        };
        let shared = own.iter().any(|(n, p)| *n == number && *p != protocol);
        if taken.contains(&number) && !shared {
            return Err(vec![path.invalid(asked, "provided port is already allocated")]);
        }
        taken.insert(number);
        own.push((number, protocol));
    }
    let has_health_port = spec.get("healthCheckNodePort").and_then(Value::as_i64).unwrap_or(0) != 0;
    if kind == "LoadBalancer" && local && !has_health_port {
        let free = pick_port(range, &taken, seed.wrapping_add(1000));
        let number = free.ok_or_else(|| vec![full(&path.child("healthCheckNodePort"), "nodePort")])?;
        spec.insert("healthCheckNodePort".to_owned(), number.into());
    }
    Ok(())
}

fn pick_port(range: &RangeInclusive<u16>, used: &BTreeSet<u16>, seed: u64) -> Option<u16> {
    let count = u64::from(range.end().saturating_sub(*range.start())) + 1;
    (0..count)
        .filter_map(|step| u16::try_from(u64::from(*range.start()) + (seed % count + step) % count).ok())
        .find(|port| !used.contains(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value) -> Object {
        json!({"metadata": {"name": "s"}, "spec": spec})
    }

    #[test]
    fn an_address_is_picked_above_the_low_band_and_below_broadcast() {
        let range = ServiceRange::parse("10.0.0.0/24").unwrap();
        assert_eq!(range.first().to_string(), "10.0.0.1");
        let mut used = BTreeSet::new();
        for round in 0..254 {
            let mut svc = service(json!({"type": "ClusterIP"}));
            allocate_cluster_ip(&mut svc, &range, &used, round).unwrap();
            let ip: IpAddr = text(&svc["spec"]["clusterIP"]).parse().unwrap();
            assert!(used.insert(ip), "{ip} twice");
            assert!(range.contains(ip));
        }
        let error = allocate_cluster_ip(&mut service(json!({})), &range, &used, 0).unwrap_err();
        assert!(error[0].message.ends_with("range is full"));
    }

    #[test]
    fn an_address_that_is_taken_or_outside_is_refused() {
        let range = ServiceRange::parse("10.0.0.0/24").unwrap();
        let used = BTreeSet::from(["10.0.0.9".parse().unwrap()]);
        for (ip, ok) in [("10.0.0.8", true), ("10.0.0.9", false), ("10.0.1.8", false), ("None", true)] {
            let mut svc = service(json!({"clusterIP": ip, "clusterIPs": [ip]}));
            assert_eq!(allocate_cluster_ip(&mut svc, &range, &used, 0).is_ok(), ok, "{ip}");
        }
    }

    #[test]
    fn node_ports_are_given_once_each_but_shared_between_protocols() {
        let ports = json!([{"port": 53, "protocol": "UDP", "nodePort": 30053}, {"port": 53, "protocol": "TCP", "nodePort": 30053}, {"port": 80, "protocol": "TCP"}]);
        let mut svc = service(json!({"type": "NodePort", "ports": ports}));
        allocate_node_ports(&mut svc, &DEFAULT_NODE_PORTS, &BTreeSet::from([30000]), 0).unwrap();
        assert_eq!(svc["spec"]["ports"][2]["nodePort"], 30002);
    }
}
