//! Explanations as agents report them.

use super::{Cause, Explanation};
use crate::limits;

/// An explanation in a report: its whole text, whose beginning the causes cover. Receivers that
/// know all causes keep these and the rest of the text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReportedText {
    /// The causes.
    pub causes: Vec<Cause>,
    /// The text of the causes, and the free text after it.
    pub text: String,
    /// The number of bytes of the free text.
    pub detail_bytes: u32,
}

impl ReportedText {
    /// Returns an explanation in a report. The text is truncated to the length that masters keep.
    #[must_use]
    pub fn of(explanation: Explanation) -> Self {
        let mut text = explanation.to_string();
        let begin = text.len().saturating_sub(explanation.detail.len());
        text.truncate(text.floor_char_boundary(limits::MESSAGE_BYTES.max(begin)));
        let detail_bytes = u32::try_from(text.len() - begin).unwrap_or(u32::MAX);
        Self {
            causes: explanation.causes,
            text,
            detail_bytes,
        }
    }

    /// Returns the causes, and the free text after them. If this release does not know one of the
    /// causes, or they do not fit the text, all of the text is free.
    #[must_use]
    pub fn explanation(self) -> Explanation {
        let Self {
            causes,
            text,
            detail_bytes,
        } = self;
        let is_good = causes.len() <= limits::CAUSES
            && causes
                .iter()
                .all(|cause| cause.is_known() && cause.is_bounded());
        let begin = text.len().checked_sub(detail_bytes as usize);
        let detail = begin.and_then(|begin| text.get(begin..));
        match detail {
            Some(detail) if is_good && !causes.is_empty() => Explanation {
                detail: detail.to_owned(),
                causes,
            },
            Some(_) | None => Explanation::from(text),
        }
    }
}
