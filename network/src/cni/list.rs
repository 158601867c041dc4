//! An operator's list of CNI plugins, and the input of each.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::CniError;
use crate::PortPublication;

/// The supported versions, best first.
const VERSIONS: [&str; 2] = ["1.1.0", "1.0.0"];

/// An operator's list of plugins, as in its file. Each plugin has the name of its executable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "StoredConfList")]
pub struct NetworkConfList {
    pub(super) name: String,
    version: String,
    pub(super) plugins: Vec<Map<String, Value>>,
}

/// A list in a record, which is not checked.
#[derive(Deserialize)]
struct StoredConfList {
    name: String,
    version: String,
    plugins: Vec<Map<String, Value>>,
}

impl TryFrom<StoredConfList> for NetworkConfList {
    type Error = String;

    fn try_from(stored: StoredConfList) -> Result<Self, String> {
        let list = Self {
            name: stored.name,
            version: stored.version,
            plugins: stored.plugins,
        };
        list.check().map(|()| list)
    }
}

impl NetworkConfList {
    /// Reads a list (`*.conflist`).
    ///
    /// # Errors
    /// If it cannot be read, or is not a list of a supported version.
    pub fn read(path: &Path) -> Result<Self, CniError> {
        let error = |reason: String| CniError::Configuration {
            path: path.to_owned(),
            reason,
        };
        let text = fs::read_to_string(path).map_err(|source| error(source.to_string()))?;
        Self::parse(&text).map_err(error)
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct ConfListFile {
            name: String,
            cni_version: Option<String>,
            #[serde(default)]
            cni_versions: Vec<String>,
            plugins: Vec<Map<String, Value>>,
        }
        let written: ConfListFile =
            serde_json::from_str(text).map_err(|error| error.to_string())?;
        let offered: Vec<_> = written
            .cni_version
            .iter()
            .chain(&written.cni_versions)
            .collect();
        let version = VERSIONS
            .into_iter()
            .find(|known| offered.iter().any(|offered| offered == known));
        let version = version.ok_or_else(|| {
            format!("its versions are {offered:?}: give cniVersion 1.0.0 or 1.1.0")
        })?;
        let list = Self {
            name: written.name,
            version: version.to_owned(),
            plugins: written.plugins,
        };
        list.check().map(|()| list)
    }

    /// Checks the names of the list and of its plugins, which become parts of paths.
    fn check(&self) -> Result<(), String> {
        let is_plain = |name: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            name.starts_with(|first: char| first.is_ascii_alphanumeric())
                && name.bytes().all(allowed)
        };
        if !is_plain(&self.name) {
            return Err("its name must be letters, digits, '.', '_' or '-'".to_owned());
        }
        if self.plugins.is_empty() {
            return Err("it has no plugin".to_owned());
        }
        let mut kinds = self.plugins.iter().map(kind);
        if !kinds.all(|kind| kind.is_some_and(is_plain)) {
            return Err("each plugin needs a type that is the name of an executable".to_owned());
        }
        Ok(())
    }

    /// Returns the network's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn publishes(&self) -> bool {
        self.plugins.iter().any(takes_ports)
    }

    /// Builds the input of one plugin: its part of the list, and the runtime's additions.
    pub(super) fn input(
        &self,
        plugin: &Map<String, Value>,
        ports: &[PortPublication],
        previous: Option<&Value>,
    ) -> Value {
        let mut input = plugin.clone();
        input.remove("capabilities");
        input.insert("name".to_owned(), json!(self.name));
        input.insert("cniVersion".to_owned(), json!(self.version));
        if takes_ports(plugin) && !ports.is_empty() {
            let ports = ports.iter().map(|port| {
                json!({
                    "hostPort": port.host_port,
                    "containerPort": port.container_port,
                    "protocol": port.protocol.name(),
                })
            });
            let ports: Vec<_> = ports.collect();
            input.insert("runtimeConfig".to_owned(), json!({ "portMappings": ports }));
        }
        if let Some(before) = previous {
            input.insert("prevResult".to_owned(), before.clone());
        }
        Value::Object(input)
    }
}

pub(super) fn kind(plugin: &Map<String, Value>) -> Option<&str> {
    plugin.get("type")?.as_str()
}

fn takes_ports(plugin: &Map<String, Value>) -> bool {
    let capabilities = plugin.get("capabilities");
    capabilities.and_then(|all| all.get("portMappings")) == Some(&Value::Bool(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protocol;

    const LIST: &str = r#"{
        "cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.1.0"], "name": "blue", "unheard": 1,
        "plugins": [
            { "type": "bridge", "mtu": 1400, "ipam": { "type": "host-local" } },
            { "type": "portmap", "capabilities": { "portMappings": true } }
        ] }"#;

    #[test]
    fn a_plugin_receives_its_part_and_the_runtimes_additions() {
        let list = NetworkConfList::parse(LIST).unwrap();
        let ports = [PortPublication {
            name: "web".to_owned(),
            protocol: Protocol::Tcp,
            host_port: 8080,
            container_port: 80,
        }];
        assert_eq!(
            list.input(&list.plugins[0], &ports, None),
            json!({ "type": "bridge", "mtu": 1400, "ipam": { "type": "host-local" },
                    "name": "blue", "cniVersion": "1.1.0" })
        );
        let before = json!({ "ips": [] });
        let port = json!({ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" });
        assert_eq!(
            list.input(&list.plugins[1], &ports, Some(&before)),
            json!({ "type": "portmap", "name": "blue", "cniVersion": "1.1.0",
                    "runtimeConfig": { "portMappings": [port] }, "prevResult": before })
        );
    }

    #[test]
    fn an_invalid_list_is_rejected_with_the_reason() {
        for (wrong, reason) in [
            (
                LIST.replace("1.0.0", "0.3.1").replace("1.1.0", "0.2.0"),
                "give cniVersion",
            ),
            (LIST.replace("\"blue\"", "\"b/e\""), "its name must be"),
            (
                LIST.replace("\"bridge\"", "\"../bridge\""),
                "the name of an executable",
            ),
            (LIST.replace("\"plugins\"", "\"plugs\""), "plugins"),
            ("{".to_owned(), "EOF"),
        ] {
            let output = NetworkConfList::parse(&wrong).unwrap_err();
            assert!(output.contains(reason), "{output}");
        }
    }
    #[test]
    fn a_damaged_list_in_a_record_is_rejected() {
        let list = NetworkConfList::parse(LIST).unwrap();
        let record = serde_json::to_string(&list).unwrap();
        let read = |text: &str| serde_json::from_str::<NetworkConfList>(text);
        assert_eq!(read(&record).unwrap(), list);
        let why = read(&record.replace("\"type\"", "\"typo\"")).unwrap_err();
        assert!(
            why.to_string().contains("the name of an executable"),
            "{why}"
        );
    }
}
