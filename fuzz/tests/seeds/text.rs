//! Seeds that are texts, some with a first character that selects a variant.

/// A digest of 64 digits.
macro_rules! digits {
    () => {
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    };
}

/// The target and the text of each seed.
pub(super) const SEEDS: &[(&str, &str)] = &[
    (
        "access_policy",
        "# rules\ngroup ops = operator/bob operator/alice\nallow group:ops * *\ndeny operator/bob exec *\n",
    ),
    (
        "access_policy",
        "allow group:ops kill-task role:eng/%\nallow anonymous view-metrics *\ndeny everyone * host-path:/\n",
    ),
    (
        "accounts",
        "web:www\n---\nroot:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/srv:/bin/sh\n---\nwww:x:33:web,other\n",
    ),
    (
        "accounts",
        "1000\n---\nweb:x:1000:1000::/srv:/bin/sh\n---\nweb:x:1000:\nadm:x:4:web\n",
    ),
    (
        "broker_message",
        "q{\"RemoveSandboxes\":[\"/var/lib/argosy/sandboxes/framework-1/web/agent-1.2\"]}",
    ),
    (
        "broker_message",
        "q{\"Layer\":{\"Describe\":{\"draft\":\".draft-1\",\"json\":[1,2]}}}",
    ),
    (
        "broker_message",
        "q{\"Unpack\":{\"format\":\"tar_gzip\",\"rules\":{\"source\":\"layer\",\"bytes_max\":1,\"entries_max\":2,\"ratio_max\":3,\"depth_max\":4},\"target\":{\"Files\":{\"uid\":1,\"gid\":2}}}}",
    ),
    (
        "broker_message",
        "r{\"Gone\":{\"reason\":\"lost\",\"never_started\":true}}",
    ),
    (
        "broker_message",
        "r{\"Network\":{\"addresses\":[\"10.183.0.2\",\"fd00::2\"]}}",
    ),
    (
        "context_file",
        "{\"format\":1,\"current\":\"prod\",\"contexts\":{\"prod\":{\"masters\":[\"10.0.0.1:5050\",\"[::1]:7\"],\"tls-ca\":\"/etc/ca.crt\",\"tls-cert\":\"/a.crt\",\"tls-key\":\"/a.key\"}}}",
    ),
    (
        "context_file",
        "{\"format\":1,\"contexts\":{\"dev\":{\"masters\":[\"m1\"],\"tls-ca\":\"/ca\",\"token\":\"argosy_000000000000a1b2_5e5e5e5e5e5e\",\"dev\":\"/tmp/dev\"}}}",
    ),
    (
        "docker_credentials",
        "{\"auths\":{\"docker.io\":{\"auth\":\"aHViOmE=\"},\"registry.example:5000\":{\"auth\":\"bG9jYWw6Yg==\"}}}",
    ),
    (
        "docker_credentials",
        "{\"auths\":{\"docker.io\":{\"auth\":\"aHViOmE=\",\"email\":\"\"}},\"credsStore\":\"x\"}",
    ),
    ("exec_frames", "\u{0}ls\n"),
    ("exec_frames", "\u{3}{\"rows\":24,\"columns\":80}"),
    ("exec_frames", "\u{4}{\"signal\":15}"),
    ("exec_frames", "\u{6}{\"lost\":\"its agent was stopped\"}"),
    ("exec_frames", "\u{7}{\"stdout\":4096,\"stderr\":0}"),
    ("exec_frames", "\u{8}{\"bytes\":7}"),
    (
        "expectations",
        "# expected\nallowed operator/alice kill-task role:eng\ndenied framework/web use-host-path role:eng host-path:/etc\nallowed anonymous view-metrics *\n",
    ),
    ("file_path", "tasks/framework-1/web/logs/./today//stdout.1"),
    ("file_path", "tasks/framework-1"),
    ("flag_value", "00.5"),
    ("flag_value", "12.5"),
    ("flag_value", "21.5G"),
    ("flag_value", "3512MiB"),
    ("flag_value", "4cpus:1;mem:64;ports:[31000-31009]"),
    ("flag_value", "590s"),
    ("flag_value", "7500ms"),
    ("flag_value", "72026-11-27T09:00:00.125+01:00"),
    ("flag_value", "83x3"),
    ("flag_value", "98080"),
    ("flag_value", "a[::1]:5050"),
    ("flag_value", "b10.0.0.1:5052, m2"),
    ("flag_value", "c10.0.0.1:5051,[::1]:7"),
    ("flag_value", "dgpu0=/dev/dri/card0,/dev/dri/renderD128"),
    (
        "flag_value",
        concat!("ea.tar=https://host/a.tar#sha256=", digits!()),
    ),
    ("flag_value", "f/srv/data:data:ro"),
    ("flag_value", "g/tmp/cache:64M"),
    ("flag_value", "heng/db:/run/db"),
    ("flag_value", "iLANG=C"),
    ("flag_value", "j8080/health"),
    ("flag_value", "l8080/stats"),
    ("flag_value", "m80:8080/udp"),
    ("flag_value", "nyes"),
    ("flag_value", "oteam=a"),
    ("flag_value", "pTASK_STATE_RUNNING"),
    ("flag_value", "qregistered"),
    ("flag_value", "rweb:logs/sub"),
    (
        "forwarded_query",
        "fpath=tasks/framework-1/web/stdout.1&offset=3&follow=true",
    ),
    (
        "forwarded_query",
        "fpath=tasks%2Fframework-1%2Fweb&length=5&since_ms=-7&times=true",
    ),
    (
        "forwarded_query",
        "etask=framework-1/web&argument=sh&argument=-c&argument=date&tty=true&rows=24&columns=80&user=web&env=A%3Db&workdir=/srv",
    ),
    (
        "forwarded_query",
        "atask=framework-1/web&stdin=true&ticket=AQMAAA",
    ),
    (
        "group_file",
        "{\"group\":\"site\",\"tasks\":[{\"name\":\"web\",\"cpus\":0.5,\"mem\":\"64M\",\"env\":[\"A=b\"],\"command\":[\"sh\",\"-c\",\"date\"]},{\"name\":\"db\",\"tty\":true,\"command\":[\"cat\"]}]}",
    ),
    (
        "hand_off_file",
        "h{\"held\":{\"version\":1,\"container\":\"web-1\",\"nonce\":7,\"boot_id\":\"b\",\"supervisor\":{\"pid\":10,\"start_ticks\":20},\"init\":{\"pid\":11,\"start_ticks\":21},\"cgroup\":\"/sys/fs/cgroup/a\",\"missing\":{\"controllers\":[]},\"started_at_ms\":5}}",
    ),
    ("hand_off_file", "h\"void\""),
    (
        "hand_off_file",
        "e{\"outcome\":{\"exited\":7},\"reason\":\"exited with code 7\",\"stop\":null,\"out_of_memory\":false,\"usage\":{\"cpu_ms\":1,\"peak_memory_bytes\":2},\"finished_at_ms\":9}",
    ),
    (
        "hand_off_file",
        "o{\"version\":1,\"stdout\":{\"parts\":[{\"file\":{\"inode\":5,\"born_ns\":6},\"begin\":0}],\"end\":100},\"stderr\":{\"parts\":[],\"end\":0}}",
    ),
    ("hand_off_file", "sHTTP/1.1 200 OK\r\n"),
    ("headers", "0operator/alice"),
    ("headers", concat!("1key:", digits!())),
    ("headers", "1token:000000000000a1b2"),
    (
        "headers",
        "t00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ),
    ("headers", "v1-2"),
    ("headers", "hm1.example."),
    ("headers", "iargosy://prod/agent/host-1"),
    ("headers", "cprod-1.eu"),
    ("http_query", "\u{0}consistency=local&min_revision=7"),
    (
        "http_query",
        "\u{1}state=running&page_size=10&page_token=framework-1/web&include_ended=true",
    ),
    (
        "http_query",
        "\u{2}mode=AGENT_MODE_REGISTERED&consistency=LINEARIZABLE",
    ),
    ("http_query", "\u{3}wanted=cpus:1;mem:64"),
    (
        "http_query",
        "\u{4}from=7.2&kinds=task,agent&snapshot=false&framework_id=framework-1",
    ),
    (
        "image_configuration",
        concat!(
            "{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{\"Entrypoint\":[\"/run\"],\"Cmd\":[\"-v\"],\"Env\":[\"PATH=/bin\",\"A=b\"],\"WorkingDir\":\"srv\",\"User\":\"web:www\",\"StopSignal\":\"SIGRTMIN+3\"},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:",
            digits!(),
            "\"]}}"
        ),
    ),
    (
        "image_manifest",
        concat!(
            "{\"schemaVersion\":2,\"config\":{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"sha256:",
            digits!(),
            "\",\"size\":2},\"layers\":[{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\",\"digest\":\"sha256:",
            digits!(),
            "\",\"size\":5}]}\n---\n{\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:",
            digits!(),
            "\"]}}"
        ),
    ),
    (
        "image_manifest",
        concat!(
            "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"sha256:",
            digits!(),
            "\",\"size\":7,\"platform\":{\"os\":\"linux\",\"architecture\":\"amd64\",\"variant\":\"v1\"}}]}"
        ),
    ),
    (
        "json_messages",
        "a{\"requestId\":\"r1\",\"operations\":[{\"setWeight\":{\"role\":\"eng\",\"weightMilli\":\"2000\"}},{\"killTask\":{\"frameworkId\":\"framework-1\",\"taskId\":\"web\"}}]}",
    ),
    ("json_messages", "b{\"targets\":[{\"taskId\":\"web\"}]}"),
    ("json_messages", "c{}"),
    ("json_messages", "d{}"),
    (
        "json_messages",
        "e{\"frameworkId\":\"framework-1\",\"taskId\":\"web\",\"state\":\"TASK_STATE_RUNNING\",\"spec\":{\"taskId\":\"web\",\"shell\":\"date\",\"resources\":[{\"name\":\"cpus\",\"scalarMilli\":\"500\"}]}}",
    ),
    (
        "json_messages",
        "f{\"agentId\":\"agent-1\",\"mode\":\"AGENT_MODE_REGISTERED\",\"connected\":true}",
    ),
    ("json_messages", "h{}"),
    (
        "json_messages",
        "i{\"leader\":\"master-1\",\"appliedIndex\":\"7\"}",
    ),
    ("names", "aagent-7"),
    ("names", "bframework-1"),
    ("names", "d12.7"),
    ("names", "e0123456789abcdef0011223344556677"),
    ("names", "foperator/alice"),
    ("names", "hgroup:framework:web"),
    ("names", "iallow group:ops kill-task role:eng/%"),
    ("names", "k000000000000a1b2"),
    ("names", concat!("l", digits!())),
    ("names", "meng/db/password"),
    ("names", concat!("targosy_000000000000a1b2_", digits!())),
    (
        "networks",
        "c{\"cniVersion\":\"1.0.0\",\"name\":\"blue\",\"plugins\":[{\"type\":\"bridge\",\"mtu\":1400},{\"type\":\"portmap\",\"capabilities\":{\"portMappings\":true}}]}\n---\n{\"ips\":[{\"address\":\"10.1.0.2/24\"},{\"address\":\"fd00::2/64\"}]}",
    ),
    (
        "networks",
        "r{\"version\":1,\"list\":{\"name\":\"blue\",\"version\":\"1.1.0\",\"plugins\":[{\"type\":\"bridge\"}]},\"ports\":[{\"name\":\"http\",\"protocol\":\"tcp\",\"host_port\":80,\"container_port\":8080}],\"result\":null}",
    ),
    ("networks", "410.183.0.0/16"),
    ("networks", "6fd12:3456:789a::/64"),
    ("redacted_uri", "path?token=abc#part"),
    ("redacted_uri", "a/https://other:word@host"),
    (
        "registry_texts",
        concat!("rlocalhost:5000/team/web:1.27@sha256:", digits!()),
    ),
    ("registry_texts", "rnginx"),
    ("registry_texts", "roci-archive:/srv/image.tar:v1"),
    ("registry_texts", concat!("dsha256:", digits!())),
    (
        "registry_texts",
        "cBasic realm=\"x\"\nBearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\"",
    ),
    (
        "resources",
        "cpus:3.5;mem:1024;ports:[31000-31009,32000-32000];zones:{a,b}",
    ),
    (
        "scrubbed_line",
        "password=hunter2 url=https://a:b@c/d?e=f\n---\nend file:///x y",
    ),
    (
        "scrubbed_line",
        "2026-11-27 INFO, token: abc\n---\nhttps://host/?next=https://u:p@other",
    ),
    (
        "secret_keys",
        concat!(
            "# keys\nnew:",
            digits!(),
            "\nold:0000000000000000000000000000000000000000000000000000000000000001\n"
        ),
    ),
];
