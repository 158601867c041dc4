//! Tests of access rules: real servers on loopback, some of which the operator allows.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::symlink;

use argosy_network::Subnet;
use axum::response::Redirect;

use super::super::containers::ContainerAddresses;
use super::super::own_host::HostAddresses;
use super::super::reach::{AccessPolicy, RequestPurpose};
use super::*;

fn allowing(allow: &[&str]) -> FetchSettings {
    FetchSettings {
        allow: allow.iter().map(|text| text.parse().unwrap()).collect(),
        ..settings(1_000)
    }
}

fn of(settings: FetchSettings) -> Fetcher {
    let downloads = Arc::new(DownloadClient::new(&settings, without_tls).unwrap());
    let slots = FairSlots::new(4);
    Fetcher::new(settings, downloads, Arc::new(PlainTar), slots, None)
}

/// Starts a server of one page; returns its `host:port` and its number of requests.
async fn counting(router: Router) -> (String, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let router = router.route("/page", get(|| async { "text" }));
    let counted = router.layer(axum::middleware::from_fn(
        move |request: axum::extract::Request, next: axum::middleware::Next| {
            count.fetch_add(1, Ordering::SeqCst);
            next.run(request)
        },
    ));
    let base = serve(counted).await;
    (base.strip_prefix("http://").unwrap().to_owned(), asked)
}

/// Fetches as a task whose network is `none`.
async fn fetch_without_network(fetcher: &Fetcher, uri: v1::Uri) -> Result<(), String> {
    let sandbox = tempfile::tempdir().unwrap();
    let whose = FetchContext {
        reach: ServerAccess::None,
        ..FetchContext::default()
    };
    let (uris, meter) = ([uri], meter());
    let fetched = fetcher.fetch_all(&uris, sandbox.path(), whose, &meter);
    let fetched = fetched.await;
    fetched.map_err(|error| crate::error_chain(&error))
}

#[tokio::test]
async fn internal_addresses_are_not_contacted_in_any_notation() {
    let (server, asked) = counting(Router::new()).await;
    let port = server.rsplit_once(':').unwrap().1;
    let fetcher = of(allowing(&[]));
    for (host, what) in [
        ("127.0.0.1", "loopback"),
        ("127.1", "loopback"),
        ("2130706433", "loopback"),
        ("0x7f.0.0.1", "loopback"),
        ("localhost", "loopback"),
        ("LOCALHOST.", "loopback"),
        ("user:word@127.0.0.1", "loopback"),
        ("[::1]", "loopback"),
        ("[::ffff:127.0.0.1]", "loopback"),
        ("[::127.0.0.1]", "loopback"),
        ("[64:ff9b::127.0.0.1]", "loopback"),
        ("[2002:7f00:1::]", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("[::]", "unspecified"),
        ("169.254.169.254", "link-local"),
        ("169.254.1.1", "link-local"),
        ("[fe80::1]", "link-local"),
        ("[fd00:ec2::254]", "metadata"),
        ("168.63.129.16", "metadata"),
        ("100.100.100.200", "metadata"),
        ("224.0.0.1", "multicast"),
        ("255.255.255.255", "multicast"),
        ("[ff02::1]", "multicast"),
    ] {
        let value = format!("http://{host}:{port}/page");
        let (sandbox, result) = fetch(&fetcher, uri(value.clone())).await;
        let why = result.expect_err(&value);
        assert!(
            why.starts_with("cannot fetch ") && why.contains(what),
            "{host}: {why}"
        );
        assert!(why.contains("--fetch-allow "), "{host}: {why}");
        assert_eq!(fs::read_dir(sandbox.path()).unwrap().count(), 0);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    let whole = fetch(&fetcher, uri("http://169.254.169.254/latest/meta-data"));
    let why = whole.await.1.unwrap_err();
    let expected = "cannot fetch \"http://169.254.169.254/latest/meta-data\": 169.254.169.254, a link-local address, as \
                    those of metadata services are, from which tasks may not fetch; to allow it, start the agent with \
                    --fetch-allow 169.254.169.254:80";
    assert_eq!(why, expected);
}

#[tokio::test]
async fn only_allowed_internal_servers_are_contacted() {
    let (server, _) = counting(Router::new()).await;
    let address: SocketAddr = server.parse().unwrap();
    let (named, port) = (format!("localhost:{}", address.port()), address.port());
    let page = |host: &str| uri(format!("http://{host}:{port}/page"));
    for (allow, fetched, refused) in [
        (server.clone(), "127.0.0.1", "127.0.0.2"),
        ("127.0.0.1".to_owned(), "127.0.0.1", "127.0.0.2"),
        ("127.0.0.0/31".to_owned(), "127.0.0.1", "127.0.0.2"),
        ("127.0.0.0/8".to_owned(), "[::ffff:127.0.0.1]", "[::1]"),
        (named, "localhost", "127.0.0.1"),
    ] {
        let fetcher = of(allowing(&[&allow]));
        let (_sandbox, result) = fetch(&fetcher, page(fetched)).await;
        assert_eq!(result, Ok(()), "{allow}");
        let why = fetch(&fetcher, page(refused)).await.1.expect_err(&allow);
        assert!(why.contains("--fetch-allow"), "{allow}: {why}");
    }
    let other = of(allowing(&[&format!("127.0.0.1:{}", port ^ 1)]));
    fetch(&other, page("127.0.0.1")).await.1.unwrap_err();
}

#[tokio::test]
async fn redirects_have_the_same_address_rules_as_first_requests() {
    let (inner, asked) = counting(Router::new()).await;
    let target = format!("http://{inner}/page");
    let by_name = target.replace("127.0.0.1", "localhost");
    let to = |target: String| get(move || async move { Redirect::temporary(&target) });
    let router = Router::new()
        .route("/in", to(target))
        .route("/named", to(by_name))
        .route("/metadata", to("http://169.254.169.254/x".to_owned()))
        .route("/file", to("file:///etc/passwd".to_owned()))
        .route("/again", to("/again".to_owned()))
        .route("/own", to("/page".to_owned()));
    let (outer, _) = counting(router).await;
    let page = |path: &str| uri(format!("http://{outer}{path}"));
    let fetcher = of(allowing(&[&outer]));
    for (path, why) in [
        ("/in", "--fetch-allow"),
        ("/named", "localhost is "),
        ("/metadata", "169.254.169.254"),
        ("/file", "neither http nor https"),
        ("/again", "redirects too often"),
    ] {
        let output = fetch(&fetcher, page(path)).await.1.expect_err(path);
        assert!(output.contains(path) && output.contains(why), "{output}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    let (sandbox, result) = fetch(&fetcher, page("/own")).await;
    result.unwrap();
    let text = fs::read_to_string(sandbox.path().join("own")).unwrap();
    assert_eq!(text, "text");
    let both = of(allowing(&[&outer, &inner]));
    fetch(&both, page("/in")).await.1.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn masters_and_the_agents_api_are_not_contacted() {
    let fetcher = of(FetchSettings {
        masters: vec!["192.0.2.7:6000".to_owned(), "[2001:db8::7]:5050".to_owned()],
        api: "192.0.2.8:5051".to_owned(),
        ..allowing(&[])
    });
    for (server, what) in [
        ("192.0.2.7:5050", "a master"),
        ("192.0.2.7:5051", "a master"),
        ("192.0.2.7:5052", "a master"),
        ("192.0.2.7:6000", "a master"),
        ("[2001:db8::7]:5052", "a master"),
        ("192.0.2.8:5051", "the API of this agent"),
    ] {
        let why = fetch(&fetcher, uri(format!("http://{server}/v1/tasks"))).await;
        let why = why.1.expect_err(server);
        assert!(why.contains(what), "{why}");
        assert!(why.contains(&format!("--fetch-allow {server}")), "{why}");
    }
}

fn task_subnets() -> Option<TaskSubnets> {
    Some(TaskSubnets {
        ipv4: Subnet::DEFAULT,
        ipv6: Some("fd12:3456:789a::/64".parse().unwrap()),
    })
}

#[tokio::test]
async fn task_addresses_are_not_contacted_in_any_notation() {
    let to = |target: &'static str| get(move || async move { Redirect::temporary(target) });
    let router = Router::new().route("/to-a-task", to("http://10.183.0.5:8080/page"));
    let (outer, _) = counting(router).await;
    let fetcher = of(FetchSettings {
        task_subnets: task_subnets(),
        ..allowing(&[&outer])
    });
    for server in [
        "10.183.0.5:8080",
        "10.183.5:8080",
        "0x0ab70005:8080",
        "user:word@10.183.0.5:8080",
        "[::ffff:10.183.0.5]:8080",
        "[64:ff9b::10.183.0.5]:8080",
        "[2002:ab7:5::]:8080",
        "[fd12:3456:789a::ab7:5]:8080",
        &format!("{outer}/to-a-task#"),
    ] {
        let why = fetch(&fetcher, kept(format!("http://{server}/page"))).await;
        let why = why.1.expect_err(server);
        assert!(why.contains("an address of tasks of this host"), "{why}");
        assert!(why.contains("--fetch-allow "), "{why}");
    }
    // The same host answers where no task is.
    let (_sandbox, page) = fetch(&fetcher, uri(format!("http://{outer}/page"))).await;
    page.unwrap();
}

#[test]
fn an_allowed_server_may_be_a_task() {
    for (allow, is_allowed) in [
        ("10.183.0.5", true),
        ("10.183.0.0/16", true),
        ("10.183.0.5:8080", true),
        ("web.example:8080", true),
        ("10.183.0.6", false),
        ("10.183.0.5:8081", false),
        ("web.example:8081", false),
        ("other.example:8080", false),
    ] {
        let FetchSettings { allow: allowed, .. } = allowing(&[allow]);
        let policy = AccessPolicy {
            purpose: RequestPurpose::Files,
            allow: allowed,
            masters: Vec::new(),
            api: String::new(),
            api_port: None,
            containers: ContainerAddresses::open(task_subnets()).unwrap(),
            host: HostAddresses::open(true).unwrap(),
        };
        for server in ["10.183.0.5:8080", "[::ffff:10.183.0.5]:8080"] {
            let result = policy.check_peer("Web.example.", server.parse().unwrap());
            assert_eq!(result.is_ok(), is_allowed, "{allow}: {server}");
        }
    }
}

/// Returns the source addresses of this host for packets to elsewhere; none of a family without a
/// route.
fn own_addresses() -> Vec<IpAddr> {
    let ways = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];
    let from = |(from, to): (&str, &str)| {
        let socket = UdpSocket::bind(from)?;
        socket.connect(to)?;
        Ok::<_, std::io::Error>(socket.local_addr()?.ip())
    };
    let addresses = ways.into_iter().filter_map(|way| from(way).ok());
    let addresses: Vec<_> = addresses.filter(|address| !address.is_loopback()).collect();
    if addresses.is_empty() {
        argosy_testing::skip("needs a host with an address other than loopback");
    }
    addresses
}

/// Starts a server at each address of this host; returns its port and its number of requests.
async fn at_all_addresses() -> (u16, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let page = get(move || async move {
        count.fetch_add(1, Ordering::SeqCst);
        "text"
    });
    let listener = match TcpListener::bind("[::]:0").await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind("0.0.0.0:0").await.unwrap(),
    };
    let port = listener.local_addr().unwrap().port();
    let served = axum::serve(listener, Router::new().route("/page", page));
    tokio::spawn(async move { served.await.unwrap() });
    (port, asked)
}

#[tokio::test]
async fn ports_of_the_host_are_contacted_only_if_the_operator_lists_them() {
    let (port, asked) = at_all_addresses().await;
    for address in own_addresses() {
        let server = SocketAddr::new(address, port);
        let target = format!("http://{server}/page");
        let to = target.clone();
        let away = get(move || async move { Redirect::temporary(&to) });
        let (outer, _) = counting(Router::new().route("/away", away)).await;
        let mut forms = vec![target.clone(), format!("http://{outer}/away")];
        if let IpAddr::V4(address) = address {
            let number = address.to_bits();
            forms.extend([
                format!("http://[::ffff:{address}]:{port}/page"),
                format!("http://[64:ff9b::{address}]:{port}/page"),
                format!("http://{number}:{port}/page"),
            ]);
        }
        let fetcher = of(allowing(&[&outer]));
        for form in forms {
            let why = fetch(&fetcher, uri(form.clone())).await.1.expect_err(&form);
            assert!(why.contains("an address of the agent's host"), "{why}");
            assert!(why.contains("--fetch-allow "), "{why}");
        }
        assert_eq!(asked.swap(0, Ordering::SeqCst), 0);
        // The control: only the rule prevents the fetch.
        let open = of(allowing(&[&outer, &server.to_string()]));
        for form in [target, format!("http://{outer}/away")] {
            fetch(&open, uri(form)).await.1.unwrap();
        }
        assert_eq!(asked.swap(0, Ordering::SeqCst), 2);
    }
}

#[test]
fn published_ports_are_contacted_at_a_host_address() {
    let records = tempfile::tempdir().unwrap();
    fs::create_dir(records.path().join("ports")).unwrap();
    symlink("/a#c#10.183.0.5:80", records.path().join("ports/tcp-31090")).unwrap();
    let of = |has_ipv6: bool| AccessPolicy {
        purpose: RequestPurpose::Files,
        allow: Vec::new(),
        masters: Vec::new(),
        api: String::new(),
        api_port: None,
        containers: ContainerAddresses::open(None).unwrap(),
        host: HostAddresses::listed(has_ipv6, records.path()).unwrap(),
    };
    for address in own_addresses() {
        let may = |policy: &AccessPolicy, port: u16| {
            let server = SocketAddr::new(address, port);
            policy.check_peer("host.example", server).is_ok()
        };
        assert!(may(&of(true), 31_090), "{address}");
        assert!(!may(&of(true), 31_091), "{address}");
        // A port is published over IPv6 only if tasks have such addresses.
        assert_eq!(may(&of(false), 31_090), address.is_ipv4(), "{address}");
    }
}

#[tokio::test]
async fn a_task_without_network_fetches_only_from_allowed_servers() {
    let (server, asked) = counting(Router::new()).await;
    let page = || kept(format!("http://{server}/page"));
    let directory = tempfile::tempdir().unwrap();
    let cache = FetchCache::open(&directory.path().join("cache"), 250, &[]).unwrap();
    let fetcher = Fetcher {
        cache: Some(Arc::new(cache)),
        ..of(allowing(&[&server]))
    };
    fetch_without_network(&fetcher, page()).await.unwrap();
    let far = fetch_without_network(&fetcher, uri("https://files.invalid/page"));
    let why = far.await.unwrap_err();
    let expected = "cannot fetch \"https://files.invalid/page\": a task whose network is none fetches nothing by http or \
                    https; to allow it, start the agent with --fetch-allow files.invalid:443, or give the task another \
                    network";
    assert_eq!(why, expected);
    // Nor a cached file that another task has fetched.
    let (base, _, keeping) = caching(directory.path()).await;
    let kept = kept(format!("{base}/a"));
    fetch(&keeping, kept.clone()).await.1.unwrap();
    let elsewhere = of(allowing(&[&server]));
    let strict = Fetcher {
        cache: keeping.cache.clone(),
        ..elsewhere
    };
    let why = fetch_without_network(&strict, kept).await.unwrap_err();
    assert!(why.contains("network is none"), "{why}");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[test]
fn an_allow_rule_is_an_address_a_network_or_a_server() {
    for text in [
        "10.0.0.7",
        "10.0.0.0/8",
        "0.0.0.0/0",
        "fd00::/8",
        "::1",
        "[::1]:8080",
        "10.0.0.7:80",
        "Files.example:443",
    ] {
        text.parse::<FetchAllow>().expect(text);
    }
    for (text, why) in [
        ("", "is not an address"),
        ("files.example", "HOST:PORT"),
        ("files.example:0", "HOST:PORT"),
        ("files.example:70000", "HOST:PORT"),
        ("http://files.example:80", "HOST:PORT"),
        ("10.0.0.0/33", "10.0.0.0/8"),
        ("10.0.0.7/8", "write 10.0.0.0/8"),
        ("fd00::7/8", "write fd00::/8"),
        ("[::1]", "[fd00::7]:8080"),
        (":80", "HOST:PORT"),
    ] {
        let error = text.parse::<FetchAllow>().expect_err(text);
        assert!(error.contains(why), "{error}");
    }
}
