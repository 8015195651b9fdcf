//! What is wanted: views of a v1 Pod that the kubelet's traces and decisions are made from.

use k8s_openapi::api::core::v1::Container;

/// `io.kubernetes.container.hash` as kubelet 1.36 computes it: FNV-1a (32 bits, lower-case hex) over the dump of the
/// JSON of the fields whose change restarts a container, `image` and `name` (`pkg/kubelet/container/helpers.go`
/// `HashContainer`; the dump is spew's `%#v` of a byte slice).
pub fn container_hash(container: &Container) -> String {
    let fields = serde_json::json!({ "image": container.image.as_deref().unwrap_or(""), "name": container.name });
    let mut hash = Fnv32a::new();
    hash.write(b"([]uint8)[");
    for (i, byte) in fields.to_string().bytes().enumerate() {
        if i > 0 {
            hash.write(b" ");
        }
        hash.write(byte.to_string().as_bytes());
    }
    hash.write(b"]");
    format!("{:x}", hash.0)
}

struct Fnv32a(u32);

impl Fnv32a {
    fn new() -> Self {
        Self(0x811c_9dc5)
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of the kubelet's own `TestHashContainer`.
    #[test]
    fn container_hash_is_the_kubelets() {
        let container =
            Container { name: "test_container".into(), image: Some("foo/image:v1".into()), ..Default::default() };
        assert_eq!(container_hash(&container), "8e45cbd0");
    }
}
