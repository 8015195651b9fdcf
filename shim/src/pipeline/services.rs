//! Service addresses and node ports: what is taken is read off the cache while the allocation lock is held.

use super::Api;
use crate::error::ApiError;
use crate::meta::{Meta, Object};
use crate::registry::ResourceDef;
use crate::registry::core::service::allocate::{DEFAULT_NODE_PORTS, allocate_cluster_ip, allocate_node_ports};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;
use tokio::sync::MutexGuard;

/// Gives a Service what it lacks; the guard keeps others from taking the same until the write is done.
pub(super) async fn allocate<'a>(
    api: &'a Api,
    def: &ResourceDef,
    service: &mut Object,
) -> Result<Option<MutexGuard<'a, ()>>, ApiError> {
    if def.resource != "services" || !def.gv.group.is_empty() {
        return Ok(None);
    }
    let guard = api.allocation.lock().await;
    let snapshot = api.cache_of(def)?.consistent().await?;
    let mut taken = Taken::default();
    for entry in snapshot.map.values() {
        let other = super::stored::value(&entry.bytes)?;
        if other.uid() != service.uid() {
            taken.add(&other["spec"]);
        }
    }
    let (seed, _) = uuid::Uuid::new_v4().as_u64_pair();
    allocate_cluster_ip(service, &api.settings.service_range, &taken.addresses, seed)
        .and_then(|()| allocate_node_ports(service, &DEFAULT_NODE_PORTS, &taken.ports, seed))
        .map_err(|errors| ApiError::invalid(def, service.name(), errors))?;
    Ok(Some(guard))
}

/// Addresses and node ports in use by other services.
#[derive(Default)]
struct Taken {
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

impl Taken {
    fn add(&mut self, spec: &Value) {
        let list = |field: &str| spec[field].as_array().into_iter().flatten();
        let port = |value: &Value| u16::try_from(value.as_u64()?).ok();
        self.addresses
            .extend(list("clusterIPs").chain([&spec["clusterIP"]]).filter_map(|a| a.as_str()?.parse::<IpAddr>().ok()));
        self.ports.extend(list("ports").filter_map(|p| port(&p["nodePort"])));
        self.ports.extend(port(&spec["healthCheckNodePort"]));
    }
}
