//! A terminal of the container, whose master the agent holds.
//!
//! It comes from the container's devpts, so the command finds it under its path. A container cannot
//! substitute another file: the opened file is verified, and the slave is obtained from it without
//! a path.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde::{Deserialize, Serialize};

/// The paths of the terminal multiplexer. The first may be closed to all but root; the second leads
/// to the same devpts.
const MASTERS: [&str; 2] = ["/dev/pts/ptmx", "/dev/ptmx"];
/// The device number of a terminal's master, from the kernel's `admin-guide/devices.txt`.
const MASTER_DEVICE: (u32, u32) = (5, 2);

/// The size of a terminal's window, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    pub rows: u16,
    pub columns: u16,
}

/// The default size of a terminal.
pub const DEFAULT_SIZE: WindowSize = WindowSize {
    rows: 24,
    columns: 80,
};

impl WindowSize {
    /// Sets a terminal's size. Its foreground processes receive SIGWINCH.
    ///
    /// # Errors
    /// If it is not a terminal.
    pub fn set(self, terminal: impl AsFd) -> io::Result<()> {
        let size = Winsize {
            ws_row: self.rows,
            ws_col: self.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(tcsetwinsize(terminal, size)?)
    }
}

/// Creates a terminal; returns the agent's end and the command's end.
pub(crate) fn open_pair(size: WindowSize) -> io::Result<(OwnedFd, OwnedFd)> {
    let master = open_master()?;
    unlockpt(&master)?;
    let command_side = peer(&master)?;
    size.set(&master)?;
    Ok((master, command_side))
}

/// Opens the slave of a terminal by its master.
///
/// # Errors
/// If this is not the master of a terminal, or it is locked.
pub(crate) fn peer(master: &OwnedFd) -> io::Result<OwnedFd> {
    if !is_master(master.as_fd()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    Ok(ioctl_tiocgptpeer(master, flags)?)
}

fn open_master() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mut last = io::Error::other("there is no /dev/ptmx");
    for path in MASTERS {
        match open(path, flags, Mode::empty()) {
            Ok(master) if is_master(master.as_fd()) => return Ok(master),
            Ok(_) => last = io::Error::other(format!("{path} is another file")),
            Err(errno) => last = errno.into(),
        }
    }
    Err(last)
}

/// Whether this is the master of a terminal: the kernel's driver serves such a file, wherever its
/// node is.
pub(super) fn is_master(file: BorrowedFd<'_>) -> bool {
    let device = libc::makedev(MASTER_DEVICE.0, MASTER_DEVICE.1);
    fstat(file).is_ok_and(|found| {
        FileType::from_raw_mode(found.st_mode).is_char_device() && found.st_rdev == device
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn only_the_master_side_of_a_terminal_has_a_peer() {
        let (master, command_side) = open_pair(DEFAULT_SIZE).unwrap();
        let mut own = File::from(peer(&master).unwrap());
        let mut master = File::from(master);
        master.write_all(b"typed\n").unwrap();
        let mut typed = [0; 6];
        own.read_exact(&mut typed).unwrap();
        assert_eq!(&typed, b"typed\n");
        let null = OwnedFd::from(File::open("/dev/null").unwrap());
        let (pipe, _) = nix::unistd::pipe().unwrap();
        for other in [command_side, null, pipe] {
            let kind = peer(&other).map_err(|error| error.kind()).unwrap_err();
            assert_eq!(kind, io::ErrorKind::InvalidInput);
        }
    }
}
