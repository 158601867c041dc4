//! Images that behave as the official nginx, postgres and redis ones: started as root, they assign
//! their data to a user and become that user. The commands are those that `docs/isolation.md`
//! names.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use argosy_testing::skip;
use serde_json::{Value, json};

use crate::cluster::{DevCluster, wait_for};
use crate::registry::{self, ImageRegistry};
use crate::web::{check_no_leftovers, on_a_host, page, port_of_examples};

/// The page that documents the commands of such images.
const ISOLATION: &str = include_str!("../../../docs/isolation.md");
const README: &str = include_str!("../../../README.md");

/// An image, and its similarity to the official one.
struct OfficialImage {
    /// Its name, and that of the layer with its programs.
    name: &'static str,
    /// The tag in the documented command.
    tag: &'static str,
    /// Name and number of its user.
    user: (&'static str, u32),
    /// Directories, and their owners.
    directories: &'static [(&'static str, u32, u32)],
    files: &'static [(&'static str, u32, &'static str)],
    links: &'static [(&'static str, &'static str)],
    config: fn() -> Value,
}

const NGINX: OfficialImage = OfficialImage {
    name: "nginx",
    tag: "1.27",
    user: ("nginx", 101),
    directories: &[
        ("tmp", 0o1777, 0),
        ("run", 0o755, 0),
        ("var", 0o755, 0),
        ("var/cache/nginx", 0o755, 0),
        ("var/log/nginx", 0o755, 0),
    ],
    files: &[
        (
            "docker-entrypoint.sh",
            0o755,
            "#!/bin/sh\nset -e\n\
             sed -i 's,listen  *80;,listen 80 backlog=64;,' /etc/nginx/conf.d/default.conf\n\
             exec \"$@\"\n",
        ),
        (
            "etc/nginx/nginx.conf",
            0o644,
            "user nginx;\nworker_processes auto;\nerror_log /var/log/nginx/error.log notice;\npid /run/nginx.pid;\n\
             events { worker_connections 1024; }\n\
             http {\n include /etc/nginx/mime.types;\n access_log /var/log/nginx/access.log;\n sendfile on;\n\
             client_body_temp_path /var/cache/nginx/client_temp;\n proxy_temp_path /var/cache/nginx/proxy_temp;\n\
             fastcgi_temp_path /var/cache/nginx/fastcgi_temp;\n uwsgi_temp_path /var/cache/nginx/uwsgi_temp;\n\
             scgi_temp_path /var/cache/nginx/scgi_temp;\n include /etc/nginx/conf.d/*.conf;\n}\n",
        ),
        (
            "etc/nginx/conf.d/default.conf",
            0o644,
            "server {\n listen 80;\n location / { root /usr/share/nginx/html; }\n}\n",
        ),
        (
            "usr/share/nginx/html/index.html",
            0o644,
            "Welcome to nginx!\n",
        ),
    ],
    links: &[
        ("var/run", "/run"),
        ("var/log/nginx/access.log", "/dev/stdout"),
        ("var/log/nginx/error.log", "/dev/stderr"),
    ],
    config: || {
        json!({
            "Entrypoint": ["/docker-entrypoint.sh"], "Cmd": ["nginx", "-g", "daemon off;"], "StopSignal": "SIGQUIT",
            "ExposedPorts": {"80/tcp": {}}, "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
        })
    },
};

const POSTGRES: OfficialImage = OfficialImage {
    name: "postgres",
    tag: "15",
    user: ("postgres", 999),
    directories: &[
        ("tmp", 0o1777, 0),
        ("run", 0o755, 0),
        ("run/postgresql", 0o3777, 999),
        ("var", 0o755, 0),
        ("var/lib/postgresql", 0o755, 999),
        ("var/lib/postgresql/data", 0o1777, 999),
    ],
    files: &[(
        "usr/bin/docker-entrypoint.sh",
        0o755,
        "#!/bin/bash\nset -Eeo pipefail\n\
         mkdir -p \"$PGDATA\"; chmod 00700 \"$PGDATA\" || :\n\
         mkdir -p /var/run/postgresql || :; chmod 03775 /var/run/postgresql || :\n\
         if [ \"$(id -u)\" = 0 ]; then\n\
         \tfind \"$PGDATA\" \\! -user postgres -exec chown postgres '{}' +\n\
         \tfind /var/run/postgresql \\! -user postgres -exec chown postgres '{}' +\n\
         \texec setpriv --reuid=postgres --regid=postgres --init-groups -- \"$BASH_SOURCE\" \"$@\"\n\
         fi\n\
         if [ ! -s \"$PGDATA/PG_VERSION\" ]; then\n\
         \tinitdb --username=postgres --pwfile=<(printf '%s\\n' \"$POSTGRES_PASSWORD\") --auth-host=scram-sha-256\n\
         \techo 'host all all all scram-sha-256' >> \"$PGDATA/pg_hba.conf\"\n\
         \tpg_ctl -D \"$PGDATA\" -o \"-c listen_addresses=''\" -w start\n\
         \tpsql -v ON_ERROR_STOP=1 --username postgres --no-password -c 'CREATE TABLE started (at int)'\n\
         \tpg_ctl -D \"$PGDATA\" -m fast -w stop\n\
         fi\n\
         exec \"$@\"\n",
    )],
    links: &[("var/run", "/run")],
    config: || {
        json!({
            "Entrypoint": ["docker-entrypoint.sh"], "Cmd": ["postgres", "-c", "listen_addresses=*"],
            "StopSignal": "SIGINT", "Volumes": {"/var/lib/postgresql/data": {}}, "ExposedPorts": {"5432/tcp": {}},
            "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/15/bin", "LANG=C.UTF-8",
                "PGDATA=/var/lib/postgresql/data"],
        })
    },
};

const REDIS: OfficialImage = OfficialImage {
    name: "redis",
    tag: "7",
    user: ("redis", 998),
    directories: &[("tmp", 0o1777, 0), ("run", 0o755, 0), ("data", 0o755, 998)],
    files: &[(
        "usr/bin/docker-entrypoint.sh",
        0o755,
        "#!/bin/sh\nset -e\n\
         if [ \"$1\" = 'redis-server' -a \"$(id -u)\" = '0' ]; then\n\
         \tfind . \\! -user redis -exec chown redis '{}' +\n\
         \texec setpriv --reuid=redis --regid=redis --clear-groups -- \"$0\" \"$@\"\n\
         fi\n\
         if [ \"$(umask)\" = '0022' ]; then umask 0077; fi\n\
         exec \"$@\"\n",
    )],
    links: &[],
    config: || {
        json!({
            "Entrypoint": ["docker-entrypoint.sh"], "Cmd": ["redis-server", "--protected-mode", "no"],
            "WorkingDir": "/data", "Volumes": {"/data": {}}, "ExposedPorts": {"6379/tcp": {}},
            "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
        })
    },
};

impl OfficialImage {
    /// Returns what its Dockerfile adds to the packages.
    fn layer(&self) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        let header = |kind, mode: u32, owner: u32, size: usize| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(size as u64);
            header.set_mode(mode);
            header.set_uid(owner.into());
            header.set_gid(owner.into());
            header.set_mtime(0);
            header
        };
        for (path, mode, owner) in self.directories {
            let mut header = header(tar::EntryType::Directory, *mode, *owner, 0);
            archive.append_data(&mut header, path, &[][..]).unwrap();
        }
        let (user, id) = self.user;
        let passwd =
            format!("root:x:0:0::/root:/bin/sh\n{user}:x:{id}:{id}::/nonexistent:/bin/sh\n");
        let group = format!("root:x:0:\n{user}:x:{id}:\n");
        let known = [
            ("etc/passwd", 0o644, passwd.as_str()),
            ("etc/group", 0o644, group.as_str()),
        ];
        for (path, mode, text) in self.files.iter().copied().chain(known) {
            let mut header = header(tar::EntryType::Regular, mode, 0, text.len());
            archive
                .append_data(&mut header, path, text.as_bytes())
                .unwrap();
        }
        for (path, target) in self.links {
            let mut header = header(tar::EntryType::Symlink, 0o777, 0, 0);
            archive.append_link(&mut header, path, target).unwrap();
        }
        archive.into_inner().unwrap()
    }

    /// Pushes it to a registry, and returns the documented command with its name there.
    fn command(&self, registry: &ImageRegistry, layers: &Path) -> Vec<String> {
        let programs = fs::read(layers.join(format!("{}.tar", self.name))).unwrap();
        let blobs = registry::image(vec![programs, self.layer()], &(self.config)());
        let pushed = registry.push(&format!("official/{}", self.name), &blobs);
        let official = format!("{}:{}", self.name, self.tag);
        let mut lines = ISOLATION
            .lines()
            .filter(|line| line.starts_with("argosy run"));
        let line = lines.find(|line| line.contains(&format!("--image {official} ")));
        let line = line
            .unwrap_or_else(|| panic!("docs/isolation.md does not state how {official} is run"));
        let words = line.split_whitespace().skip(1);
        let named = words.map(|word| if word == official { &pushed } else { word });
        named.map(ToOwned::to_owned).collect()
    }
}

/// The directory in which `scripts/setup` stores the layers with the programs.
#[allow(
    clippy::disallowed_methods,
    reason = "the cache of the build is named by the environment"
)]
fn layers() -> Option<PathBuf> {
    let cache = std::env::var_os("ARGOSY_CACHE")?;
    let directory = Path::new(&cache).join("official-images");
    directory.exists().then_some(directory)
}

/// A registry and a cluster whose agent is started with these flags.
struct ImageCluster {
    registry: ImageRegistry,
    layers: PathBuf,
    cluster: DevCluster,
    _directory: tempfile::TempDir,
}

impl ImageCluster {
    fn run(
        &self,
        image: &OfficialImage,
        change: impl FnOnce(&mut Vec<String>),
    ) -> (i32, String, String) {
        let mut words = image.command(&self.registry, &self.layers);
        change(&mut words);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        self.cluster.run(&words)
    }

    /// Runs an image as documented, and waits until it serves.
    fn serve(&self, image: &OfficialImage, serves: impl FnMut() -> bool) {
        let (code, _, stderr) = self.run(image, |_| ());
        assert_eq!(code, 0, "{stderr}");
        let mut serves = serves;
        wait_for(image.name, || {
            let (_, listed, _) = self.cluster.run(&["ps", "--all", "-o", "json"]);
            let (_, logged, _) = self.cluster.run(&["logs", "--stderr", image.name]);
            assert!(!listed.contains("FAILED"), "{listed}\n{logged}");
            serves()
        });
    }
}

fn with_image_cluster(
    number: u32,
    allowed: &'static [&'static str],
    body: impl FnOnce(&mut ImageCluster) + Send + 'static,
) {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    if !ImageRegistry::is_installed() {
        return skip("needs the package docker-registry");
    }
    let Some(layers) = layers() else {
        return skip("needs what scripts/official-images makes");
    };
    on_a_host(move || {
        let directory = tempfile::tempdir().unwrap();
        let resources = [
            "--agent-resources",
            "cpus:4;mem:2048;disk:8192;ports:[31000-32000]",
        ];
        let mut fixture = ImageCluster {
            registry: ImageRegistry::start(directory.path()),
            layers,
            cluster: DevCluster::start(
                number,
                "1x1",
                &[&resources[..], &registry::REGISTRY_FLAGS, allowed].concat(),
            ),
            _directory: directory,
        };
        body(&mut fixture);
        let (code, text) = fixture.cluster.stop();
        assert_eq!(code, 0, "{text}");
        check_no_leftovers();
    });
}

/// Returns whether a process of this name runs as this user of some container.
fn runs_as(name: &str, user: u32) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut statuses =
        processes.filter_map(|process| fs::read_to_string(process.path().join("status")).ok());
    statuses.any(|status| {
        let field = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|line| line.split_whitespace().next())
                .map(str::to_owned)
        };
        let uid: Option<u32> = field("Uid:").and_then(|uid| uid.parse().ok());
        field("Name:").as_deref() == Some(name)
            && uid.is_some_and(|uid| uid >= 65_536 && uid % 65_536 == user)
    })
}

fn redis(port: u16, order: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("10.99.99.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "{order}\r\nQUIT\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

const ALLOWED: &[&str] = &["--allow-capabilities", "SERVER"];

#[test]
fn an_image_like_nginx_serves_a_page_with_the_command_of_the_readme() {
    let documented = ISOLATION
        .lines()
        .find(|line| line.contains("--image nginx:1.27 "));
    assert!(
        README.lines().any(|line| Some(line) == documented),
        "README names another command"
    );
    let _port = port_of_examples();
    with_image_cluster(31, ALLOWED, |fixture| {
        fixture.serve(&NGINX, || {
            page(31080).as_deref() == Some("Welcome to nginx!\n")
        });
        assert!(
            runs_as("nginx", 0) && runs_as("nginx", 101),
            "a master and its workers"
        );
        wait_for("its log", || {
            fixture
                .cluster
                .run(&["logs", "nginx"])
                .1
                .contains("\"GET / HTTP/1.0\" 200")
        });
        let (code, _, stderr) = fixture.cluster.run(&["task", "kill", "nginx"]);
        assert_eq!(code, 0, "{stderr}");
        let (_, logged, _) = fixture.cluster.run(&["logs", "--stderr", "nginx"]);
        assert!(logged.contains("gracefully shutting down"), "{logged}");
        assert_eq!(page(31080), None);
    });
}

#[test]
fn an_image_like_postgres_answers_queries() {
    with_image_cluster(32, ALLOWED, |fixture| {
        let query = |text: &str| {
            let words = [
                "exec",
                "--user",
                "postgres",
                "postgres",
                "--",
                "psql",
                "-h",
                "/run/postgresql",
                "-tAc",
                text,
            ];
            fixture.cluster.run(&words)
        };
        let line = "LOG:  database system is ready to accept connections";
        // The first time it is ready only for its own entry point.
        fixture.serve(&POSTGRES, || {
            let (_, logged, _) = fixture.cluster.run(&["logs", "--stderr", "postgres"]);
            logged.matches(line).count() >= 1
                && TcpStream::connect("10.99.99.1:31432").is_ok()
                && query("SELECT 1").0 == 0
        });
        let (code, output, stderr) = query("INSERT INTO started VALUES (7) RETURNING at");
        assert_eq!((code, output.lines().next()), (0, Some("7")), "{stderr}");
        assert!(runs_as("postgres", 999) && !runs_as("postgres", 0));
        let (code, _, stderr) = fixture.cluster.run(&["task", "kill", "postgres"]);
        assert_eq!(code, 0, "{stderr}");
    });
}

#[test]
fn an_image_like_redis_stores_data() {
    with_image_cluster(33, ALLOWED, |fixture| {
        fixture.serve(&REDIS, || {
            redis(31379, "SET key kept").is_some_and(|text| text.starts_with("+OK"))
        });
        let output = redis(31379, "GET key").unwrap();
        assert!(output.contains("kept"), "{output}");
        assert!(runs_as("redis-server", 998) && !runs_as("redis-server", 0));
        let (code, _, stderr) = fixture.cluster.run(&["task", "kill", "redis"]);
        assert_eq!(code, 0, "{stderr}");
    });
}

/// Removes from the words what requests capabilities and what detaches.
fn without_options(words: &mut Vec<String>) {
    let at = words
        .iter()
        .position(|word| word == "--capability")
        .unwrap();
    words.drain(at..at + 2);
    // Ports that no other test publishes at the same time.
    let published = words.iter().position(|word| word == "--publish").unwrap();
    words[published + 1].replace_range(..3, "317");
    words.retain(|word| word != "--detach");
}

#[test]
fn an_official_image_without_options_fails_with_the_required_options() {
    with_image_cluster(34, ALLOWED, |fixture| {
        for image in [NGINX, POSTGRES, REDIS] {
            let (code, output, errors) = fixture.run(&image, without_options);
            assert_ne!(code, 0, "{}: {output} {errors}", image.name);
            assert!(
                errors.contains("--capability SERVER")
                    && errors.contains("--allow-capabilities SERVER"),
                "{}: {output} {errors}",
                image.name
            );
        }
    });
}

#[test]
fn the_option_set_for_official_images_is_named_if_no_agent_allows_it() {
    with_image_cluster(35, &[], |fixture| {
        let (code, _, errors) = fixture.run(&NGINX, |words| {
            without_options(words);
            let more = ["--capability", "SERVER", "--timeout", "3s"];
            words.extend(more.map(str::to_owned));
        });
        assert_eq!(code, 6, "{errors}");
        assert!(
            errors.contains("argosy agent start --allow-capabilities SERVER"),
            "{errors}"
        );
    });
}
