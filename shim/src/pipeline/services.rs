//! Service addresses and node ports: what is taken is read off the cache, in turn, and claimed where servers share a store.
//!
//! What is taken is what Services have; nothing else is kept that could differ from it. In one server a lock makes sure
//! that nobody picks the same before the Service is written. Servers on one etcd keep each other off by a claim: a key
//! for each number, created only if absent, which lives from the pick to the write. Whoever has it looks at the Services
//! once more, since one that was written between the first look and the claim has let go of its claim already. A claim
//! whose server died expires by itself, so nothing has to be mended, as stock's bitmap of ports has to be.

use super::Api;
use crate::error::ApiError;
use crate::meta::{Meta, Object};
use crate::registry::ResourceDef;
use crate::registry::core::service::allocate::{DEFAULT_NODE_PORTS, allocate_cluster_ip, allocate_node_ports};
use crate::store::key::{CLAIMS, StoreKey};
use crate::store::{Class, Expect, KeyValue, StoreError, Watched, Write};
use bytes::Bytes;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::MutexGuard;

/// Longer than anything from a claim to the write of its Service may take: a write and a read of the claim and one more
/// write, each of which the etcd engine gives up after 10 s.
const CLAIM_TTL: Duration = Duration::from_secs(60);
/// How long another server's claim is waited for: it has its Service written by then, or is gone.
const CLAIM_WAIT: Duration = Duration::from_secs(2);
/// Two servers rarely want the same number; more often in a row only where they ask for it by name.
const ATTEMPTS: usize = 8;

/// What a Service was given is kept from others until its write is done; see `release`.
pub(super) struct Held<'a> {
    _turn: MutexGuard<'a, ()>,
    claims: Vec<StoreKey>,
}

/// Gives a Service what it lacks.
pub(super) async fn allocate<'a>(
    api: &'a Api,
    def: &ResourceDef,
    service: &mut Object,
    dry_run: bool,
) -> Result<Option<Held<'a>>, ApiError> {
    if def.resource != "services" || !def.gv.group.is_empty() {
        return Ok(None);
    }
    let turn = api.allocation.lock().await;
    for _ in 0..ATTEMPTS {
        let (own, taken) = look(api, def, service.uid()).await?;
        let (seed, _) = uuid::Uuid::new_v4().as_u64_pair();
        let mut given = service.clone();
        allocate_cluster_ip(&mut given, &api.settings.service_range, &taken.addresses, seed)
            .and_then(|()| allocate_node_ports(&mut given, &DEFAULT_NODE_PORTS, &taken.ports, seed))
            .map_err(|errors| ApiError::invalid(def, service.name(), errors))?;
        let new = Numbers::of(&given["spec"]).without(&own);
        let claimed = match api.settings.shared_store && !dry_run {
            true => claim(api, &new.keys()).await?,
            false => Ok(Vec::new()),
        };
        let claims = match claimed {
            Ok(claims) => claims,
            Err(other) => {
                gone(api, &other).await?;
                continue;
            }
        };
        if claims.is_empty() || new.is_disjoint(&look(api, def, service.uid()).await?.1) {
            *service = given;
            return Ok(Some(Held { _turn: turn, claims }));
        }
        withdraw(api, &claims).await;
    }
    Err(ApiError::Unavailable("other servers are allocating the same addresses or ports; try again".into()))
}

/// Once the write is done, or has failed for good. (After an error that leaves open what became of it, the claims are
/// left to expire.)
pub(super) async fn release(api: &Api, held: Option<Held<'_>>) {
    if let Some(held) = held {
        withdraw(api, &held.claims).await;
    }
}

/// What the Service itself has now, and what all others have.
async fn look(api: &Api, def: &ResourceDef, uid: &str) -> Result<(Numbers, Numbers), ApiError> {
    let snapshot = api.cache_of(def)?.consistent().await?;
    let (mut own, mut taken) = (Numbers::default(), Numbers::default());
    for entry in snapshot.map.values() {
        let service = super::stored::value(&entry.bytes)?;
        if service.uid() == uid { &mut own } else { &mut taken }.add(&service["spec"]);
    }
    Ok((own, taken))
}

/// Claims all of them, or none: then the claim that was in the way, if it is still there.
async fn claim(api: &Api, keys: &[StoreKey]) -> Result<Result<Vec<StoreKey>, Option<KeyValue>>, ApiError> {
    // Nobody else's: a write that is sent twice knows its own.
    let claimant = Bytes::from(uuid::Uuid::new_v4().to_string());
    let mut claims = Vec::with_capacity(keys.len());
    for key in keys {
        let put = Some(claimant.clone());
        let write =
            Write { key: key.clone(), expect: Expect::Absent, put, ttl: Some(CLAIM_TTL), class: Class::Ordinary };
        match api.store.commit(write).await {
            Ok(_) => claims.push(key.clone()),
            Err(StoreError::Lost(other)) => {
                // Others may be waiting for these.
                withdraw(api, &claims).await;
                return Ok(Err(other));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Ok(claims))
}

async fn withdraw(api: &Api, claims: &[StoreKey]) {
    for key in claims {
        let write = Write { key: key.clone(), expect: Expect::Any, put: None, ttl: None, class: Class::Ordinary };
        match api.store.commit(write).await {
            // Expired.
            Ok(_) | Err(StoreError::Lost(_)) => {}
            Err(error) => tracing::warn!(%key, %error, "a claim is left to expire"),
        }
    }
}

/// Waits until another server's claim is withdrawn, though not for long.
async fn gone(api: &Api, claim: &Option<KeyValue>) -> Result<(), ApiError> {
    let Some(claim) = claim else { return Ok(()) };
    let withdrawn = async {
        let mut watch = api.store.watch(claim.key.as_str(), claim.revision).await?;
        while let Some(message) = watch.next().await {
            if let Watched::Events(events) = message?
                && events.iter().any(|event| event.key == claim.key && event.put.is_none())
            {
                break;
            }
        }
        Ok::<(), StoreError>(())
    };
    match tokio::time::timeout(CLAIM_WAIT, withdrawn).await {
        Ok(Ok(())) | Err(_) => Ok(()),
        Ok(Err(error)) => Err(error.into()),
    }
}

/// Addresses and node ports of Services.
#[derive(Debug, Default, PartialEq, Eq)]
struct Numbers {
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

impl Numbers {
    fn of(spec: &Value) -> Self {
        let mut numbers = Self::default();
        numbers.add(spec);
        numbers
    }

    fn add(&mut self, spec: &Value) {
        let list = |field: &str| spec[field].as_array().into_iter().flatten();
        let port = |value: &Value| u16::try_from(value.as_u64()?).ok().filter(|port| *port != 0);
        self.addresses
            .extend(list("clusterIPs").chain([&spec["clusterIP"]]).filter_map(|a| a.as_str()?.parse::<IpAddr>().ok()));
        self.ports.extend(list("ports").filter_map(|p| port(&p["nodePort"])));
        self.ports.extend(port(&spec["healthCheckNodePort"]));
    }

    fn without(mut self, others: &Self) -> Self {
        self.addresses.retain(|address| !others.addresses.contains(address));
        self.ports.retain(|port| !others.ports.contains(port));
        self
    }

    fn is_disjoint(&self, others: &Self) -> bool {
        self.addresses.is_disjoint(&others.addresses) && self.ports.is_disjoint(&others.ports)
    }

    fn keys(&self) -> Vec<StoreKey> {
        let key = |what, number: String| StoreKey::object(CLAIMS, Some(what), &number);
        let addresses = self.addresses.iter().map(|address| key("clusterips", address.to_string()));
        addresses.chain(self.ports.iter().map(|port| key("nodeports", port.to_string()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn claims_are_of_what_a_service_did_not_have() {
        let spec = |address: &str, ports: &[u16]| {
            let ports: Vec<Value> = ports.iter().map(|port| json!({"nodePort": port})).collect();
            Numbers::of(&json!({"clusterIP": address, "clusterIPs": [address], "ports": ports}))
        };
        let own = spec("10.0.0.1", &[30001]);
        for (given, wanted) in [
            (spec("10.0.0.1", &[30001]), vec![]),
            (spec("None", &[0]), vec![]),
            (spec("10.0.0.1", &[30001, 30002]), vec!["nodeports/30002"]),
            (spec("10.0.0.2", &[30002]), vec!["clusterips/10.0.0.2", "nodeports/30002"]),
        ] {
            let keys = given.without(&own).keys();
            let wanted: Vec<String> = wanted.iter().map(|key| format!("/registry/{CLAIMS}/{key}")).collect();
            assert_eq!(keys.iter().map(|key| key.as_str()).collect::<Vec<_>>(), wanted);
        }
    }
}
