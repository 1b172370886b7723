//! Walks through JSON schemas, and documents that break what they demand.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The schema of a definition.
pub fn schema_of(definition: &Value) -> &Value {
    &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

fn walk<'s>(schema: &'s Value, path: &str, each: &mut impl FnMut(&str, &'s Value)) {
    each(path, schema);
    let dot = if path.is_empty() { "" } else { "." };
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        walk(inner, &format!("{path}{dot}{name}"), each);
    }
    if schema["items"].is_object() {
        walk(&schema["items"], &format!("{path}[]"), each);
    }
    if schema["additionalProperties"].is_object() {
        walk(&schema["additionalProperties"], &format!("{path}{{}}"), each);
    }
}

/// Paths of all fields.
pub fn fields(schema: &Value) -> Vec<String> {
    let mut all = Vec::new();
    walk(schema, "", &mut |path, _| all.push(path.to_owned()));
    all
}

/// A demand of a schema on one place.
pub struct Constraint {
    pub path: String,
    pub keyword: String,
    pub value: Value,
}

/// Keywords that are no demand on a document: structure, words for people, and advice for API servers.
const SILENT: &[&str] = &["properties", "items", "description", "additionalProperties"];

/// All demands, one for each place and keyword.
pub fn constraints(schema: &Value) -> Vec<Constraint> {
    let mut all = Vec::new();
    walk(schema, "", &mut |path, node| {
        for (keyword, value) in node.as_object().into_iter().flatten() {
            if !SILENT.contains(&keyword.as_str()) {
                all.push(Constraint { path: path.into(), keyword: keyword.clone(), value: value.clone() });
            }
        }
    });
    all
}

/// Path, keyword, ours and theirs, wherever two schemas differ; a field only one has counts as its type.
pub fn differences(ours: &Value, theirs: &Value) -> Vec<(String, String, Value, Value)> {
    let table = |schema: &Value| -> std::collections::BTreeMap<(String, String), Value> {
        let sorted = |mut value: Value| {
            // The order of a set has no meaning.
            if let Some(list) = value.as_array_mut() {
                list.sort_by_key(ToString::to_string);
            }
            value
        };
        constraints(schema).into_iter().map(|c| ((c.path, c.keyword), sorted(c.value))).collect()
    };
    let (ours, theirs) = (table(ours), table(theirs));
    let keys: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    keys.into_iter()
        .filter_map(|key| {
            let of = |table: &std::collections::BTreeMap<_, Value>| table.get(key).cloned().unwrap_or_default();
            let (a, b) = (of(&ours), of(&theirs));
            (a != b).then(|| (key.0.clone(), key.1.clone(), a, b))
        })
        .collect()
}

/// What is at a path: the first item of lists, the first value of maps.
pub fn place_mut<'v>(value: &'v mut Value, path: &str) -> Option<&'v mut Value> {
    let mut at = value;
    for part in path.split('.') {
        let name = part.trim_end_matches("{}").trim_end_matches("[]");
        at = at.get_mut(name)?;
        if part.contains("[]") {
            at = at.get_mut(0)?;
        }
        if part.ends_with("{}") {
            at = at.as_object_mut()?.values_mut().next()?;
        }
    }
    Some(at)
}

impl Constraint {
    /// Documents that are like `holder` but for this demand, each with what was done to it.
    pub fn violations(&self, holder: &Value, documents: &[Value]) -> Vec<(String, Value)> {
        let with = |what: &str, change: &dyn Fn(&mut Value)| {
            let mut bad = holder.clone();
            change(place_mut(&mut bad, &self.path).unwrap());
            (what.to_owned(), bad)
        };
        let set = |value: Value| with(&format!("{value}"), &|place| *place = value.clone());
        let long = |n: u64| "a".repeat(usize::try_from(n).unwrap() + 1);
        // Groups of a cloud are taken whole: nothing resolves them.
        if self.path.contains("Groups[]") {
            return Vec::new();
        }
        match self.keyword.as_str() {
            "required" => {
                let without = |name: &Value| {
                    let name = name.as_str().unwrap();
                    with(&format!("without {name}"), &|place| drop(place.as_object_mut().unwrap().remove(name)))
                };
                self.value.as_array().unwrap().iter().map(without).collect()
            }
            "oneOf" => self.choices(holder, documents),
            // An empty text is the same as none: the original's clients write it so.
            "enum" => vec![set("no-such-value".into())],
            "pattern" => vec![set("§ §".into())],
            "minLength" => vec![set("".into())],
            "maxLength" => vec![set(long(self.value.as_u64().unwrap()).into())],
            "minimum" => vec![set((self.value.as_i64().unwrap() - 1).into())],
            "maximum" => vec![set((self.value.as_i64().unwrap() + 1).into())],
            "maxItems" => {
                let many = usize::try_from(self.value.as_u64().unwrap()).unwrap() + 1;
                vec![with("one too many", &|place| {
                    let first = place[0].clone();
                    *place = vec![first; many].into();
                })]
            }
            "format" if self.value == "cidr" => vec![set("10.0.0.0/33".into()), set("ten".into())],
            "type" => match self.value.as_str().unwrap() {
                "array" => vec![set("text".into()), set(json!({ "a": 1 }))],
                "object" => vec![set("text".into()), set(json!([1]))],
                "boolean" => vec![set("true".into()), set(1.into())],
                "integer" => vec![set("1".into()), set(1.5.into())],
                _ => vec![set(1.into()), set(json!(["a"]))],
            },
            "anyOf" => vec![set(true.into()), set(json!([1]))],
            // For API servers: how objects are merged, what is filled in. A format without a check is a comment.
            "default"
            | "format"
            | "x-kubernetes-map-type"
            | "x-kubernetes-list-type"
            | "x-kubernetes-int-or-string" => Vec::new(),
            other => panic!("{}: the keyword {other} is not tested", self.path),
        }
    }

    /// None of the alternatives, and two of them.
    fn choices(&self, holder: &Value, documents: &[Value]) -> Vec<(String, Value)> {
        let name = |choice: &Value| choice["required"][0].as_str().unwrap().to_owned();
        let names: Vec<String> = self.value.as_array().unwrap().iter().map(name).collect();
        let mut none = holder.clone();
        let place = place_mut(&mut none, &self.path).unwrap().as_object_mut().unwrap();
        names.iter().for_each(|name| drop(place.remove(name)));
        let mut all = vec![("none of the alternatives".to_owned(), none)];
        for name in &names {
            // What only makes sense in the other direction is taken from there.
            let paths = [self.path.clone(), self.path.replace("ingress", "egress").replace("from", "to")];
            let value = paths
                .iter()
                .flat_map(|path| documents.iter().map(move |d| (path, d)))
                .find_map(|(path, d)| place_mut(&mut d.clone(), &format!("{path}.{name}")).cloned());
            let mut two = holder.clone();
            let place = place_mut(&mut two, &self.path).unwrap().as_object_mut().unwrap();
            if place.contains_key(name) {
                continue;
            }
            place.insert(name.clone(), value.unwrap_or_else(|| panic!("no document has {}.{name}", self.path)));
            all.push((format!("{name}, too"), two));
        }
        all
    }
}

/// Valid documents that together have every field of `spec`.
pub fn documents_of_everything() -> Vec<Value> {
    let selector = json!({
        "matchLabels": { "app": "web" },
        "matchExpressions": [{ "key": "tier", "operator": "In", "values": ["front"] }],
    });
    let group = json!({ "aws": { "labels": { "a": "b" }, "region": "r", "securityGroupsIds": ["1"], "securityGroupsNames": ["n"] } });
    let secret = json!({ "namespace": "n", "name": "s" });
    let tls = json!({ "secret": secret, "trustedCA": "ca", "certificate": "c", "privateKey": "k" });
    let ports = json!([{ "port": "80", "protocol": "TCP", "endPort": 90 }]);
    let l7 = |rules: Value, port: &str| json!({ "ports": [{ "port": port, "protocol": "TCP" }], "rules": rules });
    let http = json!({ "http": [{
        "path": "/a", "method": "GET", "host": "a.example", "headers": ["X-A"],
        "headerMatches": [{ "name": "X-B", "value": "v", "secret": secret, "mismatch": "LOG" }],
    }] });
    let kafka = json!({ "kafka": [{ "apiKey": "fetch", "apiVersion": "1", "clientID": "c", "topic": "t" }] });
    let role = json!({ "kafka": [{ "role": "produce", "topic": "t" }] });
    let custom = json!({ "l7proto": "memcache", "l7": [{ "command": "get" }] });
    let name = json!({ "dns": [{ "matchName": "a.example" }] });
    let pattern = json!({ "dns": [{ "matchPattern": "*.example" }] });
    let listener = json!({ "envoyConfig": { "kind": "CiliumEnvoyConfig", "name": "e" }, "name": "l", "priority": 5 });
    let port_rules = [
        json!({ "ports": ports.clone() }),
        l7(http, "80"),
        l7(kafka, "80"),
        l7(role, "80"),
        l7(custom, "80"),
        l7(name, "53"),
        l7(pattern, "53"),
        json!({ "ports": [{ "port": "443" , "protocol": "TCP" }], "serverNames": ["a.example"] }),
        json!({ "ports": [{ "port": "443", "protocol": "TCP" }], "terminatingTLS": tls, "originatingTLS": tls }),
        json!({ "ports": [{ "port": "443", "protocol": "TCP" }], "listener": listener }),
    ];
    let icmps = json!([{ "fields": [{ "family": "IPv4", "type": 8 }] }]);
    let services = |named: Value| json!([named]);
    let mut rules = Vec::new();
    for (direction, word) in [("ingress", "from"), ("egress", "to")] {
        for deny in [false, true] {
            let list = if deny { format!("{direction}Deny") } else { direction.to_owned() };
            let mut entries = vec![
                json!({ format!("{word}Endpoints"): [selector], format!("{word}Requires"): [selector] }),
                json!({ format!("{word}CIDR"): ["10.0.0.0/8"] }),
                json!({ format!("{word}CIDRSet"): [{ "cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"] }] }),
                json!({ format!("{word}CIDRSet"): [{ "cidrGroupRef": "group", "except": ["10.1.0.0/16"] }] }),
                json!({ format!("{word}Entities"): ["world"] }),
                json!({ format!("{word}Nodes"): [selector] }),
                json!({ format!("{word}Groups"): [group] }),
                json!({ "icmps": icmps }),
            ];
            if deny {
                entries.push(json!({ "toPorts": [{ "ports": ports }] }));
            } else {
                entries.push(json!({ format!("{word}Entities"): ["all"], "authentication": { "mode": "disabled" } }));
                let usable = port_rules
                    .iter()
                    .filter(|r| direction == "egress" || (r["listener"].is_null() && r["rules"]["dns"].is_null()));
                entries.extend(usable.map(|rule| json!({ "toPorts": [rule] })));
            }
            if direction == "egress" {
                let named = json!({ "k8sService": { "namespace": "n", "serviceName": "s" } });
                let labelled = json!({ "k8sServiceSelector": { "namespace": "n", "selector": selector } });
                entries.extend([named, labelled].map(|s| json!({ "toServices": services(s) })));
                if !deny {
                    entries.push(json!({ "toFQDNs": [{ "matchName": "a.example" }] }));
                    entries.push(json!({ "toFQDNs": [{ "matchPattern": "*.example" }] }));
                }
            }
            rules.extend(
                entries.into_iter().map(|entry| json!({ "endpointSelector": selector, list.clone(): [entry] })),
            );
        }
    }
    rules.push(json!({
        "nodeSelector": selector, "description": "d", "labels": [{ "key": "k", "value": "v", "source": "k8s" }],
        "enableDefaultDeny": { "ingress": true, "egress": false }, "ingress": [{}],
    }));
    let object = |spec: Value| {
        json!({ "apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy",
                "metadata": { "name": "everything" }, "spec": spec })
    };
    rules.into_iter().map(object).collect()
}

/// The YAML and JSON files below a folder.
pub fn examples(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(examples(&path));
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "json") {
            files.push(path);
        }
    }
    files.sort();
    files
}
