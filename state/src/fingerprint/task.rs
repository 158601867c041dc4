//! Descriptions of tasks as fingerprints cover them.

use super::writer::Writer;
use crate::task::{
    Check, CheckKind, CniNetwork, Container, DiskLimit, ExecutorSpec, HealthCheck, HostPath,
    ImagePull, Limits, Network, OptOuts, PublishedPort, Run, Scheme, Sizes, TaskGroup, TaskSpec,
    TaskVolume, Uri, VolumeSource,
};

pub(super) fn spec(out: &mut Writer, spec: &TaskSpec) {
    let TaskSpec {
        task,
        name,
        resources,
        limits: most,
        run: what,
        container: made_of,
        environment,
        user,
        uris,
        host_paths,
        grace_ms,
        kill_signal,
        labels,
        max_completion_ms,
        stop_after_ms,
        health_check,
        readiness_check,
        volumes,
        tty,
        stdin,
        executor: runs_it,
        group: place,
    } = spec;
    out.text(1, task.as_str());
    out.text(2, name);
    out.resources(3, resources);
    out.part(4, |out| run(out, what));
    out.part(5, |out| container(out, made_of));
    out.texts(6, environment);
    out.text(7, user);
    out.list(8, uris, uri);
    out.list(9, host_paths, host_path);
    out.number(10, *grace_ms);
    out.texts(11, labels);
    out.number(12, *max_completion_ms);
    out.number(13, *stop_after_ms);
    out.flag(14, *tty);
    out.flag(15, *stdin);
    out.list(16, volumes, volume);
    if let Some(most) = most {
        out.chosen(17, |out| limits(out, most));
    }
    if let Some(health) = health_check {
        out.chosen(18, |out| health_fields(out, health));
    }
    if let Some(readiness) = readiness_check {
        out.chosen(19, |out| check(out, readiness));
    }
    if let Some(runs_it) = runs_it {
        out.chosen(20, |out| executor(out, runs_it));
    }
    if let Some(place) = place {
        out.chosen(21, |out| group(out, place));
    }
    out.optional(22, kill_signal.map(|signal| signal.number().into()));
}

fn run(out: &mut Writer, run: &Run) {
    match run {
        Run::Image => out.chosen(1, |_| ()),
        Run::Shell(line) => out.chosen(2, |out| out.text(1, line)),
        Run::Argv(words) => out.chosen(3, |out| texts(out, 1, words)),
    }
}

fn texts(out: &mut Writer, field: u16, words: &[String]) {
    out.list(field, words, |out, word| out.text(1, word));
}

fn container(out: &mut Writer, container: &Container) {
    let Container {
        image,
        network: reaches,
        opt_outs: let_off,
        sizes: asked,
        pull,
    } = container;
    out.text(1, image);
    out.part(2, |out| network(out, reaches));
    out.part(3, |out| opt_outs(out, let_off));
    out.part(4, |out| sizes(out, *asked));
    out.optional(
        5,
        pull.map(|pull| match pull {
            ImagePull::IfAbsent => 1,
            ImagePull::Always => 2,
        }),
    );
}

fn sizes(out: &mut Writer, sizes: Sizes) {
    let Sizes {
        open_files,
        shm_bytes,
        tmp_bytes,
    } = sizes;
    out.optional(1, open_files);
    out.optional(2, shm_bytes);
    out.optional(3, tmp_bytes);
}

fn network(out: &mut Writer, network: &Network) {
    match network {
        Network::Unnamed => (),
        Network::None => out.chosen(1, |_| ()),
        Network::Bridge(published) => out.chosen(2, |out| out.list(1, published, port)),
        Network::Cni(CniNetwork { name, published }) => out.chosen(3, |out| {
            out.list(1, published, port);
            out.text(2, name);
        }),
    }
}

fn port(out: &mut Writer, port: &PublishedPort) {
    let PublishedPort {
        host,
        container,
        udp,
    } = port;
    out.number(1, (*host).into());
    out.number(2, (*container).into());
    out.flag(3, *udp);
}

fn opt_outs(out: &mut Writer, opt_outs: &OptOuts) {
    let OptOuts {
        capabilities,
        unconfined_seccomp,
        new_privileges,
        nested_user_namespaces,
        host_network,
    } = opt_outs;
    out.list(1, capabilities, |out, capability| {
        out.optional(1, Some(capability.number().into()));
    });
    out.flag(2, *unconfined_seccomp);
    out.flag(3, *new_privileges);
    out.flag(4, *nested_user_namespaces);
    out.flag(5, *host_network);
}

fn uri(out: &mut Writer, uri: &Uri) {
    let Uri {
        value,
        executable,
        output_file,
        extract,
        sha256,
        cache,
    } = uri;
    out.text(1, value);
    out.flag(2, *executable);
    out.text(3, output_file);
    out.flag(4, *extract);
    out.text(5, sha256);
    out.flag(6, *cache);
}

fn host_path(out: &mut Writer, path: &HostPath) {
    let HostPath {
        host_path,
        container_path,
        read_only,
    } = path;
    out.text(1, host_path);
    out.text(2, container_path);
    out.flag(3, *read_only);
}

fn volume(out: &mut Writer, volume: &TaskVolume) {
    let TaskVolume {
        container_path,
        read_only,
        source,
    } = volume;
    out.text(1, container_path);
    out.flag(2, *read_only);
    match source {
        VolumeSource::Sandbox(path) => out.chosen(3, |out| out.text(1, path)),
        VolumeSource::Tmpfs { bytes } => out.chosen(4, |out| out.number(1, *bytes)),
        VolumeSource::Secret(name) => out.chosen(5, |out| out.text(1, name)),
    }
}

pub(super) fn limits(out: &mut Writer, limits: &Limits) {
    let Limits {
        cpu_millis,
        memory_bytes,
        pids,
        io_weight,
        io,
        exclusive_cpus,
    } = limits;
    out.optional(1, *cpu_millis);
    out.optional(2, *memory_bytes);
    out.optional(3, *pids);
    out.optional(4, *io_weight);
    out.list(5, io, |out, limit: &DiskLimit| {
        let DiskLimit {
            disk,
            read_bytes,
            write_bytes,
            read_operations,
            write_operations,
        } = limit;
        out.text(1, disk);
        out.optional(2, *read_bytes);
        out.optional(3, *write_bytes);
        out.optional(4, *read_operations);
        out.optional(5, *write_operations);
    });
    out.flag(6, *exclusive_cpus);
}

fn health_fields(out: &mut Writer, health: &HealthCheck) {
    let HealthCheck {
        check: asked,
        grace_ms,
        failures,
    } = health;
    out.part(1, |out| check(out, asked));
    out.number(2, *grace_ms);
    out.number(3, (*failures).into());
}

fn check(out: &mut Writer, check: &Check) {
    let Check {
        kind,
        delay_ms,
        interval_ms,
        timeout_ms,
    } = check;
    out.number(1, *delay_ms);
    out.number(2, *interval_ms);
    out.number(3, *timeout_ms);
    match kind {
        CheckKind::Shell(line) => out.chosen(4, |out| out.text(1, line)),
        CheckKind::Argv(words) => out.chosen(5, |out| texts(out, 1, words)),
        CheckKind::Http {
            scheme,
            port,
            path,
            statuses,
        } => out.chosen(6, |out| {
            match scheme {
                Scheme::Http => (),
                Scheme::Https => out.flag(1, true),
            }
            out.number(2, (*port).into());
            out.text(3, path);
            out.list(4, statuses, |out, status| {
                out.optional(1, Some((*status).into()));
            });
        }),
        CheckKind::Tcp { port } => out.chosen(7, |out| out.number(1, (*port).into())),
    }
}

fn executor(out: &mut Writer, spec: &ExecutorSpec) {
    let ExecutorSpec {
        executor,
        resources,
        run: what,
        container: made_of,
        environment,
        user,
        uris,
        grace_ms,
    } = spec;
    out.text(1, executor.as_str());
    out.resources(2, resources);
    out.part(3, |out| run(out, what));
    out.part(4, |out| container(out, made_of));
    out.texts(5, environment);
    out.text(6, user);
    out.list(7, uris, uri);
    out.number(8, *grace_ms);
}

fn group(out: &mut Writer, group: &TaskGroup) {
    let TaskGroup { id, place, size } = group;
    out.text(1, id.as_str());
    out.number(2, (*place).into());
    out.number(3, (*size).into());
}
