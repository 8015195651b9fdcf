"""The Python client's part of the tests in clients.rs: fails with a traceback where the server is not what it expects."""
from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException

config.load_kube_config()
core, custom, extensions = client.CoreV1Api(), client.CustomObjectsApi(), client.ApiextensionsV1Api()

# Built-in objects: create, list with a selector, patch, watch from a version, delete.
core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name="py")))
core.create_namespaced_config_map("py", client.V1ConfigMap(metadata=client.V1ObjectMeta(name="a", labels={"x": "y"}), data={"k": "v"}))
found = core.list_namespaced_config_map("py", label_selector="x=y")
assert [item.metadata.name for item in found.items] == ["a"], found
core.patch_namespaced_config_map("a", "py", {"data": {"k": "w"}})
version = found.metadata.resource_version
for event in watch.Watch().stream(core.list_namespaced_config_map, "py", resource_version=version, timeout_seconds=20):
    assert (event["type"], event["object"].data) == ("MODIFIED", {"k": "w"}), event
    break

# A definition, and its objects untyped and by discovery.
definition = {
    "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "gizmos.py.example.com"},
    "spec": {
        "group": "py.example.com", "scope": "Namespaced", "names": {"plural": "gizmos", "kind": "Gizmo"},
        "versions": [{
            "name": "v1", "served": True, "storage": True, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {"size": {"type": "integer", "maximum": 9}}},
                "status": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
            }}},
        }],
    },
}
extensions.create_custom_resource_definition(definition)
for event in watch.Watch().stream(extensions.list_custom_resource_definition, field_selector="metadata.name=gizmos.py.example.com", timeout_seconds=20):
    conditions = event["object"].status.conditions or []
    if any(c.type == "Established" and c.status == "True" for c in conditions):
        break
else:
    raise AssertionError("the definition was not established")
target = ("py.example.com", "v1", "py", "gizmos")
gizmo = {"apiVersion": "py.example.com/v1", "kind": "Gizmo", "metadata": {"name": "a"}, "spec": {"size": 3}}
custom.create_namespaced_custom_object(*target, gizmo)
try:
    custom.create_namespaced_custom_object(*target, {**gizmo, "metadata": {"name": "b"}, "spec": {"size": 10}})
    raise AssertionError("a size of 10 was taken")
except ApiException as error:
    assert error.status == 422 and "should be less than or equal to 9" in error.body, error
custom.patch_namespaced_custom_object(*target, "a", {"spec": {"size": 4}})
custom.patch_namespaced_custom_object_status(*target, "a", {"status": {"ready": True}})
stored = custom.get_namespaced_custom_object(*target, "a")
assert (stored["spec"], stored["status"]) == ({"size": 4}, {"ready": True}), stored
gizmos = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="py.example.com/v1", kind="Gizmo")
assert [item.metadata.name for item in gizmos.get(namespace="py").items] == ["a"]
gizmos.server_side_apply(namespace="py", body={**gizmo, "spec": {"size": 5}}, field_manager="py", force_conflicts=True)
assert custom.get_namespaced_custom_object(*target, "a")["spec"] == {"size": 5}
custom.delete_namespaced_custom_object(*target, "a")
extensions.delete_custom_resource_definition("gizmos.py.example.com")
