//! Tokens: proof that a master of this cluster made an offer, so that offers survive their leader.
//!
//! HMAC-SHA-256 over a canonical encoding that is independent of protobuf. The key protects
//! integrity and grants no authority: `apply` checks every offer again, with or without a token.

use argosy_state::command::{ClusterFacts, OfferTerms};
use argosy_state::resources::{ResourceIdentity, Resources, Value};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Length of a token in bytes.
pub const TOKEN_BYTES: usize = 32;

/// The name of the canonical layout; another layout gets another name.
const LAYOUT: &[u8] = b"argosy offer 1";

/// Returns the token of an offer with these terms, under the cluster's present key.
#[must_use]
pub fn sign(facts: &ClusterFacts, terms: &OfferTerms) -> [u8; TOKEN_BYTES] {
    let mac = seal(&facts.offer_key, &canonical(facts, terms));
    mac.finalize().into_bytes().into()
}

/// Returns whether `token` was made for exactly these terms, under the present key or the previous
/// one. The time does not depend on the position of a difference.
#[must_use]
pub fn verify(facts: &ClusterFacts, terms: &OfferTerms, token: &[u8]) -> bool {
    let bytes = canonical(facts, terms);
    let keys = std::iter::once(&facts.offer_key).chain(&facts.former_offer_key);
    keys.into_iter()
        .any(|key| seal(key, &bytes).verify_slice(token).is_ok())
}

fn seal(key: &[u8; 32], bytes: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(bytes);
    mac
}

/// Returns the canonical bytes of the terms of an offer and of its cluster. Numbers are big-endian,
/// and texts and lists follow their length: no two offers share their bytes.
fn canonical(facts: &ClusterFacts, terms: &OfferTerms) -> Vec<u8> {
    let mut out = TokenWriter(Vec::with_capacity(384));
    out.text(LAYOUT);
    out.0.extend(facts.id.0.to_be_bytes());
    out.number(terms.id.epoch.0);
    out.number(terms.id.serial);
    out.number(terms.framework.0);
    out.number(terms.session);
    out.number(terms.agent.0);
    out.text(terms.role.as_str().as_bytes());
    out.number(terms.offer_revision.index);
    out.number(u64::from(terms.offer_revision.position));
    out.number(terms.expires.0);
    out.resources(&terms.resources);
    out.0
}

struct TokenWriter(Vec<u8>);

impl TokenWriter {
    fn number(&mut self, number: u64) {
        self.0.extend(number.to_be_bytes());
    }

    fn length(&mut self, length: usize) {
        self.number(length as u64);
    }

    fn text(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.0.extend(bytes);
    }

    fn flag(&mut self, flag: bool) {
        self.0.push(u8::from(flag));
    }

    fn resources(&mut self, resources: &Resources) {
        self.length(resources.iter().len());
        for resource in resources {
            self.identity(&resource.identity);
            self.value(&resource.value);
        }
    }

    fn identity(&mut self, identity: &ResourceIdentity) {
        self.text(identity.name.as_bytes());
        self.length(identity.reservations.len());
        for reservation in &identity.reservations {
            self.text(reservation.role.as_str().as_bytes());
            self.text(reservation.principal.as_bytes());
            self.length(reservation.labels.len());
            for (name, value) in &reservation.labels {
                self.text(name.as_bytes());
                self.text(value.as_bytes());
            }
        }
        self.flag(identity.volume.is_some());
        if let Some(volume) = &identity.volume {
            self.text(volume.id.as_bytes());
            self.text(volume.container_path.as_bytes());
        }
        self.flag(identity.revocable);
        self.flag(identity.shared);
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Scalar(milli) => {
                self.0.push(0);
                self.0.extend(milli.to_be_bytes());
            }
            Value::Ranges(ranges) => {
                self.0.push(1);
                self.length(ranges.len());
                for range in ranges {
                    self.number(range.begin);
                    self.number(range.end);
                }
            }
            Value::Set(items) => {
                self.0.push(2);
                self.length(items.len());
                for item in items {
                    self.text(item.as_bytes());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use argosy_state::ids::{
        AgentId, ClusterId, Epoch, FrameworkId, OfferId, Revision, Role, Timestamp,
    };
    use argosy_state::resources::{Reservation, Resource, VolumeIdentity};

    use super::*;

    fn facts() -> ClusterFacts {
        ClusterFacts {
            id: ClusterId(0x0123_4567_89ab_cdef_0011_2233_4455_6677),
            offer_key: [7; 32],
            former_offer_key: None,
        }
    }

    fn terms() -> OfferTerms {
        let mut parts: Vec<Resource> = "cpus:3.5;mem:1024;ports:[31000-31009];zones:{a,b}"
            .parse::<Resources>()
            .unwrap()
            .iter()
            .cloned()
            .collect();
        let mut disk = "disk:10".parse::<Resources>().unwrap();
        let mut volume = disk.iter().next().unwrap().clone();
        disk = Resources::none();
        volume.identity.reservations.push(Reservation {
            role: Role::new("ops").unwrap(),
            principal: "alice".into(),
            labels: [("k".to_owned(), "v".to_owned())].into(),
        });
        volume.identity.volume = Some(Box::new(VolumeIdentity {
            id: "v1".into(),
            container_path: "data".into(),
        }));
        volume.identity.shared = true;
        disk.add(&volume).unwrap();
        parts.extend(disk.iter().cloned());
        OfferTerms {
            id: OfferId {
                epoch: Epoch(12),
                serial: 7,
            },
            framework: FrameworkId(3),
            session: 0xdead_beef,
            agent: AgentId(9),
            role: Role::new("ops").unwrap(),
            resources: Resources::collect(parts).unwrap(),
            offer_revision: Revision {
                index: 44,
                position: 2,
            },
            expires: Timestamp(60_000),
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn token_of_known_terms_never_changes() {
        // Both were made by a program in another language. Another value means that offers held
        // from the former release would be rejected.
        assert_eq!(hex(&canonical(&facts(), &terms())), GOLDEN_BYTES);
        assert_eq!(hex(&sign(&facts(), &terms())), GOLDEN_TOKEN);
    }

    const GOLDEN_BYTES: &str = "\
        000000000000000e6172676f7379206f6666657220310123456789abcdef0011223344556677000000000000000c0000\
        000000000007000000000000000300000000deadbeef000000000000000900000000000000036f707300000000000000\
        2c0000000000000002000000000000ea6000000000000000050000000000000004637075730000000000000000000000\
        000000000000000dac00000000000000046469736b000000000000000100000000000000036f70730000000000000005\
        616c696365000000000000000100000000000000016b0000000000000001760100000000000000027631000000000000\
        000464617461000100000000000000271000000000000000036d656d00000000000000000000000000000000000fa000\
        0000000000000005706f7274730000000000000000000000010000000000000001000000000000791800000000000079\
        2100000000000000057a6f6e657300000000000000000000000200000000000000020000000000000001610000000000\
        00000162";
    const GOLDEN_TOKEN: &str = "e421cf304acc4b945d235547a99427e8fb068f4fdd8a0cfbd029b9aacc6bf8ba";

    #[test]
    fn a_token_with_any_bit_flipped_is_refused() {
        let token = sign(&facts(), &terms());
        assert!(verify(&facts(), &terms(), &token));
        for bit in 0..TOKEN_BYTES * 8 {
            let mut forged = token;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(!verify(&facts(), &terms(), &forged), "bit {bit}");
        }
        assert!(!verify(&facts(), &terms(), &token[..31]));
        assert!(!verify(&facts(), &terms(), &[]));
    }

    #[test]
    fn token_verifies_only_its_own_terms() {
        let token = sign(&facts(), &terms());
        let changes: [fn(&mut OfferTerms); 11] = [
            |terms| terms.id.epoch.0 += 1,
            |terms| terms.id.serial += 1,
            |terms| terms.framework.0 += 1,
            |terms| terms.session += 1,
            |terms| terms.agent.0 += 1,
            |terms| terms.role = Role::default(),
            |terms| terms.offer_revision.index += 1,
            |terms| terms.offer_revision.position += 1,
            |terms| terms.expires.0 += 1,
            |terms| {
                terms.resources = terms
                    .resources
                    .plus(&"cpus:0.001".parse().unwrap())
                    .unwrap();
            },
            |terms| {
                let plain = terms.resources.iter().cloned().map(|mut resource| {
                    resource.identity.shared = false;
                    resource
                });
                terms.resources = Resources::collect(plain).unwrap();
            },
        ];
        for (at, change) in changes.into_iter().enumerate() {
            let mut other = terms();
            change(&mut other);
            assert_ne!(other, terms(), "change {at}");
            assert!(!verify(&facts(), &other, &token), "change {at}");
        }
        let mut elsewhere = facts();
        elsewhere.id.0 += 1;
        assert!(!verify(&elsewhere, &terms(), &token));
    }

    #[test]
    fn previous_key_is_accepted_older_ones_are_not() {
        let token = sign(&facts(), &terms());
        let rotated = ClusterFacts {
            offer_key: [8; 32],
            former_offer_key: Some([7; 32]),
            ..facts()
        };
        assert!(verify(&rotated, &terms(), &token));
        let again = ClusterFacts {
            offer_key: [9; 32],
            former_offer_key: Some([8; 32]),
            ..facts()
        };
        assert!(!verify(&again, &terms(), &token));
    }
}
