//! Pages as bytes: the common wire format of `AgentPage`, `FrameworkPage`, `TaskPage` and
//! `OfferPage`.
//!
//! Each has its records in field 1, so a page is assembled from encoded records of any type. A
//! follower forwards a page of the leader unchanged.

use std::marker::PhantomData;

use argosy_proto::v1;
use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic_prost::ProstCodec;

/// The field of every page that has its records.
const RECORDS: u32 = 1;

/// Records of a page, encoded as its field 1.
#[derive(Debug, Default)]
pub(super) struct EncodedRecords {
    pub(super) count: usize,
    pub(super) bytes: Vec<u8>,
}

impl EncodedRecords {
    pub(super) fn add(&mut self, record: &impl Message) {
        self.begin(record.encoded_len());
        record
            .encode(&mut self.bytes)
            .expect("a vector takes all bytes");
    }

    /// Adds a record of which some fields are already encoded and `rest` has the others: together
    /// they are one message.
    pub(super) fn add_with(&mut self, encoded: &[u8], rest: &impl Message) {
        self.begin(encoded.len() + rest.encoded_len());
        self.bytes.put_slice(encoded);
        rest.encode(&mut self.bytes)
            .expect("a vector takes all bytes");
    }

    fn begin(&mut self, length: usize) {
        self.count += 1;
        encode_key(RECORDS, WireType::LengthDelimited, &mut self.bytes);
        encode_varint(length as u64, &mut self.bytes);
    }

    pub(super) fn append(&mut self, other: &mut Self) {
        self.count += std::mem::take(&mut other.count);
        if self.bytes.is_empty() {
            self.bytes = std::mem::take(&mut other.bytes);
        } else {
            self.bytes.append(&mut other.bytes);
        }
    }

    /// Returns the page with these records and the other fields of `end`.
    pub(super) fn page(mut self, end: &impl Message) -> EncodedPage {
        end.encode(&mut self.bytes)
            .expect("a vector takes all bytes");
        EncodedPage(self.bytes.into())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EncodedPage(Bytes);

impl EncodedPage {
    pub(crate) fn encoded_len(&self) -> usize {
        self.0.len()
    }

    /// Decodes the page. Fails only if another master has sent an invalid one.
    pub(crate) fn decoded<T: Message + Default>(self) -> Result<T, Status> {
        let page = T::decode(self.0);
        page.map_err(|why| Status::internal(format!("a page of a list cannot be read: {why}")))
    }
}

/// Codec of a server that sends pages: a request in, a page out.
#[derive(Debug, Default)]
pub(crate) struct PageServerCodec;

/// Codec of a client that requests pages from the leader: a request out, a page in.
#[derive(Debug, Default)]
pub(crate) struct PageClientCodec;

/// Codec that passes bytes through unchanged.
#[derive(Debug)]
pub(crate) struct RawCodec(PhantomData<EncodedPage>);

type RequestCodec = ProstCodec<v1::ListRequest, v1::ListRequest>;

impl Codec for PageServerCodec {
    type Encode = EncodedPage;
    type Decode = v1::ListRequest;
    type Encoder = RawCodec;
    type Decoder = <RequestCodec as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        RawCodec(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        RequestCodec::default().decoder()
    }
}

impl Codec for PageClientCodec {
    type Encode = v1::ListRequest;
    type Decode = EncodedPage;
    type Encoder = <RequestCodec as Codec>::Encoder;
    type Decoder = RawCodec;

    fn encoder(&mut self) -> Self::Encoder {
        RequestCodec::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        RawCodec(PhantomData)
    }
}

impl Encoder for RawCodec {
    type Item = EncodedPage;
    type Error = Status;

    fn encode(&mut self, page: EncodedPage, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(page.0.len());
        buffer.put(page.0);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = EncodedPage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<EncodedPage>, Status> {
        let length = buffer.remaining();
        Ok(Some(EncodedPage(buffer.copy_to_bytes(length))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(name: &str) -> v1::Task {
        v1::Task {
            task_id: name.to_owned(),
            agent_address: "host:5051".to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn pages_of_all_kinds_have_their_records_in_the_same_field() {
        let revision = Some(v1::Revision {
            index: 7,
            position: 1,
        });
        macro_rules! same {
            ($page:ident, $field:ident, $record:expr) => {
                let record = $record;
                let mut records = EncodedRecords::default();
                records.add(&record);
                records.append(&mut EncodedRecords::default());
                let mut second = EncodedRecords::default();
                second.add(&record);
                records.append(&mut second);
                assert_eq!((records.count, second.count), (2, 0));
                let end = v1::$page {
                    next_page_token: "next".to_owned(),
                    revision,
                    ..Default::default()
                };
                let page: v1::$page = records.page(&end).decoded().unwrap();
                let $field = vec![record.clone(), record];
                assert_eq!(page, v1::$page { $field, ..end });
            };
        }
        same!(TaskPage, tasks, task("one"));
        same!(
            AgentPage,
            agents,
            v1::Agent {
                agent_id: "agent-1".to_owned(),
                ..Default::default()
            }
        );
        same!(
            FrameworkPage,
            frameworks,
            v1::Framework {
                framework_id: "framework-1".to_owned(),
                ..Default::default()
            }
        );
        same!(
            OfferPage,
            offers,
            v1::Offer {
                offer_id: "1.2".to_owned(),
                ..Default::default()
            }
        );
    }

    #[test]
    fn a_record_encoded_in_two_parts_decodes_as_one() {
        let without = v1::Task {
            agent_address: String::new(),
            ..task("one")
        };
        let rest = v1::Task {
            agent_address: "host:5051".to_owned(),
            ..Default::default()
        };
        let mut records = EncodedRecords::default();
        records.add_with(&without.encode_to_vec(), &rest);
        let page: v1::TaskPage = records.page(&v1::TaskPage::default()).decoded().unwrap();
        assert_eq!(page.tasks, [task("one")]);
    }
}
