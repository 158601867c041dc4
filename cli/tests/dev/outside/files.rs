//! Attacks by a hostile file server: redirects, archives that lead out, bombs, false lengths.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::servers::{Archive, page, redirect, serve};
use super::{Attempt, against_a_host, at_once, attack, run, with_cluster};
use crate::cluster::DevCluster;

const ATTACKER: &str = "a hostile file server";
const MIB: usize = 1 << 20;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = Command::new("gzip")
        .arg("-9")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = gzip.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(bytes).unwrap());
        gzip.wait_with_output().unwrap().stdout
    })
}

/// Compressed once, because it is requested repeatedly.
fn bomb() -> &'static [u8] {
    static BOMB: OnceLock<Vec<u8>> = OnceLock::new();
    BOMB.get_or_init(|| {
        gzip(
            &Archive::default()
                .entry(b'0', "zeros", "", &vec![0; 64 * MIB])
                .end(),
        )
    })
}

fn archive(path: &str) -> Option<Vec<u8>> {
    let archive = Archive::default;
    Some(match path {
        "/honest.tar" => archive().file("a/file", "honest").end(),
        "/dots.tar" => archive().file("../planted", "x").end(),
        "/inner-dots.tar" => archive().file("a/../../planted", "x").end(),
        "/absolute.tar" => archive().file("/tmp/planted", "x").end(),
        "/link-out.tar" => archive().entry(b'2', "out", "/etc", b"").end(),
        "/link-up.tar" => archive().entry(b'2', "a/out", "../../../etc", b"").end(),
        "/through-link.tar" => archive()
            .entry(b'2', "b", "a", b"")
            .file("b/planted", "x")
            .end(),
        "/hard-link.tar" => archive().entry(b'1', "shadow", "etc/shadow", b"").end(),
        "/device.tar" => archive().entry(b'3', "null", "", b"").end(),
        "/block-device.tar" => archive().entry(b'4', "disk", "", b"").end(),
        "/pipe.tar" => archive().entry(b'6', "pipe", "", b"").end(),
        "/more.tar" => [
            archive().file("a", "x").end(),
            archive().file("b", "x").end(),
        ]
        .concat(),
        "/broken.tar" => archive().file("a", "x").end()[..700].to_vec(),
        "/noise.tar" => vec![0x5a; 4096],
        _ => return None,
    })
}

fn answer(path: &str) -> Vec<u8> {
    if let Some(bytes) = archive(path) {
        return page(&bytes);
    }
    match path {
        "/round" => redirect("/round"),
        "/to-mail" => redirect("mailto:root@localhost"),
        "/to-nothing" => redirect("http://[::1/"),
        "/bomb.tar.gz" => page(bomb()),
        "/short" => {
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\nshort".to_vec()
        }
        "/two-lengths" => {
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_vec()
        }
        "/endless" => b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n".to_vec(),
        "/long-head" => [
            b"HTTP/1.1 200 OK\r\nX: ".to_vec(),
            vec![b'x'; 2 * MIB],
            b"\r\n\r\n".to_vec(),
        ]
        .concat(),
        "/many-heads" => [
            b"HTTP/1.1 200 OK\r\n".to_vec(),
            b"X: y\r\n".repeat(10_000),
            b"\r\n".to_vec(),
        ]
        .concat(),
        "/no-http" => b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        _ => page(b"honest"),
    }
}

fn fetched(cluster: &DevCluster, port: u16, path: &str) -> Attempt {
    run(
        cluster,
        &[
            "--uri",
            &format!("got=http://127.0.0.1:{port}{path}"),
            "--",
            "cat",
            "got",
        ],
    )
}

fn extracted(cluster: &DevCluster, port: u16, path: &str) -> Attempt {
    let line = "find got -type f | sort";
    run(
        cluster,
        &[
            "--archive",
            &format!("got=http://127.0.0.1:{port}{path}"),
            "--",
            "sh",
            "-c",
            line,
        ],
    )
}

fn by_answers(cluster: &DevCluster, port: u16) {
    let cases = [
        ("redirects in a circle", "/round", "redirects too often"),
        (
            "a redirect to what is no server",
            "/to-mail",
            "redirects to neither http nor https",
        ),
        (
            "a redirect to what is no address",
            "/to-nothing",
            "redirects to an invalid URL",
        ),
        (
            "fewer bytes than were announced",
            "/short",
            "end of file before message length reached",
        ),
        // `content/src/fetcher/tests` test with a small limit that it holds.
        (
            "a length beyond any limit, of which nothing comes",
            "/endless",
            "end of file before message length reached",
        ),
        ("two lengths", "/two-lengths", "invalid content-length"),
        (
            "a header without an end",
            "/long-head",
            "message head is too large",
        ),
        (
            "too many headers",
            "/many-heads",
            "message head is too large",
        ),
        ("another protocol", "/no-http", "invalid HTTP version"),
    ];
    let tried = at_once(&cases, |(_, path, _)| fetched(cluster, port, path));
    for ((technique, _, because), tried) in cases.into_iter().zip(tried) {
        let control = fetched(cluster, port, "/honest");
        attack(ATTACKER, technique, because, tried, control);
    }
}

fn by_archives(cluster: &DevCluster, port: u16) {
    for (technique, path, because) in [
        ("an entry above the directory", "/dots.tar", "'..'"),
        (
            "an entry above the directory, by a detour",
            "/inner-dots.tar",
            "'..'",
        ),
        ("an entry at an absolute path", "/absolute.tar", "absolute"),
        ("a link out of the directory", "/link-out.tar", "lead out"),
        ("a link above the directory", "/link-up.tar", "lead out"),
        (
            "an entry through a link",
            "/through-link.tar",
            "links are not followed",
        ),
        (
            "a hard link to a file of the host",
            "/hard-link.tar",
            "hard link",
        ),
        ("a device", "/device.tar", "only files"),
        ("a disk", "/block-device.tar", "only files"),
        ("a pipe", "/pipe.tar", "only files"),
        (
            "a second archive behind the first",
            "/more.tar",
            "after its end",
        ),
        (
            "an archive that breaks off",
            "/broken.tar",
            "cannot extract",
        ),
        (
            "noise in place of an archive",
            "/noise.tar",
            "cannot extract",
        ),
        ("a bomb of zeros", "/bomb.tar.gz", "times its size"),
    ] {
        attack(
            ATTACKER,
            technique,
            because,
            extracted(cluster, port, path),
            extracted(cluster, port, "/honest.tar"),
        );
    }
}

#[test]
fn a_hostile_file_server_affects_only_the_task_that_uses_it() {
    against_a_host(|| {
        let server = serve(Box::new(answer));
        let flags = ["--fetch-allow", &server.to_string()];
        with_cluster(DevCluster::start(44, "1x1", &flags), |cluster| {
            by_answers(cluster, server.port());
            by_archives(cluster, server.port());
            for planted in ["/tmp/planted", "/planted"] {
                assert!(!std::path::Path::new(planted).exists(), "{planted}");
            }
        });
    });
}
