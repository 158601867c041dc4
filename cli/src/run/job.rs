//! The request of `run` in wire form. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use argosy_client::resources::{from_wire, to_wire};
use argosy_client::scheduler::OfferOperation;
use argosy_proto::v1;
use argosy_state::ids::{GroupId, Role, TaskId};
use argosy_state::resources::{Range, Resource, ResourceIdentity, Resources, Value};
use argosy_state::task::{SecurityOptions, Sizes};

use super::{checks, command_line, pending_reason};
use crate::args::Run;
use crate::args::filters::LabelFilter;
use crate::exit::Failure;
use crate::names;

/// The job to place on one agent: a task, or the tasks of a group in the order of their start.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    name: String,
    /// Empty for a single task.
    group: String,
    tasks: Vec<v1::TaskSpec>,
    requested: Resources,
    security_options: SecurityOptions,
    sizes: Sizes,
    attributes: Vec<LabelFilter>,
}

impl Job {
    pub(crate) fn new(arguments: &Run, random: u64) -> Result<Self, Failure> {
        Role::new(&arguments.role).map_err(|error| Failure::usage(format!("--role: {error}")))?;
        let (spec, wanted) = task(arguments, random)?;
        Ok(Self {
            name: spec.name.clone(),
            group: String::new(),
            tasks: vec![spec],
            requested: wanted,
            security_options: arguments.security_options(),
            sizes: arguments.limits.sizes(),
            attributes: arguments.attributes.clone(),
        })
    }

    /// Creates the job of a group; `role` is the role whose share it uses.
    pub(crate) fn of_group(group: &str, tasks: &[Run], role: &str) -> Result<Self, Failure> {
        GroupId::new(group).map_err(|error| Failure::usage(format!("group: {error}")))?;
        Role::new(role).map_err(|error| Failure::usage(format!("--role: {error}")))?;
        let mut job = Self {
            name: group.to_owned(),
            group: group.to_owned(),
            tasks: Vec::new(),
            requested: Resources::default(),
            security_options: SecurityOptions::default(),
            sizes: Sizes::default(),
            attributes: Vec::new(),
        };
        for arguments in tasks {
            // All tasks have names.
            let (spec, wanted) = task(arguments, 0)?;
            if job.tasks.iter().any(|other| other.task_id == spec.task_id) {
                let name = &spec.task_id;
                return Err(Failure::usage(format!(
                    "task {name:?} occurs twice; each task of a group needs a unique name"
                )));
            }
            let sum = job.requested.plus(&wanted);
            job.requested = sum.ok_or_else(|| {
                let name = &spec.task_id;
                Failure::usage(format!(
                    "task {name:?} requests a port or a device that another one has, or more than any cluster has"
                ))
            })?;
            job.security_options.join(arguments.security_options());
            job.sizes.join(arguments.limits.sizes());
            job.attributes.extend(arguments.attributes.clone());
            job.tasks.push(spec);
        }
        Ok(job)
    }

    /// Returns the name of the framework, which is also displayed.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the group id of the tasks, empty for a single task.
    pub(crate) fn group(&self) -> &str {
        &self.group
    }

    /// Returns the launch operation.
    pub(crate) fn operation(&self) -> OfferOperation {
        let tasks = self.tasks.clone();
        match self.group.is_empty() {
            true => OfferOperation::Launch(tasks),
            false => OfferOperation::LaunchGroup {
                group_id: self.group.clone(),
                tasks,
            },
        }
    }

    pub(crate) fn tasks(&self) -> &[v1::TaskSpec] {
        &self.tasks
    }

    pub(crate) fn wanted(&self) -> &Resources {
        &self.requested
    }

    /// Returns the security options that an agent must allow.
    pub(crate) fn security_options(&self) -> &SecurityOptions {
        &self.security_options
    }

    /// Returns the largest sizes of the containers, which the agent must allow.
    pub(crate) fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Returns the attributes that an agent must have.
    pub(crate) fn attributes(&self) -> &[LabelFilter] {
        &self.attributes
    }

    /// Returns whether the offer's agent has all attributes.
    pub(crate) fn has_attributes(&self, offer: &v1::Offer) -> bool {
        let mut wanted = self.attributes.iter();
        wanted.all(|wanted| wanted.matches(&offer.attributes))
    }

    /// Returns whether the offer's agent allows all security options and sizes.
    pub(crate) fn is_allowed(&self, offer: &v1::Offer) -> bool {
        let largest = argosy_proto::convert::sizes_from(offer.largest_sizes);
        pending_reason::allows(offer.allowed_opt_outs.as_ref(), &self.security_options).is_none()
            && self.sizes.first_exceeding(&largest).is_none()
    }

    /// Returns whether the offer holds all requested resources.
    pub(crate) fn fits(&self, offer: &v1::Offer) -> bool {
        from_wire(&offer.resources).is_some_and(|offered| offered.contains(&self.requested))
    }

    /// Returns the framework of this job alone. It ends with its `run`, or with its last task if
    /// detached.
    pub(crate) fn framework(&self, role: &str, detached: bool) -> v1::FrameworkInfo {
        v1::FrameworkInfo {
            name: self.name().to_owned(),
            user: std::env::var("USER").unwrap_or_default(),
            roles: vec![role.to_owned()],
            failover_timeout_ms: Some(0),
            detached,
            ..v1::FrameworkInfo::default()
        }
    }
}

/// Returns one task and its resources.
fn task(arguments: &Run, random: u64) -> Result<(v1::TaskSpec, Resources), Failure> {
    let name = arguments
        .name
        .clone()
        .unwrap_or_else(|| names::name(random));
    TaskId::new(&name).map_err(|error| Failure::usage(format!("--name: {error}")))?;
    command_line::check(arguments)?;
    let spec = arguments.spec().map_err(Failure::usage)?;
    let wanted = wanted(arguments)?;
    let spec = v1::TaskSpec {
        task_id: name.clone(),
        name,
        resources: to_wire(&wanted),
        health_check: checks::health(&arguments.checks),
        readiness_check: checks::readiness(&arguments.checks),
        ..spec
    };
    Ok((spec, wanted))
}

fn wanted(arguments: &Run) -> Result<Resources, Failure> {
    let amounts = [
        ("cpus", Some(arguments.cpus)),
        ("mem", Some(arguments.mem)),
        ("disk", arguments.disk),
    ];
    let parts = amounts.into_iter().filter_map(|(name, amount)| {
        Some(Resource {
            identity: ResourceIdentity::plain(name),
            value: Value::Scalar(amount?.0),
        })
    });
    let published = arguments
        .published
        .iter()
        .map(|port| u64::from(port.host_port));
    let own = arguments.ports.iter().copied().map(u64::from);
    let ports: BTreeSet<u64> = published.chain(own).collect();
    let ports = ports.into_iter().map(|port| Resource {
        identity: ResourceIdentity::plain("ports"),
        value: Value::Ranges(vec![Range {
            begin: port,
            end: port,
        }]),
    });
    let devices: BTreeSet<Arc<str>> = arguments
        .devices
        .iter()
        .map(|name| name.as_str().into())
        .collect();
    let devices = (!devices.is_empty()).then_some(Resource {
        identity: ResourceIdentity::plain("devices"),
        value: Value::Set(devices),
    });
    Resources::collect(parts.chain(ports).chain(devices))
        .ok_or_else(|| Failure::usage("--cpus, --mem or --disk is too large for any cluster"))
}

#[cfg(test)]
pub(crate) mod tests {
    use argosy_proto::v1::network::Mode;
    use clap::Parser;

    use super::*;
    use crate::verbs::{Arguments, Verb};

    /// Returns the job of the arguments of `argosy run`.
    pub(crate) fn job(args: &[&str]) -> Result<Job, Failure> {
        let args = ["argosy", "run"].iter().chain(args);
        let Verb::Run(arguments) = Arguments::try_parse_from(args).unwrap().verb else {
            panic!("it is a run");
        };
        Job::new(&arguments, 4 + (40 << 6))
    }

    impl Job {
        /// Returns the spec of the only task.
        pub(crate) fn spec(&self) -> &v1::TaskSpec {
            &self.tasks[0]
        }
    }

    #[test]
    fn a_job_without_a_name_gets_a_generated_two_word_name() {
        let job = job(&["--", "true"]).unwrap();
        assert_eq!(job.name(), "brave-otter");
        assert_eq!(job.wanted().to_string(), "cpus:0.1;mem:32");
        assert_eq!(job.spec().argv, ["true"]);
    }

    #[test]
    fn an_image_and_published_ports_become_a_container() {
        let args = ["--image", "web:1", "-p", "8080:80", "-p", "8080:80/udp"];
        let job = job(&args).unwrap();
        assert_eq!(
            job.wanted().to_string(),
            "cpus:0.1;mem:32;ports:[8080-8080]"
        );
        assert!(job.spec().argv.is_empty());
        let container = job.spec().container.clone().unwrap();
        assert_eq!(container.image, "web:1");
        let Some(Mode::Bridge(bridge)) = container.network.and_then(|network| network.mode) else {
            panic!("published ports mean a bridge");
        };
        let ports = bridge.published.iter();
        let ports: Vec<_> = ports
            .map(|port| (port.host_port, port.container_port, port.udp))
            .collect();
        assert_eq!(ports, [(8080, 80, false), (8080, 80, true)]);
        let args = ["--network", "cni:blue", "-p", "8080:80", "--", "serve"];
        let plugged = super::tests::job(&args).unwrap();
        let network = plugged.spec().container.clone().unwrap().network;
        let Some(Mode::Cni(cni)) = network.and_then(|network| network.mode) else {
            panic!("it names a network of plugins");
        };
        assert_eq!((cni.name.as_str(), cni.published.len()), ("blue", 1));
        let args = ["--network", "host", "--port", "8000", "--", "true"];
        let own = super::tests::job(&args).unwrap();
        assert_eq!(
            own.wanted().to_string(),
            "cpus:0.1;mem:32;ports:[8000-8000]"
        );
        let container = own.spec().container.clone().unwrap();
        let mode = container.network.and_then(|network| network.mode);
        assert_eq!(mode, Some(Mode::Host(v1::HostNetwork {})));
        assert!(
            own.security_options().host_network,
            "its agent must allow it"
        );
        let unnamed = super::tests::job(&["--", "true"]).unwrap();
        assert_eq!(unnamed.spec().container, None);
    }

    #[test]
    fn volumes_are_host_paths_sandbox_directories_or_tmpfs() {
        let args = [
            "--volume",
            "/srv:/srv",
            "--volume",
            "a:/data:ro",
            "--tmpfs",
            "/fast:1M",
            "--secret",
            "db:/key",
            "--",
            "true",
        ];
        let job = job(&args).unwrap();
        let spec = job.spec();
        assert_eq!(spec.host_paths.len(), 1);
        let paths = spec.volumes.iter();
        let paths: Vec<_> = paths.map(|volume| volume.container_path.as_str()).collect();
        assert_eq!(paths, ["/data", "/fast", "/key"]);
    }

    #[test]
    fn a_metrics_port_is_one_that_is_published_or_a_port_of_the_host() {
        let publishing = [
            "--publish",
            "31000:80",
            "--metrics-port",
            "80",
            "--",
            "true",
        ];
        let network = ["--network", "host", "--port", "8000"];
        let flag = ["--metrics-port", "8000/stats", "--", "true"];
        let in_hosts = [&network[..], &flag].concat();
        for (args, number, path) in [
            (&publishing[..], 80, None),
            (&in_hosts, 8_000, Some("/stats")),
        ] {
            let job = job(args).unwrap();
            let found = job.spec().discovery.clone().unwrap();
            let [port] = &found.ports[..] else {
                panic!("{found:?}");
            };
            assert_eq!((port.name.as_str(), port.number), ("metrics", number));
            assert_eq!(port.labels.get("path").map(String::as_str), path);
        }
        assert_eq!(job(&["--", "true"]).unwrap().spec().discovery, None);
    }

    #[test]
    fn the_kill_signal_is_set_by_name() {
        let signal = |args: &[&str]| job(args).unwrap().spec().kill_policy.unwrap().signal();
        assert_eq!(signal(&["--", "true"]), v1::KillSignal::Unspecified);
        let args = ["--kill-signal", "sigquit", "--", "true"];
        assert_eq!(signal(&args), v1::KillSignal::Quit);
        let args = ["argosy", "run", "--kill-signal", "KILL", "--", "true"];
        let refused = Arguments::try_parse_from(args).unwrap_err().to_string();
        assert!(refused.contains("name one of HUP, INT"), "{refused}");
    }

    #[test]
    fn sizes_are_set_by_name_and_require_agents_that_allow_them() {
        let args = ["--open-files", "65536", "--shm-size", "2M", "--", "true"];
        let job = job(&args).unwrap();
        let asked = job.spec().container.clone().unwrap().sizes.unwrap();
        let wanted = v1::ContainerSizes {
            open_files: Some(65_536),
            shm_bytes: Some(2 << 20),
            tmp_bytes: None,
        };
        assert_eq!(asked, wanted);
        let offer = |largest: Option<v1::ContainerSizes>| v1::Offer {
            largest_sizes: largest,
            ..v1::Offer::default()
        };
        assert!(job.is_allowed(&offer(Some(wanted))));
        let less = v1::ContainerSizes {
            shm_bytes: Some((2 << 20) - 1),
            ..wanted
        };
        assert!(!job.is_allowed(&offer(Some(less))));
        assert!(!job.is_allowed(&offer(None)));
    }

    #[test]
    fn limits_and_security_options_are_set_by_name() {
        let plain = job(&["--", "true"]).unwrap();
        assert_eq!(
            (&plain.spec().limits, &plain.spec().container),
            (&None, &None)
        );
        let args = [
            "--mem-limit",
            "64M",
            "--cpu-limit",
            "1.5",
            "--capability",
            "CHOWN,cap_setuid",
            "--",
            "true",
        ];
        let job = job(&args).unwrap();
        let limits = job.spec().limits.clone().unwrap();
        assert_eq!(limits.memory_bytes, Some(64 << 20));
        assert_eq!(limits.cpu_millis, Some(1_500));
        let container = job.spec().container.clone().unwrap();
        let opt_outs = container.opt_outs.unwrap();
        assert_eq!(opt_outs.capabilities, ["CHOWN", "SETUID"]);
        assert!(!opt_outs.unconfined_seccomp);
    }

    #[test]
    fn invalid_flags_are_rejected_before_any_request() {
        let table: [(&[&str], &str); 7] = [
            (
                &["--network", "none", "-p", "1:1", "--", "true"],
                "--publish",
            ),
            (&["--port", "8000", "--", "true"], "--network host"),
            (
                &["--metrics-port", "80", "--", "true"],
                "add --publish HOST:80",
            ),
            (
                &["-p", "1:80/udp", "--metrics-port", "80", "--", "true"],
                "TCP port 80",
            ),
            (&["--name", "a b", "--", "true"], "--name"),
            (&["--role", "", "--", "true"], "--role"),
            (
                &["-e", "A=1", "-e", "A=2", "--", "true"],
                "--env A is given twice",
            ),
        ];
        for (words, part) in table {
            let failure = job(words).unwrap_err();
            assert_eq!(failure.code, crate::exit::FailureCode::Usage, "{words:?}");
            assert!(failure.message.contains(part), "{failure}");
        }
    }

    #[test]
    fn an_offer_fits_only_with_all_resources() {
        let job = job(&["--cpus", "2", "--mem", "64", "--", "true"]).unwrap();
        let offer = |text: &str| v1::Offer {
            resources: argosy_client::resources::resources(text).unwrap(),
            ..v1::Offer::default()
        };
        assert!(job.fits(&offer("cpus:2;mem:64;disk:10")));
        assert!(!job.fits(&offer("cpus:1.999;mem:64")));
        assert!(!job.fits(&offer("cpus:4")));
    }

    #[test]
    fn an_offer_is_used_only_if_its_agent_has_the_attributes() {
        let words = ["--attribute", "rack=r7", "--attribute", "ssd", "--", "true"];
        let job = job(&words).unwrap();
        let offer = |attributes: &[(&str, &str)]| v1::Offer {
            attributes: attributes
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..v1::Offer::default()
        };
        assert!(job.has_attributes(&offer(&[("rack", "r7"), ("ssd", "yes")])));
        assert!(!job.has_attributes(&offer(&[("rack", "r7")])));
        assert!(!job.has_attributes(&offer(&[("rack", "r8"), ("ssd", "")])));
    }

    #[test]
    fn an_offer_is_used_only_if_its_agent_allows_the_options() {
        let job = job(&["--capability", "CHOWN", "--", "true"]).unwrap();
        let offer = |names: &[&str]| v1::Offer {
            allowed_opt_outs: Some(v1::OptOuts {
                capabilities: names.iter().map(|name| (*name).to_owned()).collect(),
                ..v1::OptOuts::default()
            }),
            ..v1::Offer::default()
        };
        assert!(job.is_allowed(&offer(&["CHOWN", "KILL"])));
        assert!(!job.is_allowed(&offer(&["KILL"])));
        assert!(!job.is_allowed(&v1::Offer::default()));
    }
}
