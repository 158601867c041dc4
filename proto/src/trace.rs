//! Ids of requests. One id follows a request from its client through masters to agents, in the
//! header `traceparent` of [W3C Trace Context](https://www.w3.org/TR/trace-context/), and log lines
//! that concern the request have it.
//!
//! The id of the work in progress belongs to a thread: [`scope`] sets it while a future runs, and
//! [`within`] while a function runs. Tasks do not inherit it.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http::{HeaderMap, HeaderValue};
use tonic::metadata::{MetadataMap, MetadataValue};

/// The header, and the metadata of gRPC, that carries the id.
pub const HEADER: &str = "traceparent";
/// The header of replies that names the id of the request.
pub const REPLY_HEADER: &str = "argosy-trace-id";

/// The length of version 00 of the header.
const LENGTH: usize = 55;
/// The flag of a trace that is recorded.
const SAMPLED: u8 = 1;

/// The id of a request, and the caller's own number in its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    id: TraceId,
    parent: u64,
    flags: u8,
}

/// The id of a request: 128 bits, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TraceId(u128);

impl fmt::Display for TraceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

impl TraceContext {
    /// Returns the context of these random bits.
    #[must_use]
    pub fn new(random: [u64; 3]) -> Self {
        let [high, low, parent] = random;
        let id = (u128::from(high) << 64) | u128::from(low);
        Self {
            // Zero means that there is no id.
            id: TraceId(id.max(1)),
            parent: parent.max(1),
            flags: SAMPLED,
        }
    }

    /// Reads the value of a header. Returns `None` if it is malformed. Fields that a later version
    /// adds are ignored.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let head = text.get(..LENGTH)?;
        let mut fields = head.split('-');
        let mut field = |digits: usize| {
            let field = fields.next().filter(|field| field.len() == digits)?;
            let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            let is_hex = field.bytes().all(is_digit);
            is_hex.then(|| u128::from_str_radix(field, 16).ok())?
        };
        let (version, id, parent, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
        let is_complete = match version {
            0 => text.len() == LENGTH,
            0xff => false,
            _ => text.len() == LENGTH || text.as_bytes()[LENGTH] == b'-',
        };
        let (parent, flags) = (u64::try_from(parent).ok()?, u8::try_from(flags).ok()?);
        (is_complete && id != 0 && parent != 0).then_some(Self {
            id: TraceId(id),
            parent,
            flags: flags & SAMPLED,
        })
    }

    /// Reads the header of a request. Returns `None` if it is absent, malformed, or there more than
    /// once.
    #[must_use]
    pub fn of_headers(headers: &HeaderMap) -> Option<Self> {
        let mut named = headers.get_all(HEADER).iter();
        let first = named.next()?.to_str().ok()?;
        match named.next() {
            None => Self::parse(first),
            Some(_) => None,
        }
    }

    /// Returns the id of the request.
    #[must_use]
    pub fn id(self) -> TraceId {
        self.id
    }
}

impl fmt::Display for TraceContext {
    /// Writes version 00 of the header.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, parent, flags } = self;
        write!(formatter, "00-{id}-{parent:016x}-{flags:02x}")
    }
}

impl TraceId {
    /// Returns the number that its text shows.
    #[must_use]
    pub fn number(self) -> u128 {
        self.0
    }

    /// Returns the value of [`REPLY_HEADER`].
    #[must_use]
    pub fn header(self) -> HeaderValue {
        header(self)
    }
}

/// Returns a header. Its value never repeats, so it would only displace others from the tables of
/// a connection.
fn header(value: impl fmt::Display) -> HeaderValue {
    let value = HeaderValue::try_from(value.to_string());
    let mut value = value.expect("digits and hyphens are a value");
    value.set_sensitive(true);
    value
}

/// A source of new contexts: a different sequence for each seed.
#[derive(Debug)]
pub struct TraceIds {
    seed: u64,
    next: AtomicU64,
}

impl TraceIds {
    /// Creates the sequence of this seed, which should be random.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            next: AtomicU64::new(0),
        }
    }

    /// Returns the next context.
    #[must_use]
    pub fn next(&self) -> TraceContext {
        let number = self.next.fetch_add(3, Ordering::Relaxed);
        let random = |offset: u64| mix(self.seed.wrapping_add(number + offset));
        TraceContext::new([mix(self.seed ^ random(0)), random(1), random(2)])
    }
}

/// One step of `SplitMix64`.
fn mix(state: u64) -> u64 {
    let state = state.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

thread_local! {
    static CURRENT: Cell<Option<TraceContext>> = const { Cell::new(None) };
}

/// The context of a program that makes one request in its life.
static PROCESS: OnceLock<TraceContext> = OnceLock::new();
/// True once a request with that context was made.
static IS_SENT: AtomicBool = AtomicBool::new(false);

/// Returns the context of the work in progress.
#[must_use]
pub fn current() -> Option<TraceContext> {
    CURRENT.get().or_else(|| PROCESS.get().copied())
}

/// Runs a function with this context.
pub fn within<T>(context: Option<TraceContext>, run: impl FnOnce() -> T) -> T {
    /// Restores the former context, also after a panic.
    struct Former(Option<TraceContext>);
    impl Drop for Former {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _former = Former(CURRENT.replace(context));
    run()
}

/// Runs a future with this context.
pub async fn scope<F: Future>(context: Option<TraceContext>, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|task| within(context, || future.as_mut().poll(task))).await
}

/// Returns the function, which will run with the context of now, on another thread.
pub fn inherited<T>(run: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let context = current();
    move || within(context, run)
}

/// Sets the context of all requests of this process. Only the first call has an effect.
pub fn begin_process(context: TraceContext) {
    // Later ones are ignored.
    let _ = PROCESS.set(context);
}

/// Returns the id of the requests of this process, if [`begin_process`] has set it and one was
/// made.
#[must_use]
pub fn sent_by_process() -> Option<TraceId> {
    let is_sent = IS_SENT.load(Ordering::Relaxed);
    PROCESS.get().filter(|_| is_sent).map(|context| context.id)
}

/// Returns the header for a request that is sent now, if there is a context.
#[must_use]
pub fn request_header() -> Option<HeaderValue> {
    let context = current()?;
    IS_SENT.store(true, Ordering::Relaxed);
    Some(header(context))
}

/// Adds the current context to a call.
pub fn add_to_call(metadata: &mut MetadataMap) {
    let value = request_header().and_then(|value| {
        let mut value = MetadataValue::try_from(value.as_bytes()).ok()?;
        value.set_sensitive(true);
        Some(value)
    });
    if let Some(value) = value {
        metadata.insert(HEADER, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn headers_of_the_specification_are_read_and_written() {
        let context = TraceContext::parse(GIVEN).unwrap();
        assert_eq!(context.to_string(), GIVEN);
        assert_eq!(context.id().to_string(), &GIVEN[3..35]);
        // A later version may add fields.
        let later = GIVEN.replacen("00", "cc", 1);
        for text in [later.clone(), format!("{later}-what-comes-later")] {
            assert_eq!(TraceContext::parse(&text), Some(context), "{text}");
        }
    }

    #[test]
    fn malformed_headers_are_ignored() {
        let replaced = |from: &str, to: &str| GIVEN.replacen(from, to, 1);
        for text in [
            String::new(),
            "00".to_owned(),
            GIVEN.to_uppercase(),
            format!("{GIVEN}-more"),
            format!("{GIVEN} "),
            replaced("00-", "ff-"),
            replaced("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            replaced("b7ad6b7169203331", &"0".repeat(16)),
            replaced("0af7", "+af7"),
            replaced("-b7ad", "b7ad-"),
            replaced("0af765", "0äf76"),
            replaced("00-", "cc-") + ".",
        ] {
            assert_eq!(TraceContext::parse(&text), None, "{text}");
        }
        let mut headers = HeaderMap::new();
        assert_eq!(TraceContext::of_headers(&headers), None);
        headers.append(HEADER, HeaderValue::from_static(GIVEN));
        assert!(TraceContext::of_headers(&headers).is_some());
        headers.append(HEADER, HeaderValue::from_static(GIVEN));
        assert_eq!(TraceContext::of_headers(&headers), None);
    }

    #[test]
    fn new_ids_differ_and_are_valid() {
        let (one, other) = (TraceIds::new(1), TraceIds::new(2));
        let all: Vec<_> = (0..1_000)
            .flat_map(|_| [one.next(), other.next()])
            .collect();
        for context in &all {
            assert_eq!(TraceContext::parse(&context.to_string()), Some(*context));
        }
        let ids: std::collections::BTreeSet<_> = all.iter().map(|context| context.id()).collect();
        assert_eq!(ids.len(), all.len());
        assert!(TraceContext::parse(&TraceContext::new([0; 3]).to_string()).is_some());
    }

    #[tokio::test]
    async fn each_future_has_its_own_context() {
        let ids = TraceIds::new(7);
        let (one, other) = (ids.next(), ids.next());
        let seen = |context| {
            scope(Some(context), async {
                let mut seen = Vec::new();
                for _ in 0..3 {
                    seen.push(current().unwrap());
                    tokio::task::yield_now().await;
                }
                seen
            })
        };
        let (first, second) = tokio::join!(seen(one), seen(other));
        assert_eq!((first, second), (vec![one; 3], vec![other; 3]));
        assert_eq!(current(), None);
        within(Some(one), || {
            assert_eq!(within(Some(other), current), Some(other));
            assert_eq!(current(), Some(one));
            let mut metadata = MetadataMap::new();
            add_to_call(&mut metadata);
            assert_eq!(metadata.get(HEADER).unwrap(), &one.to_string());
        });
    }
}
