//! A program that changes its user, on a cluster whose agents allow the necessary security options.

use crate::cluster::DevCluster;

const SERVE: &str =
    "touch mine && chown 33:34 mine && setpriv --reuid 33 --regid 34 --clear-groups id -u";

#[test]
fn a_program_that_changes_its_user_runs_with_allowed_capabilities() {
    if !nix::unistd::geteuid().is_root() {
        return argosy_testing::skip("needs root");
    }
    let allowed = ["--allow-capabilities", "CHOWN,SETUID,SETGID"];
    let mut cluster = DevCluster::start(14, "1x1", &allowed);
    let run = |more: &[&str]| {
        let words = [
            &["run", "-q", "--user", "root"],
            more,
            &["--", "sh", "-c", SERVE],
        ]
        .concat();
        cluster.run(&words)
    };
    let capabilities = ["--capability", "CHOWN,SETUID,SETGID"];
    let (code, output, errors) = run(&capabilities);
    assert_eq!((code, output.as_str()), (0, "33\n"), "{errors}");
    let (code, output, _) = run(&[]);
    assert_eq!((code, output.as_str()), (1, ""), "without them it cannot");
    let (code, _, errors) = run(&["--capability", "KILL", "--timeout", "3s"]);
    assert_eq!(code, 6, "{errors}");
    assert!(
        errors.contains("no agent allows capability KILL"),
        "{errors}"
    );
    assert!(errors.contains("--allow-capabilities KILL"), "{errors}");
    let (code, _, errors) = run(&["--capability", "SYS_ADMIN"]);
    assert_eq!(code, 2, "{errors}");
    let (_, agents, _) = cluster.run(&["agent", "list", "-o", "json"]);
    assert!(agents.contains("\"SETGID\""), "{agents}");
    assert_eq!(cluster.stop().0, 0);
}
