//! What pods hold of the node, as the pod resources API shows it.

use super::{DevicesHandle, lock};
use crate::actors::pods::{PodsHandle, has_ended};
use crate::decide::devices::{Grant, NO_NODE};
use crate::decide::numa_memory::Block;
use crate::ids::{PodKey, PodUid};
use crate::managers::Managers;
use crate::model::cpuset::CpuSet;
use crate::plugins::podresources::{self, Source};
use crate::plugins::proto::podresources as pb;
use crate::plugins::proto::{NumaNode, TopologyInfo};
use k8s_openapi::api::core::v1::{Container, Pod};
use std::path::Path;
use std::sync::Arc;

/// Puts together what each manager knows of who holds what.
pub struct PodResources {
    pub pods: PodsHandle,
    pub devices: DevicesHandle,
    pub managers: Option<Arc<Managers>>,
}

impl PodResources {
    /// Listens below `root_dir`; what is returned serves until it is dropped.
    pub fn listen(self, root_dir: &Path) -> impl Future<Output = ()> + Send + use<> {
        let socket = root_dir.join("pod-resources/kubelet.sock");
        let listener = crate::plugins::listen(&socket);
        async move {
            let served = match listener {
                Ok(listener) => podresources::serve(listener, Arc::new(self)).await.map_err(std::io::Error::other),
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                tracing::error!(socket = %socket.display(), %error, "pod resources not served");
            }
        }
    }

    fn pod(&self, pod: &Pod) -> pb::PodResources {
        let uid = PodUid::new(pod.metadata.uid.as_deref().unwrap_or_default());
        let spec = pod.spec.as_ref();
        let sidecars = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
        let containers = sidecars.chain(spec.into_iter().flat_map(|spec| &spec.containers));
        pb::PodResources {
            name: pod.metadata.name.clone().unwrap_or_default(),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            containers: containers.map(|container| self.container(&uid, container)).collect(),
        }
    }

    fn container(&self, pod: &PodUid, container: &Container) -> pb::ContainerResources {
        let book = lock(&self.devices.0.book);
        let held = book.held(pod, &container.name).into_iter().flatten();
        let mut resources = pb::ContainerResources {
            name: container.name.clone(),
            devices: held.flat_map(|(resource, grant)| devices(resource, grant)).collect(),
            ..Default::default()
        };
        if let Some(managers) = &self.managers {
            resources.cpu_ids = numbers(&managers.own_cpus(pod.as_str(), &container.name));
            resources.memory = managers.own_memory(pod.as_str(), &container.name).into_iter().map(memory).collect();
        }
        resources
    }
}

impl Source for PodResources {
    fn list(&self) -> Vec<pb::PodResources> {
        self.pods.list().iter().filter(|pod| !has_ended(pod)).map(|pod| self.pod(pod)).collect()
    }

    fn get(&self, namespace: &str, name: &str) -> Option<pb::PodResources> {
        self.pods.get(&PodKey::new(namespace, name)).map(|pod| self.pod(&pod))
    }

    fn allocatable(&self) -> pb::AllocatableResourcesResponse {
        let book = lock(&self.devices.0.book);
        let devices = book.healthy_devices().flat_map(|(resource, id, nodes)| {
            let nowhere = nodes.is_empty().then(|| entry(resource, id, None));
            nodes.iter().map(|node| entry(resource, id, Some(*node))).chain(nowhere).collect::<Vec<_>>()
        });
        let mut resources = pb::AllocatableResourcesResponse { devices: devices.collect(), ..Default::default() };
        if let Some(managers) = &self.managers {
            resources.cpu_ids = numbers(&managers.allocatable_cpus());
            resources.memory = managers.allocatable_memory().into_iter().map(memory).collect();
        }
        resources
    }
}

fn numbers(cpus: &CpuSet) -> Vec<i64> {
    cpus.iter().map(i64::from).collect()
}

fn memory(block: Block) -> pb::ContainerMemory {
    let nodes = block.numa_affinity.into_iter().map(|node| NumaNode { id: node.into() }).collect();
    pb::ContainerMemory { memory_type: block.kind, size: block.size, topology: Some(TopologyInfo { nodes }) }
}

/// Each device by itself, once for each node that it is close to.
fn devices(resource: &str, grant: &Grant) -> Vec<pb::ContainerDevices> {
    let ids = grant.by_node.iter().flat_map(|(node, ids)| ids.iter().map(move |id| (id, *node)));
    ids.map(|(id, node)| entry(resource, id, (node != NO_NODE).then_some(node))).collect()
}

fn entry(resource: &str, id: &str, node: Option<i64>) -> pb::ContainerDevices {
    pb::ContainerDevices {
        resource_name: resource.to_owned(),
        device_ids: vec![id.to_owned()],
        topology: node.map(|id| TopologyInfo { nodes: vec![NumaNode { id }] }),
    }
}
