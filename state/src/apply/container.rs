//! Validation of containers that no agent could create.

use std::collections::BTreeSet;

use crate::limits;
use crate::resources::Resources;
use crate::task::{
    CniNetwork, CommandSpec, Container, ContainerNetwork, PublishedPort, Sizes, TaskSpec, has_port,
};

/// The name of an invalid field, and a message that names the remedy.
type FieldError = (&'static str, String);

/// Validates the container of a description.
pub(super) fn check(spec: &TaskSpec) -> Result<(), FieldError> {
    let Container { image, network, .. } = &spec.container;
    let has_command = spec.run != CommandSpec::Image || spec.executor.is_some();
    if image.is_empty() && !has_command {
        let text = "it is empty: give shell a line, argv a program, or an image that has a command";
        return Err(("command", text.to_owned()));
    }
    if image.len() > limits::IMAGE_BYTES || image.contains(['\0', ' ', '\n']) {
        let most = limits::IMAGE_BYTES;
        let text = format!("its name is longer than {most} bytes, or contains NUL or white space");
        return Err(("container.image", text));
    }
    if image.is_empty() && spec.container.pull.is_some() {
        let text = "there is no image to pull: name one, or leave it out";
        return Err(("container.pull", text.to_owned()));
    }
    check_sizes(&spec.container.sizes)?;
    match network {
        ContainerNetwork::AgentDefault | ContainerNetwork::None => Ok(()),
        ContainerNetwork::Bridge(ports) => check_ports(ports, &spec.resources),
        ContainerNetwork::Cni(CniNetwork { name, published }) => {
            check_name(name)?;
            check_ports(published, &spec.resources)
        }
    }
}

fn check_sizes(sizes: &Sizes) -> Result<(), FieldError> {
    let Sizes {
        open_files,
        shm_bytes,
        tmp_bytes,
    } = *sizes;
    let files = limits::MIN_OPEN_FILES..=limits::OPEN_FILES;
    let bytes = limits::MIN_TMPFS_BYTES..=limits::TMPFS_BYTES;
    let requested = [
        ("container.sizes.open_files", open_files, files),
        ("container.sizes.shm_bytes", shm_bytes, bytes.clone()),
        ("container.sizes.tmp_bytes", tmp_bytes, bytes),
    ];
    for (field, asked, bounds) in requested {
        if let Some(asked) = asked.filter(|asked| !bounds.contains(asked)) {
            let (least, most) = bounds.into_inner();
            let text = format!("it is {asked}: give {least} to {most}");
            return Err((field, text));
        }
    }
    Ok(())
}

/// Validates the name of a network by the rules of the CNI specification.
fn check_name(name: &str) -> Result<(), FieldError> {
    let most = limits::CNI_NAME_BYTES;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let begins = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    if begins && name.len() <= most && name.bytes().all(allowed) {
        return Ok(());
    }
    let text = format!(
        "it is at most {most} letters, digits, '.', '_' or '-', and begins with a letter or digit"
    );
    Err(("container.network.cni.name", text))
}

fn check_ports(ports: &[PublishedPort], resources: &Resources) -> Result<(), FieldError> {
    let wrong = |text| Err(("container.network.published", text));
    if ports.len() > limits::PUBLISHED_PORTS {
        let most = limits::PUBLISHED_PORTS;
        return wrong(format!(
            "{} ports are published; at most {most}",
            ports.len()
        ));
    }
    let mut seen = BTreeSet::new();
    for port in ports {
        let PublishedPort {
            host,
            container,
            udp,
        } = *port;
        if host == 0 || container == 0 {
            return wrong("a port is 0: name one from 1 to 65535".to_owned());
        }
        if !has_port(resources, host) {
            return wrong(format!(
                "port {host} is none of the task's: add it to its resources, as ports:[{host}-{host}]"
            ));
        }
        if !seen.insert((host, udp)) {
            return wrong(format!("port {host} is published twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::ImagePull;
    use crate::testing;

    const WEB: PublishedPort = PublishedPort {
        host: 8080,
        container: 80,
        udp: false,
    };

    fn with(run: CommandSpec, image: &str, network: ContainerNetwork) -> TaskSpec {
        TaskSpec {
            run,
            container: Container {
                image: image.to_owned(),
                network,
                ..Container::default()
            },
            ..testing::spec("t", "cpus:1;ports:[8080-8081]")
        }
    }

    fn field(spec: &TaskSpec) -> Option<&'static str> {
        check(spec).err().map(|(field, _)| field)
    }

    #[test]
    fn only_an_image_can_replace_the_command() {
        let line = || CommandSpec::Shell("true".to_owned());
        assert_eq!(
            field(&with(CommandSpec::Image, "web:1", ContainerNetwork::None)),
            None
        );
        assert_eq!(
            field(&with(line(), "", ContainerNetwork::AgentDefault)),
            None
        );
        assert_eq!(
            field(&with(
                CommandSpec::Image,
                "",
                ContainerNetwork::AgentDefault
            )),
            Some("command")
        );
        let long = "i".repeat(limits::IMAGE_BYTES + 1);
        for image in [long.as_str(), "a b", "a\0"] {
            let spec = with(line(), image, ContainerNetwork::AgentDefault);
            assert_eq!(field(&spec), Some("container.image"), "{image:?}");
        }
    }

    #[test]
    fn only_an_image_is_pulled() {
        let mut spec = with(CommandSpec::Image, "web:1", ContainerNetwork::None);
        spec.container.pull = Some(ImagePull::Always);
        assert_eq!(field(&spec), None);
        let mut spec = with(
            CommandSpec::Shell("true".to_owned()),
            "",
            ContainerNetwork::None,
        );
        spec.container.pull = Some(ImagePull::IfAbsent);
        assert_eq!(field(&spec), Some("container.pull"));
    }

    #[test]
    fn sizes_are_within_the_limits_of_linux() {
        let requested = |sizes: Sizes| {
            let mut spec = with(CommandSpec::Image, "web:1", ContainerNetwork::None);
            spec.container.sizes = sizes;
            field(&spec)
        };
        let files = |number| Sizes {
            open_files: Some(number),
            ..Sizes::default()
        };
        let fine = Sizes {
            shm_bytes: Some(4_096),
            tmp_bytes: Some(1 << 40),
            ..files(64)
        };
        assert_eq!(requested(fine), None);
        for number in [0, 63, (1 << 20) + 1] {
            let found = requested(files(number));
            assert_eq!(found, Some("container.sizes.open_files"), "{number}");
        }
        let small = Sizes {
            shm_bytes: Some(4_095),
            ..Sizes::default()
        };
        assert_eq!(requested(small), Some("container.sizes.shm_bytes"));
        let large = Sizes {
            tmp_bytes: Some((1 << 40) + 1),
            ..Sizes::default()
        };
        assert_eq!(requested(large), Some("container.sizes.tmp_bytes"));
    }

    #[test]
    fn a_task_publishes_only_its_ports_and_each_once() {
        let published = |ports: &[PublishedPort]| {
            let network = ContainerNetwork::Bridge(ports.to_vec());
            field(&with(CommandSpec::Image, "web", network))
        };
        let udp = PublishedPort { udp: true, ..WEB };
        let other = PublishedPort { host: 8081, ..WEB };
        assert_eq!(published(&[WEB, udp, other]), None);
        let foreign = PublishedPort { host: 8082, ..WEB };
        let zero = PublishedPort {
            container: 0,
            ..WEB
        };
        for ports in [&[foreign][..], &[zero], &[WEB, WEB], &[WEB; 257]] {
            assert_eq!(published(ports), Some("container.network.published"));
        }
    }

    #[test]
    fn a_cni_network_requires_a_name_and_can_publish_ports() {
        let cni = |name: &str, published: &[PublishedPort]| {
            let network = ContainerNetwork::Cni(CniNetwork {
                name: name.to_owned(),
                published: published.to_vec(),
            });
            field(&with(CommandSpec::Image, "web", network))
        };
        assert_eq!(cni("blue.1_a-b", &[WEB]), None);
        let long = "b".repeat(limits::CNI_NAME_BYTES + 1);
        for name in ["", "../blue", "-blue", "b e", long.as_str()] {
            assert_eq!(
                cni(name, &[]),
                Some("container.network.cni.name"),
                "{name:?}"
            );
        }
        let foreign = PublishedPort { host: 8082, ..WEB };
        assert_eq!(cni("blue", &[foreign]), Some("container.network.published"));
    }
}
