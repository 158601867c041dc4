//! Codes of causes and their messages. A code is never given another meaning; a message may be
//! reworded.
//!
//! `{}` stands for an argument. A message that ends with a colon or a semicolon and a space is
//! followed by the next cause or by free text. An argument without a placeholder is free text after
//! the message.

/// Defines the codes, in the order of [`Code::ALL`].
macro_rules! codes {
    ($($code:ident $name:literal $sentence:literal)+) => {
        /// The code of a cause.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the sentences describe them")]
        pub enum Code {
            $($code,)+
        }

        impl Code {
            /// All codes of this release, in order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$code),+];

            /// Returns the stored and sent name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$code => $name,)+
                }
            }

            /// Returns the message, with `{}` for each argument.
            #[must_use]
            pub fn sentence(self) -> &'static str {
                match self {
                    $(Self::$code => $sentence,)+
                }
            }

            /// Returns the code of this name, if this release has it.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$code),)+
                    _ => None,
                }
            }
        }
    };
}

codes! {
    // Free text before another cause.
    Text "text" "{}"
    // The lifecycle of a task.
    AgentRebooted "agent-rebooted" "its host was rebooted"
    SupervisorGone "supervisor-gone" "its supervisor was gone when the agent came back; how it ended is not known"
    JournalDamaged "journal-damaged" "a part of the journal of its agent was damaged"
    StopAfterPassed "stop-after-passed" "not started: its stop_after_ms passed {} ms ago, and no leader has answered since"
    ContainerUnknown "container-unknown" "its container could not be asked, and was destroyed"
    SupervisorUnwatched "supervisor-unwatched" "cannot watch its supervisor: "
    AgentDiskFull "agent-disk-full" "not started: the disk of this agent is full; make room, or launch it on another agent"
    KilledBeforeStart "killed-before-start" "killed before its command was started"
    // The end of a command.
    Exited "exited" "exited with code {}"
    ExitedOrdered "exited-ordered" "exited with code {} after it was told to end"
    ExitedStopAfter "exited-stop-after" "exited with code {} because the agent did not renew its stop_after deadline"
    Signaled "signaled" "killed by signal {}"
    SignaledOrdered "signaled-ordered" "killed by signal {} after it was told to end"
    SignaledStopAfter "signaled-stop-after" "killed by signal {} because the agent did not renew its stop_after deadline"
    OutOfMemory "out-of-memory" "out of memory"
    OutOfMemoryOf "out-of-memory-of" "out of memory: used {} MiB of {} MiB"
    OutOfMemoryUsed "out-of-memory-used" "out of memory: used {} MiB"
    OutOfMemoryLimit "out-of-memory-limit" "out of memory: its limit is {} MiB"
    HostOutOfMemory "host-out-of-memory" "its host was out of memory"
    HostOutOfMemoryOf "host-out-of-memory-of" "its host was out of memory: used {} MiB of {} MiB"
    HostOutOfMemoryUsed "host-out-of-memory-used" "its host was out of memory: used {} MiB"
    HostOutOfMemoryLimit "host-out-of-memory-limit" "its host was out of memory: its limit is {} MiB"
    ProcessKilled "process-killed" "1 process was killed"
    ProcessesKilled "processes-killed" "{} processes were killed"
    OwnerUnchanged "owner-unchanged" "its output says that it may not change an owner or a user: the security options for servers that do so as root are --capability {} of argosy run, which the agent must allow with --allow-capabilities {}"
    // Executors.
    ExecutorEnded "executor-ended" "its executor has ended: "
    ExecutorSilent "executor-silent" "its executor did not subscribe in {} s, and was ended"
    ExecutorLostTask "executor-lost-task" "its executor came back without it"
    Executor "executor" "its executor: "
    KilledBeforeExecutor "killed-before-executor" "killed before its executor had it"
    // Groups.
    GroupTaskFailed "group-task-failed" "its group ended because task {} failed: "
    GroupTaskKilled "group-task-killed" "its group ended because task {} was killed; "
    GroupTaskEnding "group-task-ending" "its group ended because task {} is to end; "
    GroupEnded "group-ended" "its group ended because "
    GroupTaskMissing "group-task-missing" "one of its tasks is not on this agent"
    GroupPlaceTaken "group-place-taken" "{} has its place, and is to be none of it"
    GroupAgentRestarted "group-agent-restarted" "the agent went away while its tasks were being started"
    LastUpdateGone "last-update-gone" "its last words are gone"
    // Checks.
    HealthCheckFailed "health-check-failed" "its health check failed {} times in a row, at last: "
    Healthy "healthy" "healthy: "
    Unhealthy "unhealthy" "unhealthy: "
    Ready "ready" "ready: "
    NotReady "not-ready" "not ready: "
    CheckPassed "check-passed" "passed"
    CheckTimedOut "check-timed-out" "no answer within {} ms"
    CheckExited "check-exited" "it exited with code {}: "
    CheckSignaled "check-signaled" "signal {} ended it: "
    CheckNotStarted "check-not-started" "it was not started: "
    // Limits and disks.
    LimitsChanged "limits-changed" "its limits are changed"
    LimitsRefused "limits-refused" "not all of its limits are in force: "
    ControlGroupsMissing "control-groups-missing" "the containers of this agent have no control groups: no limit of theirs is kept"
    ControllersMissing "controllers-missing" "this host has no cgroup controllers {}, and does not keep what needs them; the rest is in force"
    DiskUnlimited "disk-unlimited" "limits.io: "
    ProcessorsMissing "processors-missing" "limits.exclusive_cpus: {} processors for it alone are wanted and {} can be had: one stays shared; ask for fewer, or for another agent"
    CpusetMissing "cpuset-missing" "limits.exclusive_cpus: this host has no cgroup controller cpuset, by which processors could be its alone; ask for another agent"
    ProcessorsFailed "processors-failed" "limits.exclusive_cpus: "
    FileLimitReached "file-limit-reached" "one of its files reached the limit of its disk, {} bytes"
    DiskExceeded "disk-exceeded" "out of disk: used {} MiB of {} MiB; ask for more disk, or write less"
    DirectoriesTooDeep "folders-too-deep" "out of disk: its folders lie more than {} deep in each other, where nothing is measured; its limit is {} MiB"
    Evicted "evicted" "evicted: only {} MiB of the agent's disk were free, less than its floor of {} MiB, and no task exceeded its request by more: it used {} MiB and requested {} MiB; request as much disk as the task needs"
    FetchedTooMuch "fetched-too-much" "what was fetched takes {} bytes of a disk of {}: ask for more disk"
    GroupDirectory "group-folder" "the group's folder is a part of the disk of {}, which has ended: "
    // Requests of a task to its agent.
    DescriptionMissing "description-missing" "spec: it is missing"
    CommandMissing "command-missing" "shell, argv: give one of them"
    CommandTwice "command-twice" "shell, argv: give only one of them"
    GroupHostPaths "group-host-paths" "host_paths: tasks of a group see none"
    VolumesUnavailable "volumes-unavailable" "volumes: this agent mounts nothing for its tasks, as it does not isolate in full; ask another agent, or start it as root with --isolation full"
    VolumeUnknown "volume-unknown" "volumes: \"{}\" is of a kind that this release does not know"
    SecretUnavailable "secret-unavailable" "volumes: the secret \"{}\" of role \"{}\": "
    DeviceMissing "device-missing" "resources: this agent has no device \"{}\" any more; its operator names them with --device"
    SizeUnavailable "size-unavailable" "container.sizes.{}: this agent's tasks have no such size of their own; leave it out, or ask for an agent that isolates in full"
    SizeTooLarge "size-too-large" "container.sizes.{}: {} is more than this agent's {}; ask for less, or have its operator start it with {}"
    OptOutsUnavailable "opt-outs-unavailable" "container.opt_outs: this agent's tasks have no profile that they could be let off; leave it out, or ask for an agent that isolates in full"
    OptOutForbidden "opt-out-forbidden" "container.opt_outs: this agent does not allow {}; its operator does with {}"
    NetworkNeedsRoot "network-needs-root" "container.network: an agent gives tasks networks only as root; ask for host or none, or for another agent"
    HostNetworkForbidden "host-network-forbidden" "container.network: this agent does not allow its host's; its operator does with --allow-host-network"
    NetworkUnavailable "network-unavailable" "container.network: this agent cannot give a task a network of its own: {}; ask for none, or have its operator allow the host's with --allow-host-network"
    NetworkFailed "network-failed" "container.network: "
    NetworkNotMade "network-not-made" "its network was not made; launch it again"
    PluginsFailed "plugins-failed" "container.network.cni: "
    ExecutorUnmet "executor-unmet" "cannot make {}, where it would meet its agent: "
    ExecutorUnnamed "executor-unnamed" "executor.executor_id: it is no id; masters of this release refuse it"
    GroupOfExecutor "group-of-executor" "group: executor \"{}\" is to run it, and a task of an executor is in no group; leave one of the two out"
    GroupPlaceWrong "group-place-wrong" "group: place {} of {} is none: places count from 0, and a group has at most {} tasks"
    // Files and images.
    Fetching "fetching" "fetching its files"
    FetchingFile "fetching-file" "fetching {}"
    FetchingSoFar "fetching-so-far" "fetching {}: {} so far"
    FetchingOf "fetching-of" "fetching {}: {} of {}"
    UnpackingFile "unpacking-file" "unpacking {}"
    PullingImage "pulling-image" "pulling the image {}"
    PullingSoFar "pulling-so-far" "pulling the image {}: {} so far"
    PullingOf "pulling-of" "pulling the image {}: {} of {}"
    FetchInvalid "fetch-invalid" "cannot fetch \"{}\": "
    FetchUnread "fetch-unread" "cannot fetch \"{}\": "
    FetchFailed "fetch-failed" "cannot fetch \"{}\": "
    FetchForbidden "fetch-forbidden" "cannot fetch \"{}\": "
    FetchStatus "fetch-status" "cannot fetch \"{}\": the server answered {}"
    FetchStalled "fetch-stalled" "cannot fetch \"{}\": nothing came for {}"
    FetchUntrusted "fetch-untrusted" "cannot fetch \"{}\": the agent does not trust its server, {}: renew its certificate, or start the agent with SSL_CERT_FILE, a file of authorities that lists the one that signed it"
    FetchTooLarge "fetch-too-large" "cannot fetch \"{}\": it is larger than the limit of {} bytes"
    FetchDigest "fetch-digest" "\"{}\" is not what was asked for: its SHA-256 is {}, not {}"
    FetchArchive "fetch-archive" "cannot extract \"{}\": "
    FetchUnwritten "fetch-unwritten" "cannot fetch \"{}\" to {}: "
    ImagesUnavailable "images-unavailable" "container.image: this agent's tasks see the host's programs only; it must be started with --isolation full"
    ImageMalformed "image-malformed" "container.image: "
    ImageNotBrought "image-not-brought" "its image was not brought; launch it again"
    ImageFailed "image-failed" "cannot bring the image {}: "
    ImageForbidden "image-forbidden" "{} is not below a folder that images may be taken from: the agent must be told of one by --image-dir"
    ImageUnread "image-unread" "cannot read {}: "
    ImageLayout "image-layout" "{} is no usable OCI image layout: "
    ImageUnwritten "image-unwritten" "cannot write {}; {}: "
    ImageCredentials "image-credentials" "cannot use the credentials in {}: "
    RegistryUnasked "registry-unasked" "cannot ask {}: "
    RegistryForbidden "registry-forbidden" "cannot get {}: "
    RegistryFailed "registry-failed" "cannot get {}: "
    RegistryStatus "registry-status" "cannot get {}: the server answered {}{}"
    RegistryLogin "registry-login" "the registry {} cannot be logged in to: "
    RegistryStalled "registry-stalled" "cannot get {}: nothing came for {} s"
    ImageTooLarge "image-too-large" "{} is larger than the limit of {} bytes"
    ImageLayers "image-layers" "it has {} layers; at most {} can be put on each other"
    ImageSize "image-size" "{} must have {} bytes, and {} came"
    ImageDigest "image-digest" "{} must have the digest {}, and has {}: it was damaged or tampered with"
    ImageContent "image-content" "{} is not valid: "
    ImagePlatform "image-platform" "it is not made for {}, only for {}"
    LayerUnpacked "layer-unpacked" "cannot unpack the layer {}: "
}
