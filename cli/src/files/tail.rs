//! The offset of the last lines of a file. Pages are read from its end backwards, so that the cost
//! depends on these lines and not on the size of the file.

use super::busy::BusyWait;
use super::request::FileCall;
use super::{FileLocation, FileReader, ReadError};

/// Size of the first page in bytes. Each further page is twice as large, up to the last size, which
/// is the maximum of an answer.
const FIRST_PAGE: u64 = 64 * 1024;
const LAST_PAGE: u64 = 4 * 1024 * 1024;

/// The beginning of the last lines of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TailStart {
    pub(crate) offset: u64,
    /// Whether some of the requested lines exceed the limit, and are left out.
    pub(crate) is_cut: bool,
}

/// The part of a file that is searched: so many bytes before an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TailBounds {
    /// The file's end, if it has fewer bytes.
    pub(crate) end: u64,
    pub(crate) limit_bytes: u64,
}

/// A page, which may begin later than requested.
struct Page {
    begin: u64,
    bytes: Vec<u8>,
}

impl FileReader {
    /// Returns the offset at which the last lines begin. An incomplete line at the end counts as
    /// one. Bytes that are written in the meantime are not counted.
    pub(crate) async fn tail_offset(
        &mut self,
        location: &FileLocation,
        lines: u64,
    ) -> Result<u64, ReadError> {
        let whole = TailBounds {
            end: u64::MAX,
            limit_bytes: u64::MAX,
        };
        let found = self.tail_within(location, lines, whole).await;
        found.map(|start| start.offset)
    }

    /// Does the same for a part of the file.
    pub(crate) async fn tail_within(
        &mut self,
        location: &FileLocation,
        lines: u64,
        bounds: TailBounds,
    ) -> Result<TailStart, ReadError> {
        let (mut attempts, mut busy) = (self.attempts(), BusyWait::default());
        loop {
            match self.find_tail(location, lines, bounds).await {
                Err(ReadError::Busy { text, pause }) => {
                    let pause = busy.refused(&text, pause)?;
                    self.use_next_master_after(pause).await;
                }
                Err(ReadError::Broken(_)) if attempts > 1 => {
                    attempts -= 1;
                    self.use_next_master().await;
                }
                found => return found,
            }
        }
    }

    async fn find_tail(
        &self,
        location: &FileLocation,
        lines: u64,
        bounds: TailBounds,
    ) -> Result<TailStart, ReadError> {
        let found = |offset| TailStart {
            offset,
            is_cut: false,
        };
        // An answer without content has the first and the last offset.
        let extent = self
            .send(FileCall::Read, location, "&offset=0&length=0")
            .await?;
        let first = extent.offset().unwrap_or(0);
        let size = extent.size().unwrap_or(first).min(bounds.end);
        drop(extent);
        if lines == 0 {
            return Ok(found(size));
        }
        let limit = size.saturating_sub(bounds.limit_bytes);
        let (is_cut, first) = (limit > first, first.max(limit));
        let mut search = LineSearch::new(lines);
        let (mut end, mut length) = (size, FIRST_PAGE);
        while end > first {
            let begin = end.saturating_sub(length).max(first);
            let page = self.page(location, begin, end).await?;
            if let Some(at) = search.scan(&page.bytes) {
                return Ok(found(page.begin + at as u64));
            }
            if page.begin > begin {
                // The file was rotated: there are no earlier bytes any more.
                return Ok(found(page.begin));
            }
            end = begin;
            length = (length * 2).min(LAST_PAGE);
        }
        let is_cut = is_cut && size > first;
        Ok(TailStart {
            is_cut,
            ..found(first)
        })
    }

    async fn page(&self, location: &FileLocation, begin: u64, end: u64) -> Result<Page, ReadError> {
        let length = end - begin;
        let more = format!("&offset={begin}&length={length}");
        let mut answer = self.send(FileCall::Read, location, &more).await?;
        Ok(Page {
            begin: answer.offset().unwrap_or(begin),
            bytes: answer
                .body(usize::try_from(length).unwrap_or(usize::MAX))
                .await?,
        })
    }
}

/// The search for the beginning of the last lines, from the last page to the first.
struct LineSearch {
    /// The number of line ends before the beginning, at least one.
    left: u64,
    /// Whether the next page is the end of the file, whose last line end ends no line before.
    is_last_page: bool,
}

impl LineSearch {
    fn new(lines: u64) -> Self {
        Self {
            left: lines,
            is_last_page: true,
        }
    }

    /// Returns the position of the beginning, if it is in this page.
    fn scan(&mut self, page: &[u8]) -> Option<usize> {
        let bytes = match self.is_last_page {
            true => page.strip_suffix(b"\n").unwrap_or(page),
            false => page,
        };
        self.is_last_page &= page.is_empty();
        for (at, byte) in bytes.iter().enumerate().rev() {
            if *byte == b'\n' {
                self.left -= 1;
                if self.left == 0 {
                    return Some(at + 1);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Starts a master that serves the bytes of a file from `first` on. Returns its address, and
    /// the number of bytes that it has sent.
    async fn serve(
        size: u64,
        first: u64,
        byte: impl Fn(u64) -> u8 + Send + 'static,
    ) -> (String, Arc<Mutex<u64>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let sent = Arc::new(Mutex::new(0));
        let count = Arc::clone(&sent);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4_096];
                let read = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8(request[..read].to_vec()).unwrap();
                let number = |name: &str| {
                    let (_, rest) = request.split_once(name).unwrap();
                    let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap();
                    rest[..digits].parse::<u64>().unwrap()
                };
                let end = (number("&offset=") + number("&length=")).min(size);
                let begin = number("&offset=").max(first);
                let body: Vec<u8> = (begin..end).map(&byte).collect();
                *count.lock().unwrap() += body.len() as u64;
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nx-argosy-size: {size}\r\nx-argosy-offset: {begin}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                stream.write_all(head.as_bytes()).await.unwrap();
                stream.write_all(&body).await.unwrap();
            }
        });
        (address, sent)
    }

    fn location() -> FileLocation {
        FileLocation::of_task("agent-1", "framework-1", "web", "stdout")
    }

    async fn tail_of(address: &str, lines: u64) -> u64 {
        let mut files = FileReader::plaintext(vec![address.to_owned()]);
        files.tail_offset(&location(), lines).await.unwrap()
    }

    #[test]
    fn the_last_lines_are_found_over_several_pages() {
        let text = b"one\ntwo\n\nfour\nfive";
        for (lines, expected) in [(1, 14), (2, 9), (3, 8), (4, 4), (5, 0)] {
            for length in 1..=text.len() {
                let mut search = LineSearch::new(lines);
                let mut end = text.len();
                let mut found = None;
                while end > 0 && found.is_none() {
                    let begin = end.saturating_sub(length);
                    found = search.scan(&text[begin..end]).map(|at| begin + at);
                    end = begin;
                }
                assert_eq!(
                    found.unwrap_or(0),
                    expected,
                    "{lines} lines, pages of {length}"
                );
            }
        }
        assert_eq!(LineSearch::new(1).scan(b"one\ntwo\n"), Some(4));
        assert_eq!(LineSearch::new(2).scan(b"\n\n"), None);
    }

    #[tokio::test]
    async fn little_is_read_of_a_large_file() {
        let size = (100 << 20) + 50;
        // Lines of 100 bytes.
        let byte = |at: u64| if at % 100 == 99 { b'\n' } else { b'x' };
        let (address, sent) = serve(size, 0, byte).await;
        assert_eq!(tail_of(&address, 0).await, size);
        assert_eq!(*sent.lock().unwrap(), 0);
        // The size is no multiple of 100: the last line is incomplete.
        assert_eq!(tail_of(&address, 10).await, size / 100 * 100 - 900);
        assert_eq!(*sent.lock().unwrap(), FIRST_PAGE);
        assert_eq!(tail_of(&address, 1_000).await, size / 100 * 100 - 99_900);
        assert_eq!(*sent.lock().unwrap(), 4 * FIRST_PAGE);
    }

    #[tokio::test]
    async fn the_search_stays_within_its_bounds() {
        let byte = |at: u64| if at % 100 == 99 { b'\n' } else { b'x' };
        let (address, sent) = serve(10 << 20, 0, byte).await;
        let mut files = FileReader::plaintext(vec![address]);
        // More than the first page.
        for (lines, limit_bytes, offset, is_cut) in [
            (3, 1_000_000, 2_000_000 - 300, false),
            (9_000, 1_000_000, 2_000_000 - 900_000, false),
            (20_000, 1_000_000, 1_000_000, true),
            (30_000, u64::MAX, 0, false),
        ] {
            let end = 2_000_000;
            let bounds = TailBounds { end, limit_bytes };
            let found = files.tail_within(&location(), lines, bounds).await;
            assert_eq!(found.unwrap(), TailStart { offset, is_cut }, "{lines}");
            let read = std::mem::take(&mut *sent.lock().unwrap());
            assert!(read <= limit_bytes.min(end), "{lines}: {read}");
        }
    }

    #[tokio::test]
    async fn the_search_ends_at_the_first_byte_that_is_kept() {
        let (address, _) = serve(1 << 20, 1_000, |_| b'x').await;
        assert_eq!(tail_of(&address, 3).await, 1_000);
    }
}
