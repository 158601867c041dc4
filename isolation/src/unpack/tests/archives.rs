//! Hand-made archives that no archiver would write.

use std::io::Write;

/// A tar file under construction.
#[derive(Default)]
pub(super) struct Tarball(Vec<u8>);

/// One entry. Names may be any bytes.
pub(super) struct TarEntry<'a> {
    pub(super) kind: u8,
    pub(super) path: &'a [u8],
    pub(super) link: &'a [u8],
    pub(super) mode: u32,
    pub(super) owner: (u64, u64),
    pub(super) body: &'a [u8],
}

/// Returns the user and group to which this test may give files without root.
pub(super) fn own() -> (u64, u64) {
    let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    (user.as_raw().into(), group.as_raw().into())
}

impl Tarball {
    pub(super) fn item(mut self, item: &TarEntry<'_>) -> Self {
        if item.path.len() > 100 || item.path.contains(&0) {
            self.add(b'L', b"././@LongLink", item.path);
        }
        if item.link.len() > 100 || item.link.contains(&0) {
            self.add(b'K', b"././@LongLink", item.link);
        }
        let mut header = Self::header(item.kind, item.path, item.body.len() as u64);
        header.set_mode(item.mode);
        header.set_uid(item.owner.0);
        header.set_gid(item.owner.1);
        let link = &item.link[..item.link.len().min(100)];
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        self.write(header, item.body)
    }

    pub(super) fn entry(self, kind: u8, path: &str, link: &str, body: &str) -> Self {
        let mode = if kind == b'5' { 0o755 } else { 0o644 };
        self.item(&TarEntry {
            kind,
            path: path.as_bytes(),
            link: link.as_bytes(),
            mode,
            owner: own(),
            body: body.as_bytes(),
        })
    }

    pub(super) fn file(self, path: &str, body: &str) -> Self {
        self.entry(b'0', path, "", body)
    }

    pub(super) fn directory(self, path: &str) -> Self {
        self.entry(b'5', path, "", "")
    }

    pub(super) fn link(self, path: &str, target: &str) -> Self {
        self.entry(b'2', path, target, "")
    }

    pub(super) fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(b'1', path, target, "")
    }

    /// Adds a POSIX header that describes the next entry.
    pub(super) fn pax(mut self, key: &str, value: &[u8]) -> Self {
        // The length counts its own digits.
        let bare = key.len() + value.len() + 3;
        let length = (bare + 1..).find(|length| *length == bare + length.to_string().len());
        let mut record = format!("{} {key}=", length.unwrap()).into_bytes();
        record.extend_from_slice(value);
        record.push(b'\n');
        self.add(b'x', b"pax", &record);
        self
    }

    /// Adds only the header of a file.
    pub(super) fn declared(self, path: &str, size: u64) -> Self {
        let header = Self::header(b'0', path.as_bytes(), size);
        self.write(header, b"")
    }

    /// Adds a file that is one hole.
    pub(super) fn hole(self, path: &str, size: u64) -> Self {
        let mut header = Self::header(b'S', path.as_bytes(), 0);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(size);
        gnu.sparse[0].set_offset(size);
        gnu.sparse[0].set_length(0);
        self.write(header, b"")
    }

    /// Adds one entry many times.
    pub(super) fn repeated(mut self, path: &str, times: usize) -> Self {
        let one = Self::default().file(path, "").0;
        self.0.extend(one.repeat(times));
        self
    }

    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }

    pub(super) fn without_end(self) -> Vec<u8> {
        self.0
    }

    fn header(kind: u8, path: &[u8], size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        let shown = &path[..path.len().min(100)];
        header.as_old_mut().name[..shown.len()].copy_from_slice(shown);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(1_000_000);
        let (user, group) = own();
        header.set_uid(user);
        header.set_gid(group);
        header
    }

    fn add(&mut self, kind: u8, path: &[u8], body: &[u8]) {
        let header = Self::header(kind, path, body.len() as u64);
        *self = std::mem::take(self).write(header, body);
    }

    fn write(mut self, mut header: tar::Header, body: &[u8]) -> Self {
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ::zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Returns a zip file of these names and contents; a link where the mode is that of one.
pub(super) fn zip(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut writer = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, mode, body) in files {
        let options = ::zip::write::SimpleFileOptions::default()
            .compression_method(::zip::CompressionMethod::Deflated)
            .unix_permissions(mode & 0o7777);
        if mode & libc::S_IFMT == libc::S_IFLNK {
            let target = std::str::from_utf8(body).unwrap();
            writer.add_symlink(*name, target, options).unwrap();
        } else {
            writer.start_file(*name, options).unwrap();
            writer.write_all(body).unwrap();
        }
    }
    writer.finish().unwrap().into_inner()
}
