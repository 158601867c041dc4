//! A web server in a network that Debian's CNI plugins make.

use std::fs;
use std::path::Path;

use argosy_testing::skip;

use crate::cluster::{DevCluster, wait_for};
use crate::web::{BUSYBOX, on_a_host, page};

const PLUGINS: &str = "/usr/lib/cni";

/// Checks that the cluster reports these directories as opened.
fn is_reported(cluster: &DevCluster, config: &Path) {
    let opened = cluster.record["opened"].as_array().unwrap();
    for flag in [
        format!("--cni-config-dir {}", config.display()),
        format!("--cni-plugins {PLUGINS}"),
    ] {
        assert!(
            opened.iter().any(|word| *word == flag),
            "{flag}: {opened:?}"
        );
    }
}

#[test]
fn a_web_server_in_a_cni_network_is_reachable_at_its_published_port() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    if !Path::new(BUSYBOX).exists() {
        return skip("needs the package busybox-static");
    }
    if !Path::new(PLUGINS).join("portmap").exists() {
        return skip("needs the package containernetworking-plugins");
    }
    on_a_host(|| {
        let directory = tempfile::tempdir().unwrap();
        let leases = directory.path().join("leases");
        let text = format!(
            r#"{{"cniVersion": "1.0.0", "name": "blue", "plugins": [
                {{"type": "bridge", "bridge": "blue0", "isGateway": true, "ipam": {{
                  "type": "host-local", "dataDir": "{}", "ranges": [[{{"subnet": "10.98.0.0/24"}}]],
                  "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
                {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}"#,
            leases.display()
        );
        fs::write(directory.path().join("blue.conflist"), text).unwrap();
        let resources = ["--agent-resources", "cpus:2;mem:512;ports:[31000-31100]"];
        let variables = [
            (
                "ARGOSY_AGENT_CNI_CONFIG_DIR",
                directory.path().to_str().unwrap(),
            ),
            ("ARGOSY_AGENT_CNI_PLUGINS", PLUGINS),
        ];
        let mut cluster = DevCluster::start_with(33, "1x1", &resources, &variables);
        is_reported(&cluster, directory.path());
        let line = "echo plugged > index.html; exec busybox httpd -f -p 80";
        let words = ["run", "--detach", "--name", "web", "--network", "cni:blue"];
        let words = [&words[..], &["-p", "31083:80", "--", "sh", "-c", line]].concat();
        let (code, _, stderr) = cluster.run(&words);
        assert_eq!(code, 0, "{stderr}");
        wait_for("the page", || {
            let (_, listed, _) = cluster.run(&["ps", "--all", "-o", "json"]);
            assert!(!listed.contains("FAILED"), "{listed}");
            page(31083).as_deref() == Some("plugged\n")
        });
        let words = ["run", "--network", "cni:red", "--", "true"];
        let (code, _, stderr) = cluster.run(&words);
        assert_eq!(code, 125, "{stderr}");
        assert!(
            stderr.contains("no network \"red\"; it has blue"),
            "{stderr}"
        );
        assert_eq!(cluster.run(&["task", "kill", "web"]).0, 0);
        wait_for("the lease to end", || {
            let left = fs::read_dir(leases.join("blue")).unwrap().flatten();
            let mut left = left.map(|entry| entry.file_name());
            !left.any(|name| name.to_string_lossy().starts_with("10.98."))
        });
        assert_eq!(page(31083), None);
        let (code, text) = cluster.stop();
        assert_eq!(code, 0, "{text}");
    });
}
