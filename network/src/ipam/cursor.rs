//! The cursor of the address allocation. The recorded cursor is a hint: the records of addresses
//! show which are free.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::PoisonError;

use argosy_host::claims;

use super::{Ipam, record_error, replace};
use crate::{NetworkError, Subnet};

/// The number of addresses that may be taken per record of the cursor: each record costs two
/// changes of a directory.
const AHEAD: u32 = 64;

/// The position at which an agent searches for the next free address.
#[derive(Debug, Clone, Copy)]
pub(super) struct AddressCursor {
    next: u32,
    /// The number of addresses left before the recorded cursor.
    remaining: u32,
}

impl Ipam {
    /// Takes a free address: the next in order, so that a released address is not reused soon.
    pub(crate) fn take_address(&self, subnet: Subnet) -> Result<Ipv4Addr, NetworkError> {
        let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = cursor.map_or_else(|| self.recorded_cursor(subnet), |cursor| cursor.next);
        for step in 0..subnet.capacity() {
            let number = begin.wrapping_add(step) % subnet.capacity();
            let address = subnet.address(number);
            let path = self.address(address);
            let claimed = claims::claim(&path, self.target(None));
            if claimed.map_err(record_error("make the link", &path))? {
                *cursor = Some(self.advance(*cursor, step + 1, number, subnet)?);
                return Ok(address);
            }
        }
        Err(NetworkError::Exhausted { subnet })
    }

    fn recorded_cursor(&self, subnet: Subnet) -> u32 {
        let recorded = fs::read_link(self.cursor_path()).ok();
        let recorded = recorded.and_then(|number| number.to_str()?.parse::<u32>().ok());
        recorded.unwrap_or_else(|| self.first_number(subnet))
    }

    /// Moves the cursor past this number. Records it once per [`AHEAD`] addresses: the next run of
    /// the agent skips those that were not taken.
    fn advance(
        &self,
        cursor: Option<AddressCursor>,
        steps: u32,
        taken: u32,
        subnet: Subnet,
    ) -> Result<AddressCursor, NetworkError> {
        let next = (taken + 1) % subnet.capacity();
        let left = cursor.and_then(|cursor| cursor.remaining.checked_sub(steps));
        if let Some(left) = left {
            return Ok(AddressCursor {
                next,
                remaining: left,
            });
        }
        let ahead = AHEAD.min(subnet.capacity() / 8);
        let recorded = (next + ahead) % subnet.capacity();
        replace(&self.cursor_path(), &recorded.to_string())?;
        Ok(AddressCursor {
            next,
            remaining: ahead,
        })
    }

    pub(super) fn cursor_path(&self) -> PathBuf {
        self.directory.join("cursors").join(self.tag())
    }
}
