//! The protocols inside of TLS, by their names in ALPN.
//!
//! A connection for one port is refused at another, also if an attacker redirects it.

/// The protocol of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Application {
    /// gRPC, or another use of HTTP/2.
    Http2,
    /// HTTP/1.1.
    Http1,
    /// Messages between masters.
    Raft,
}

/// The kind of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortKind {
    /// An API of a master or agent. Clients may have a certificate of their cluster, or none.
    Api,
    /// The same, for clients with a certificate only.
    ClosedApi,
    /// A Raft port. Only masters of the same cluster may use it.
    Raft,
}

impl Application {
    /// Returns the protocol name of ALPN.
    #[must_use]
    pub const fn name(self) -> &'static [u8] {
        match self {
            Self::Http2 => b"h2",
            Self::Http1 => b"http/1.1",
            Self::Raft => b"argosy-raft",
        }
    }
}

impl PortKind {
    /// Returns the protocols of the port, the preferred one first.
    #[must_use]
    pub const fn applications(self) -> &'static [Application] {
        match self {
            Self::Api | Self::ClosedApi => &[Application::Http2, Application::Http1],
            Self::Raft => &[Application::Raft],
        }
    }
}
