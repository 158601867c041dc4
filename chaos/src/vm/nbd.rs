//! The network block device protocol, as far as QEMU uses it for one disk over a Unix socket.
//!
//! Fixed newstyle handshake, simple replies, one client, one request at a time. Source: the
//! protocol description of the NBD project (doc/proto.md).

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use super::disk::{Disk, SECTOR_BYTES, WriteMode};

const MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

/// Fixed newstyle, no zeroes after the export.
const HANDSHAKE_FLAGS: u16 = 0b11;
/// Has flags, flush, forced unit access.
const EXPORT_FLAGS: u16 = 0b1101;
const OPTION_ABORT: u32 = 2;
const OPTION_INFO: u32 = 6;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_UNSUPPORTED: u32 = (1 << 31) | 1;
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;
const LONGEST_OPTION: u32 = 4_096;
const LONGEST_REQUEST: u32 = 32 << 20;
const FORCED_UNIT_ACCESS: u16 = 1;

/// Serves the disk until the client disconnects, which is not an error.
///
/// # Errors
/// If the client violates the protocol.
pub(crate) fn serve(stream: UnixStream, disk: &Arc<Mutex<Disk>>) -> io::Result<()> {
    match serve_client(stream, disk) {
        Err(error) if is_gone(&error) => Ok(()),
        other => other,
    }
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

fn serve_client(mut stream: UnixStream, disk: &Arc<Mutex<Disk>>) -> io::Result<()> {
    let bytes = lock(disk).bytes();
    if !handshake(&mut stream, bytes)? {
        return Ok(());
    }
    let mut data = Vec::new();
    while let Some(request) = NbdRequest::read(&mut stream)? {
        data.resize(request.length as usize, 0);
        let done = request.perform(&mut stream, disk, &mut data)?;
        if lock(disk).is_machine_off() {
            // A host without power answers nothing, and no error either.
            return read_until_gone(&mut stream);
        }
        let mut reply = Vec::with_capacity(16 + data.len());
        reply.extend(REPLY_MAGIC.to_be_bytes());
        reply.extend(error_number(&done).to_be_bytes());
        reply.extend(request.cookie.to_be_bytes());
        if request.kind == NbdCommand::Read && done.is_ok() {
            reply.extend(&data);
        }
        stream.write_all(&reply)?;
    }
    Ok(())
}

/// Reads and ignores requests until the client is gone.
fn read_until_gone(stream: &mut UnixStream) -> io::Result<()> {
    io::copy(stream, &mut io::sink())?;
    Ok(())
}

fn lock(disk: &Arc<Mutex<Disk>>) -> std::sync::MutexGuard<'_, Disk> {
    disk.lock().expect("no holder of the lock panics")
}

/// Returns the error number of the protocol, which equals Linux's.
fn error_number(done: &io::Result<()>) -> u32 {
    match done {
        Ok(()) => 0,
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => 22,
        Err(_) => 5,
    }
}

/// Negotiates the export. Returns false if the client aborts.
fn handshake(stream: &mut UnixStream, bytes: u64) -> io::Result<bool> {
    stream.write_all(&MAGIC.to_be_bytes())?;
    stream.write_all(&OPTION_MAGIC.to_be_bytes())?;
    stream.write_all(&HANDSHAKE_FLAGS.to_be_bytes())?;
    read_u32(stream)?;
    loop {
        if read_u64(stream)? != OPTION_MAGIC {
            return Err(io::Error::other("no option of an NBD client"));
        }
        let option = read_u32(stream)?;
        let length = read_u32(stream)?;
        if length > LONGEST_OPTION {
            return Err(io::Error::other("an NBD option that is too long"));
        }
        let mut data = vec![0; length as usize];
        stream.read_exact(&mut data)?;
        match option {
            OPTION_GO | OPTION_INFO => {
                let mut export = INFO_EXPORT.to_be_bytes().to_vec();
                export.extend(bytes.to_be_bytes());
                export.extend(EXPORT_FLAGS.to_be_bytes());
                answer(stream, option, REPLY_INFO, &export)?;
                let mut sizes = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
                for size in [SECTOR_BYTES as u32, 4_096, LONGEST_REQUEST] {
                    sizes.extend(size.to_be_bytes());
                }
                answer(stream, option, REPLY_INFO, &sizes)?;
                answer(stream, option, REPLY_ACK, &[])?;
                if option == OPTION_GO {
                    return Ok(true);
                }
            }
            OPTION_ABORT => {
                answer(stream, option, REPLY_ACK, &[])?;
                return Ok(false);
            }
            _ => answer(stream, option, REPLY_UNSUPPORTED, &[])?,
        }
    }
}

fn answer(stream: &mut UnixStream, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let length = u32::try_from(data.len()).expect("responses are short");
    let mut reply = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    for number in [option, kind, length] {
        reply.extend(number.to_be_bytes());
    }
    reply.extend(data);
    stream.write_all(&reply)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NbdCommand {
    Read,
    Write,
    Flush,
    Disconnect,
    Unknown,
}

struct NbdRequest {
    flags: u16,
    kind: NbdCommand,
    cookie: u64,
    offset: u64,
    length: u32,
}

impl NbdRequest {
    /// Reads the next request; `None` if the client disconnects.
    fn read(stream: &mut UnixStream) -> io::Result<Option<Self>> {
        if read_u32(stream)? != REQUEST_MAGIC {
            return Err(io::Error::other("no request of an NBD client"));
        }
        let mut two = [0; 4];
        stream.read_exact(&mut two)?;
        let kind = match u16::from_be_bytes([two[2], two[3]]) {
            0 => NbdCommand::Read,
            1 => NbdCommand::Write,
            2 => NbdCommand::Disconnect,
            3 => NbdCommand::Flush,
            _ => NbdCommand::Unknown,
        };
        let request = Self {
            flags: u16::from_be_bytes([two[0], two[1]]),
            kind,
            cookie: read_u64(stream)?,
            offset: read_u64(stream)?,
            length: read_u32(stream)?,
        };
        if kind == NbdCommand::Disconnect {
            return Ok(None);
        }
        let carries = matches!(kind, NbdCommand::Read | NbdCommand::Write);
        if carries && request.length > LONGEST_REQUEST {
            return Err(io::Error::other("an NBD request that is too long"));
        }
        let length = if carries { request.length } else { 0 };
        Ok(Some(Self { length, ..request }))
    }

    /// Performs a request. The outer result is the client's connection, the inner one the disk's.
    fn perform(
        &self,
        stream: &mut UnixStream,
        disk: &Arc<Mutex<Disk>>,
        data: &mut [u8],
    ) -> io::Result<io::Result<()>> {
        Ok(match self.kind {
            NbdCommand::Read => lock(disk).read(self.offset, data),
            NbdCommand::Write => {
                stream.read_exact(data)?;
                let through = if self.flags & FORCED_UNIT_ACCESS != 0 {
                    WriteMode::WriteThrough
                } else {
                    WriteMode::WriteBack
                };
                lock(disk).write(self.offset, data, through)
            }
            NbdCommand::Flush => lock(disk).flush(),
            NbdCommand::Disconnect | NbdCommand::Unknown => Err(io::ErrorKind::InvalidInput.into()),
        })
    }
}

fn read_u32(stream: &mut UnixStream) -> io::Result<u32> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

fn read_u64(stream: &mut UnixStream) -> io::Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::disk::Flushes;
    use crate::vm::power_switch::PowerSwitch;

    struct NbdClient(UnixStream);

    impl NbdClient {
        fn connect(disk: &Arc<Mutex<Disk>>) -> Self {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let disk = disk.clone();
            std::thread::spawn(move || serve(theirs, &disk).unwrap());
            let mut client = Self(ours);
            assert_eq!(client.receive(18)[..8], *b"NBDMAGIC");
            client.send(&[&3_u32.to_be_bytes()]);
            // Structured replies, which are not offered; then the export.
            client.option(8, &[]);
            assert_eq!(client.receive(20)[12..16], REPLY_UNSUPPORTED.to_be_bytes());
            client.option(OPTION_GO, &[0; 6]);
            let export = client.receive(20 + 12);
            assert_eq!(export[22..30], 32_768_u64.to_be_bytes());
            client.receive(20 + 14);
            assert_eq!(client.receive(20)[12..16], REPLY_ACK.to_be_bytes());
            client
        }

        fn send(&mut self, parts: &[&[u8]]) {
            self.0.write_all(&parts.concat()).unwrap();
        }

        fn receive(&mut self, length: usize) -> Vec<u8> {
            let mut bytes = vec![0; length];
            self.0.read_exact(&mut bytes).unwrap();
            bytes
        }

        fn option(&mut self, option: u32, data: &[u8]) {
            let length = data.len() as u32;
            self.send(&[
                b"IHAVEOPT",
                &option.to_be_bytes(),
                &length.to_be_bytes(),
                data,
            ]);
        }

        fn request(&mut self, kind: u16, offset: u64, length: u32, data: &[u8]) -> u32 {
            self.send(&[
                &REQUEST_MAGIC.to_be_bytes(),
                &0_u16.to_be_bytes(),
                &kind.to_be_bytes(),
                &77_u64.to_be_bytes(),
                &offset.to_be_bytes(),
                &length.to_be_bytes(),
                data,
            ]);
            let reply = self.receive(16);
            assert_eq!(reply[8..], 77_u64.to_be_bytes());
            u32::from_be_bytes(reply[4..8].try_into().unwrap())
        }
    }

    #[test]
    fn a_client_reads_its_writes_and_receives_errors() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(32_768).unwrap();
        let disk = Disk::open(file.path(), Flushes::Honoured, Arc::default()).unwrap();
        let disk = Arc::new(Mutex::new(disk));
        let mut client = NbdClient::connect(&disk);
        assert_eq!(client.request(1, 512, 512, &[9; 512]), 0);
        assert_eq!(client.request(3, 0, 0, &[]), 0);
        assert_eq!(lock(&disk).counts.flushes, 1);
        assert_eq!(client.request(0, 512, 512, &[]), 0);
        assert_eq!(client.receive(512), [9; 512]);
        assert_eq!(client.request(0, 32_768, 512, &[]), 22, "behind the end");
        assert_eq!(client.request(9, 0, 512, &[]), 22, "an unknown request");
        let mut rng = crate::rng::Rng::new(1);
        let cut = super::super::disk::UnflushedLoss::Everything;
        lock(&disk).cut(cut, &mut rng).unwrap();
        assert_eq!(client.request(3, 0, 0, &[]), 5, "a flush without power");
        assert_eq!(client.request(0, 0, 512, &[]), 5);
        client.send(&[&REQUEST_MAGIC.to_be_bytes(), &[0, 0, 0, 2], &[0; 20]]);
        assert_eq!(client.0.read(&mut [0; 1]).unwrap(), 0, "a goodbye is taken");
    }

    #[test]
    fn a_machine_without_power_answers_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(32_768).unwrap();
        let switch = Arc::<PowerSwitch>::default();
        let disk = Disk::open(file.path(), Flushes::Honoured, Arc::clone(&switch)).unwrap();
        let disk = Arc::new(Mutex::new(disk));
        let mut client = NbdClient::connect(&disk);
        assert_eq!(client.request(1, 0, 512, &[1; 512]), 0);
        switch.cut_at_write(1);
        let header = |kind| [&REQUEST_MAGIC.to_be_bytes()[..], &[0, 0, 0, kind], &[0; 16]].concat();
        client.send(&[&header(1), &512_u32.to_be_bytes(), &[2; 512]]);
        client.send(&[&header(3), &[0; 4]]);
        client.0.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(client.0.read(&mut [0; 16]).unwrap(), 0, "no answer");
        assert_eq!(lock(&disk).counts.flushes, 0);
    }
}
