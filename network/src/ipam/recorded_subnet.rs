//! The record of the subnet of an agent's addresses.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use argosy_host::ContainerId;

use super::{AddressRecord, Ipam, replace};
use crate::{NetworkError, Subnet};

impl Ipam {
    /// Records the subnet. Devices are named by the numbers of addresses in it, so it does not
    /// change while known containers have addresses.
    pub(super) fn record_subnet(
        &self,
        subnet: Subnet,
        known: &BTreeSet<ContainerId>,
    ) -> Result<(), NetworkError> {
        let path = self.subnet_path();
        // Releases before 0.2.0 did not record it.
        let former = fs::read_link(&path).ok();
        let former = former.and_then(|former| former.to_str()?.parse::<Subnet>().ok());
        let is_kept = |address| {
            let number = former.unwrap_or(subnet).number(address);
            number.is_some() && number == subnet.number(address)
        };
        for AddressRecord { address, container } in self.addresses()? {
            if let Some(container) = container.filter(|container| known.contains(container))
                && !is_kept(address)
            {
                return Err(NetworkError::SubnetChanged {
                    subnet,
                    container: container.to_string(),
                    address,
                });
            }
        }
        match former == Some(subnet) {
            true => Ok(()),
            false => replace(&path, &subnet.to_string()),
        }
    }

    pub(super) fn subnet_path(&self) -> PathBuf {
        self.directory.join("subnets").join(self.tag())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_subnet_does_not_change_while_containers_have_addresses() {
        let directory = tempfile::tempdir().unwrap();
        let records = Ipam::open(directory.path(), Path::new("/a")).unwrap();
        let id = ContainerId::new("c").unwrap();
        let subnet = |text: &str| text.parse::<Subnet>().unwrap();
        let (known, none) = (BTreeSet::from([id.clone()]), BTreeSet::new());
        records.register(subnet("10.183.0.0/24"), &none).unwrap();
        let address = "10.183.0.9".parse().unwrap();
        records.assign(address, &id).unwrap();
        // The same numbers of addresses.
        for fine in ["10.183.0.0/16", "10.183.0.0/24"] {
            records.register(subnet(fine), &known).unwrap();
        }
        for other in ["10.184.0.0/16", "10.0.0.0/8"] {
            let error = records
                .register(subnet(other), &known)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("container c has the address 10.183.0.9"),
                "{error}"
            );
        }
        records.register(subnet("10.0.0.0/8"), &none).unwrap();
        // Releases before 0.2.0 did not record it.
        fs::remove_file(records.subnet_path()).unwrap();
        records
            .register(subnet("10.184.0.0/16"), &known)
            .unwrap_err();
        records.register(subnet("10.183.0.0/24"), &known).unwrap();
        records.clear().unwrap();
        assert!(!records.subnet_path().is_symlink());
    }
}
