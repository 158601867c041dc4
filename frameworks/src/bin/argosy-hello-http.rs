//! A small HTTP server for `argosy-steady`; see `argosy_frameworks::hello_http`.

use std::net::TcpListener;
use std::path::PathBuf;

use anyhow::Context;
use argosy_frameworks::hello_http::serve;
use argosy_frameworks::witness::Witness;
use clap::Parser;

/// Answer every HTTP request with the name of this task and process
#[derive(Parser)]
#[command(
    name = "argosy-hello-http",
    version,
    after_help = "Examples:\n  \
    argosy-hello-http --address 127.0.0.1 --port 8080\n  \
    argosy-steady --copies 3 --uri ./argosy-hello-http -- ./argosy-hello-http"
)]
struct Arguments {
    /// Address to listen on
    #[arg(long, env = "ARGOSY_ADDRESS", default_value = "127.0.0.1")]
    address: String,
    /// Port to listen on
    #[arg(long, env = "PORT0")]
    port: u16,
    /// Directory with the witness file, to which a line is appended at the start
    #[arg(long, value_name = "DIR")]
    witness: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let Arguments {
        address,
        port,
        witness,
    } = Arguments::parse();
    let me = Witness::take().context("cannot identify this process")?;
    if let Some(directory) = witness {
        me.append(&directory)
            .with_context(|| format!("cannot write to {}", directory.display()))?;
    }
    let listener = TcpListener::bind((address.as_str(), port))
        .with_context(|| format!("cannot listen on {address}:{port}"))?;
    println!("listening on {address}:{port}");
    serve(&listener, &me).context("the listener failed")
}
