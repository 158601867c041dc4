//! A command's view of its container, reported by a static program (`look.rs`): compared with a
//! golden file in the repository and, on request, with the view under crun and runc.
//!
//! `ARGOSY_BLESS=1` rewrites the golden file. `ARGOSY_COMPARE=1` prints the table of
//! `docs/isolation.md`: `ARGOSY_COMPARE=1 cargo test -p argosy-isolation --test root --
//! other_runtimes`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use argosy_isolation::profile::FIRST_HOST_ID;
use argosy_isolation::{CommandOutcome, LaunchSpec, Program, ResourceLimit};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use crate::fixture::{RootFixture, TestCase, skip, stderr, stdout};
use crate::profile::profiled;

pub(crate) const CASES: &[TestCase] = &[
    ("the_view_of_a_command_matches_the_recorded_one", recorded),
    (
        "the_view_of_a_command_is_compared_with_other_runtimes",
        comparison,
    ),
];

/// The verb with which this program prints its view.
pub(crate) const VERB: &str = "look";
const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/root/seen.json");
/// The path of the program on a machine without a compiler.
const PROGRAM_PATH: &str = "/bin/isolation-look";
/// The limits that the agent sets; all others are the host's.
const LIMITS: [(&str, &str, u64); 5] = [
    ("core", "Max core file size", 0),
    ("memlock", "Max locked memory", 65_536),
    ("msgqueue", "Max msgqueue size", 819_200),
    ("nofile", "Max open files", 4_096),
    ("nproc", "Max processes", 4_096),
];
/// Directories of programs, of which hosts have different ones, as directories or links.
const PROGRAMS: [&str; 8] = [
    "/bin ",
    "/etc ",
    "/lib",
    "/opt ",
    "/sbin ",
    "/usr ",
    "/sys/devices/",
    "/proc/",
];

/// Compiles the program, statically linked.
fn program(directory: &Path) -> PathBuf {
    if Path::new(PROGRAM_PATH).exists() {
        return PROGRAM_PATH.into();
    }
    let source = directory.join("look.rs");
    fs::write(&source, include_str!("look.rs")).unwrap();
    let compiler = Path::new(env!("CARGO")).with_file_name("rustc");
    let program = directory.join("look");
    let made = Command::new(compiler)
        .args([
            "--edition",
            "2024",
            "-C",
            "target-feature=+crt-static",
            "-C",
            "strip=symbols",
        ])
        .args(["-A", "dead_code", "-o"])
        .arg(&program)
        .arg(&source)
        .output();
    match made {
        Ok(made) if made.status.success() => program,
        Ok(made) => panic!("{}", String::from_utf8_lossy(&made.stderr)),
        Err(error) => skip(format!("needs a compiler: {error}")),
    }
}

/// Returns its view as an agent's task.
fn argosy_view(world: &mut RootFixture, program: &Path) -> Value {
    let mut spec = profiled(world, "");
    spec.resource_limits = LIMITS
        .map(|(name, _, most)| ResourceLimit::at_most(name, most))
        .into();
    fs::copy(program, spec.sandbox.join("look")).unwrap();
    spec.program = Program::Arguments(vec!["./look".into()]);
    output_of(world, &spec)
}

fn output_of(world: &mut RootFixture, spec: &LaunchSpec) -> Value {
    let exit = world.run(spec);
    assert_eq!(
        exit.outcome,
        CommandOutcome::Exited(0),
        "{} {}",
        exit.reason,
        stderr(spec)
    );
    serde_json::from_str(&stdout(spec)).unwrap()
}

/// Replaces what varies from host to host by the name of the source of the variation.
fn normalized(mut seen: Value) -> Value {
    normalize_namespaces(&mut seen["namespaces"]);
    let strings = |value: &Value| -> Vec<String> {
        let all = value.as_array().unwrap().iter();
        all.map(|each| each.as_str().unwrap().to_owned()).collect()
    };
    let mut mounts = strings(&seen["mounts"]);
    // Which files of /proc are masked depends on the kernel, which programs exist on the
    // distribution.
    mounts.retain(|line| !PROGRAMS.iter().any(|program| line.starts_with(program)));
    for line in &mut mounts {
        let words: Vec<_> = line.split(' ').collect();
        let virtual_ones = ["tmpfs", "proc", "devpts", "mqueue", "cgroup2"];
        if let [place, kind, rules] = words[..]
            && (!virtual_ones.contains(&kind) || place.starts_with("/dev/"))
        {
            let kind = if virtual_ones[2..].contains(&kind) || place == "/dev/shm" {
                kind
            } else {
                "of-the-host"
            };
            *line = format!("{place} {kind} {rules}");
        }
    }
    seen["mounts"] = json!(mounts);
    let limits = LIMITS.map(|(_, title, _)| (title.to_owned(), seen["limits"][title].clone()));
    seen["limits"] = Value::Object(limits.into_iter().collect());
    // Groups of cgroup v1, where they exist as well, do not belong to the runtime.
    let groups = seen["control_group"].as_str().unwrap().to_owned();
    let unified = groups.split(' ').find(|group| group.starts_with("0::"));
    seen["control_group"] = json!(unified);
    // Their number is that of the controllers.
    let files = strings(&seen["control_group_files"]);
    seen["control_group_files"] = json!(files.iter().any(|name| name == "cgroup.procs"));
    for target in seen["descriptors"].as_object_mut().unwrap().values_mut() {
        let plain = target
            .as_str()
            .unwrap()
            .split(":[")
            .next()
            .unwrap()
            .to_owned();
        *target = json!(plain);
    }
    let map = |text: &str| text.replace(&FIRST_HOST_ID.to_string(), "FIRST");
    for name in ["uid_map", "gid_map"] {
        seen[name] = json!(map(seen[name].as_str().unwrap()));
    }
    seen
}

/// Separate, or the host's.
fn normalize_namespaces(namespaces: &mut Value) {
    for (name, value) in namespaces.as_object_mut().unwrap() {
        let host = fs::read_link(format!("/proc/self/ns/{name}")).unwrap_or_default();
        let same = value.as_str() == host.to_str();
        *value = json!(if same { "the host's" } else { "its own" });
    }
}

fn recorded() {
    let mut world = RootFixture::new();
    let program = program(world.work());
    let seen = normalized(argosy_view(&mut world, &program));
    let text = format!("{seen:#}\n");
    if std::env::var_os("ARGOSY_BLESS").is_some() {
        fs::write(RECORD, &text).unwrap();
    }
    similar(&text, include_str!("seen.json"));
}

/// Fails with the lines that differ.
fn similar(seen: &str, record: &str) {
    if std::env::var_os("ARGOSY_BLESS").is_some() || seen == record {
        return;
    }
    let differences: Vec<String> = record
        .lines()
        .filter(|line| !seen.lines().any(|other| other == *line))
        .map(|line| format!("- {line}"))
        .chain(
            seen.lines()
                .filter(|line| !record.lines().any(|other| other == *line))
                .map(|line| format!("+ {line}")),
        )
        .collect();
    panic!(
        "the record is not what is seen:\n{}",
        differences.join("\n")
    );
}

/// Returns its view in the default container of another runtime.
fn theirs(directory: &Path, program: &Path, runtime: &str) -> Value {
    let bundle = directory.join(runtime);
    let root = bundle.join("root");
    fs::create_dir_all(&root).unwrap();
    fs::copy(program, root.join("look")).unwrap();
    let made = Command::new(runtime)
        .arg("spec")
        .current_dir(&bundle)
        .output();
    if !made.is_ok_and(|made| made.status.success()) {
        skip(format!("needs the package {runtime}"));
    }
    let file = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["process"]["args"] = json!(["/look"]);
    config["process"]["terminal"] = json!(false);
    config["root"] = json!({"path": root, "readonly": true});
    if let Some(linux) = config["linux"].as_object_mut() {
        linux.remove("resources");
    }
    fs::write(&file, config.to_string()).unwrap();
    let name = format!("argosy-test-{runtime}-{}", std::process::id());
    let mut command = Command::new(runtime);
    command.args(["run", "--bundle"]).arg(&bundle).arg(&name);
    let ended = command.output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr),
    );
    assert!(ended.status.success(), "{runtime}: {err}");
    serde_json::from_str(&out).unwrap()
}

/// Returns the rows of the table: a title, and the text about the view.
fn rows(seen: &Value) -> Vec<(&'static str, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let count = |value: &Value| value.as_array().map_or(0, Vec::len).to_string();
    let mut namespaces = seen["namespaces"].clone();
    normalize_namespaces(&mut namespaces);
    let shared = namespaces
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, whose)| *whose == "the host's");
    let shared: Vec<_> = shared
        .map(|(name, _)| name.trim_end_matches("_for_children"))
        .collect();
    let listed = |value: &Value| {
        let all: Vec<_> = value.as_array().unwrap().iter().map(text).collect();
        all.join(" ")
    };
    let open = seen["descriptors"]
        .as_object()
        .unwrap()
        .keys()
        .filter(|number| number.parse::<u32>().is_ok_and(|number| number > 2));
    let mut unique = shared.clone();
    unique.dedup();
    vec![
        ("Namespaces of the host", unique.join(" ")),
        (
            "User (real, effective, saved, of files)",
            text(&seen["user"]),
        ),
        ("User map", text(&seen["uid_map"])),
        ("Bounding set", text(&seen["capabilities"]["CapBnd"])),
        ("Effective set", text(&seen["capabilities"]["CapEff"])),
        ("no_new_privs", text(&seen["no_new_privileges"])),
        ("Filter of system calls (2: yes)", text(&seen["seccomp"])),
        (
            "Where it may write, two directories deep",
            listed(&seen["writable"]),
        ),
        ("Processes that it sees", count(&seen["processes"])),
        (
            "Devices",
            seen["devices"]
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect::<Vec<_>>()
                .join(" "),
        ),
        ("Descriptors above 2", open.count().to_string()),
        ("Open files", text(&seen["limits"]["Max open files"])),
        ("Processes", text(&seen["limits"]["Max processes"])),
        ("Core files", text(&seen["limits"]["Max core file size"])),
        ("oom_score_adj", text(&seen["oom_score_adj"])),
    ]
}

fn comparison() {
    if std::env::var_os("ARGOSY_COMPARE").is_none() {
        skip("prints a table next to crun and runc, and only if ARGOSY_COMPARE is set".to_owned());
    }
    let mut world = RootFixture::new();
    let directory = world.work().to_owned();
    let program = program(&directory);
    let mut columns = vec![rows(&argosy_view(&mut world, &program))];
    let others = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // crun refuses hosts with cgroups of both versions: both runtimes are shown only those
            // of v2.
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            let place = "/sys/fs/cgroup";
            let plain = MsFlags::empty();
            mount(Some("none"), place, Some("cgroup2"), plain, None::<&str>).unwrap();
            ["crun", "runc"].map(|runtime| rows(&theirs(&directory, &program, runtime)))
        });
        thread.join()
    });
    match others {
        Ok(others) => columns.extend(others),
        Err(cause) => std::panic::resume_unwind(cause),
    }
    println!("| | Argosy | crun | runc |\n|---|---|---|---|");
    for (at, (title, _)) in columns[0].iter().enumerate() {
        let cells: Vec<_> = columns.iter().map(|column| column[at].1.as_str()).collect();
        println!("| {title} | {} |", cells.join(" | "));
    }
}
