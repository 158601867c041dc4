//! Conversion of the name, ports and labels by which other programs find a task.

use argosy_state::task::{Discovery, DiscoveryPort};

use super::InvalidMessage;
use crate::v1;

/// Returns a discovery on the wire.
pub(super) fn discovery(discovery: &Discovery) -> v1::Discovery {
    let ports = discovery.ports.iter().map(|port| v1::DiscoveryPort {
        name: port.name.clone(),
        number: port.number.into(),
        udp: port.udp,
        labels: port.labels.clone().into_iter().collect(),
    });
    v1::Discovery {
        name: discovery.name.clone(),
        ports: ports.collect(),
        labels: discovery.labels.clone().into_iter().collect(),
    }
}

/// Reads a discovery. Whether its ports lead to the task is checked with the whole task.
///
/// # Errors
/// Names the port whose number is none.
pub(super) fn discovery_from(wire: v1::Discovery) -> Result<Discovery, InvalidMessage> {
    let ports = wire.ports.into_iter().enumerate();
    let ports = ports.map(|(at, port)| {
        let fits = u16::try_from(port.number).ok().filter(|number| *number > 0);
        let number = fits.ok_or_else(|| {
            let text = format!("{} is not a port: give 1 to 65535", port.number);
            InvalidMessage::new(format!("discovery.ports[{at}].number"), text)
        })?;
        Ok(DiscoveryPort {
            name: port.name,
            number,
            udp: port.udp,
            labels: port.labels.into_iter().collect(),
        })
    });
    Ok(Discovery {
        name: wire.name,
        ports: ports.collect::<Result<_, _>>()?,
        labels: wire.labels.into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(numbers: &[u32]) -> v1::Discovery {
        let ports = numbers.iter().map(|number| v1::DiscoveryPort {
            name: format!("port-{number}"),
            number: *number,
            udp: *number == 53,
            labels: [("path".to_owned(), "/stats".to_owned())].into(),
        });
        v1::Discovery {
            name: "web".to_owned(),
            ports: ports.collect(),
            labels: [("team".to_owned(), "blue\"".to_owned())].into(),
        }
    }

    #[test]
    fn a_discovery_round_trips() {
        for wire in [v1::Discovery::default(), ports(&[1, 53, 65_535])] {
            let read = discovery_from(wire.clone()).unwrap();
            assert_eq!(discovery(&read), wire);
        }
    }

    #[test]
    fn a_number_that_is_no_port_names_its_field() {
        for number in [0, 65_536, u32::MAX] {
            let refused = discovery_from(ports(&[80, number])).unwrap_err();
            assert_eq!(refused.field, "discovery.ports[1].number");
            assert!(refused.text.starts_with(&number.to_string()), "{refused}");
        }
    }
}
