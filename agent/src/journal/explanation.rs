//! Encoding of explanations, for records that have them outside of updates.

use argosy_proto::convert::{explanation_from, to_wire_causes};
use argosy_proto::v1;
use argosy_state::task::Explanation;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StoredExplanation {
    #[prost(message, repeated, tag = "1")]
    pub(super) causes: Vec<v1::Cause>,
    #[prost(string, tag = "2")]
    pub(super) text: String,
    #[prost(uint32, tag = "3")]
    pub(super) detail_bytes: u32,
}

impl From<Explanation> for StoredExplanation {
    fn from(why: Explanation) -> Self {
        let (causes, text, detail_bytes) = to_wire_causes(why);
        Self {
            causes,
            text,
            detail_bytes,
        }
    }
}

impl From<StoredExplanation> for Explanation {
    fn from(stored: StoredExplanation) -> Self {
        explanation_from(stored.causes, stored.text, stored.detail_bytes)
    }
}
