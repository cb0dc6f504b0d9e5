//! tarpc's messages as postcard, between tokio-serde and [`Frames`].
//!
//! The envelope of a request is our own, not tarpc's: a deadline off the wire is added to an `Instant` and put into a
//! timer wheel there, and both panic when it is absurd; and a trace context is sent only if there is one. It is that of the
//! commands: tarpc would name spans of its own, which nobody exports.

use std::io;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use postcard::ser_flavors::Flavor;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tarpc::{ClientMessage, Request, Response, context, trace};
use tokio_serde::{Deserializer, Framed, Serializer};

use crate::request::{RequestId, Trace};
use crate::rpc::answers::HeldFrame;
use crate::rpc::frames::{FRAME_BYTES_MAX, Frames, HEAD_BYTES};
use crate::rpc::wire::{NodeRequest, NodeResponse, TIMEOUT_MAX};

/// How much longer than the sender waits a handler may run before tarpc drops it: the answer of a service that runs
/// into its timeout shall still be sent.
const HANDLER_GRACE: Duration = Duration::from_secs(5);

/// The client's end of a connection.
pub type ClientTransport<S> = Framed<Frames<S>, Response<NodeResponse>, ClientMessage<NodeRequest>, Codec>;
/// The server's end of a connection.
pub type ServerTransport<S> = Framed<Frames<S>, ClientMessage<NodeRequest>, Response<NodeResponse>, Codec>;

pub fn client_transport<S>(frames: Frames<S>) -> ClientTransport<S> {
    Framed::new(frames.with_frame_bytes_max(FRAME_BYTES_MAX), Codec::default())
}

pub fn server_transport<S>(frames: Frames<S>) -> ServerTransport<S> {
    Framed::new(frames.with_frame_bytes_max(FRAME_BYTES_MAX), Codec::default())
}

/// What a frame from a client holds.
#[derive(Debug, Serialize, Deserialize)]
enum Envelope<M> {
    Request { id: u64, timeout_ms: u32, trace: Option<trace::Context>, message: M },
    Cancel { id: u64 },
}

#[derive(Debug, Default)]
pub struct Codec {
    /// Length of the frame before: the next one is likely about as long.
    last_bytes: usize,
}

impl Codec {
    fn encode<T: Serialize>(&mut self, value: &T) -> io::Result<Bytes> {
        let frame = postcard::serialize_with_flavor(value, FrameWriter::new(self.last_bytes)).map_err(invalid)?;
        self.last_bytes = frame.len();
        Ok(frame)
    }
}

fn decode<T: DeserializeOwned>(frame: &BytesMut) -> io::Result<T> {
    match postcard::take_from_bytes(frame).map_err(invalid)? {
        (value, []) => Ok(value),
        (_, _) => Err(io::Error::new(io::ErrorKind::InvalidData, "bytes are left over at the end of a frame")),
    }
}

fn invalid(error: postcard::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Serializer<ClientMessage<NodeRequest>> for Codec {
    type Error = io::Error;

    fn serialize(self: Pin<&mut Self>, message: &ClientMessage<NodeRequest>) -> io::Result<Bytes> {
        let envelope = match message {
            ClientMessage::Request(Request { context, id, message }) => {
                let timeout = context.deadline.saturating_duration_since(Instant::now());
                let trace = if let NodeRequest::Execute { commands, .. } = message { commands.trace } else { None };
                let trace = trace.map(trace_to_wire);
                Envelope::Request { id: *id, timeout_ms: as_millis(timeout), trace, message }
            }
            ClientMessage::Cancel { request_id, .. } => Envelope::Cancel { id: *request_id },
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        self.get_mut().encode(&envelope)
    }
}

impl Deserializer<ClientMessage<NodeRequest>> for Codec {
    type Error = io::Error;

    fn deserialize(self: Pin<&mut Self>, frame: &BytesMut) -> io::Result<ClientMessage<NodeRequest>> {
        Ok(match decode(frame)? {
            Envelope::Request { id, timeout_ms, trace, mut message } => {
                let timeout = Duration::from_millis(timeout_ms.into()).min(TIMEOUT_MAX) + HANDLER_GRACE;
                let mut context = context::current();
                context.deadline = Instant::now() + timeout;
                context.trace_context = trace.unwrap_or_default();
                if let NodeRequest::Execute { commands, .. } = &mut message {
                    commands.trace = trace.and_then(trace_from_wire);
                }
                ClientMessage::Request(Request { context, id, message })
            }
            Envelope::Cancel { id } => {
                ClientMessage::Cancel { trace_context: trace::Context::default(), request_id: id }
            }
        })
    }
}

impl Serializer<Response<NodeResponse>> for Codec {
    type Error = io::Error;

    fn serialize(self: Pin<&mut Self>, response: &Response<NodeResponse>) -> io::Result<Bytes> {
        let frame = self.get_mut().encode(response)?;
        let held = match &response.message {
            Ok(NodeResponse::Execute(answer) | NodeResponse::More(answer)) => answer.held.clone(),
            Ok(_) | Err(_) => None,
        };
        Ok(match held {
            Some(held) => Bytes::from_owner(HeldFrame { frame, held }),
            None => frame,
        })
    }
}

impl Deserializer<Response<NodeResponse>> for Codec {
    type Error = io::Error;

    fn deserialize(self: Pin<&mut Self>, frame: &BytesMut) -> io::Result<Response<NodeResponse>> {
        decode(frame)
    }
}

fn trace_to_wire(trace: Trace) -> trace::Context {
    let Trace { request, span, is_sampled } = trace;
    let sampling_decision =
        if is_sampled { trace::SamplingDecision::Sampled } else { trace::SamplingDecision::Unsampled };
    trace::Context { trace_id: request.to_wire().into(), span_id: span.into(), sampling_decision }
}

fn trace_from_wire(context: trace::Context) -> Option<Trace> {
    let request = RequestId::from_wire(context.trace_id.into())?;
    let is_sampled = context.sampling_decision == trace::SamplingDecision::Sampled;
    Some(Trace { request, span: context.span_id.into(), is_sampled })
}

/// Milliseconds as they are sent.
pub fn as_millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Collects a frame, head and all, and stops when it gets too long.
struct FrameWriter(Vec<u8>);

impl FrameWriter {
    fn new(likely_bytes: usize) -> Self {
        let mut frame = Vec::with_capacity((likely_bytes + likely_bytes / 8).clamp(256, 64 * 1024));
        frame.extend_from_slice(&[0; HEAD_BYTES]);
        Self(frame)
    }
}

impl Flavor for FrameWriter {
    type Output = Bytes;

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if self.0.len() + bytes.len() > HEAD_BYTES + FRAME_BYTES_MAX {
            return Err(postcard::Error::SerializeBufferFull);
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(mut self) -> postcard::Result<Bytes> {
        let len = self.0.len() - HEAD_BYTES;
        let head = self.0.first_chunk_mut::<HEAD_BYTES>().filter(|_| len <= FRAME_BYTES_MAX);
        *head.ok_or(postcard::Error::SerializeBufferFull)? = (len as u32).to_be_bytes();
        Ok(self.0.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::wire::Commands;

    #[test]
    fn frames_begin_with_their_length_and_end_at_the_limit() {
        let mut codec = Codec::default();
        assert_eq!(&codec.encode(&7u8).unwrap()[..], [0, 0, 0, 1, 7]);
        let fits = Bytes::from(vec![0; FRAME_BYTES_MAX - 4]);
        let frame = codec.encode(&fits).unwrap();
        assert_eq!(frame.len(), HEAD_BYTES + FRAME_BYTES_MAX);
        assert_eq!(frame[0], 0);
        assert!(codec.encode(&Bytes::from(vec![0; FRAME_BYTES_MAX])).is_err());
    }

    #[test]
    fn an_absurd_deadline_is_cut() {
        let envelope = Envelope::Request { id: 1, timeout_ms: u32::MAX, trace: None, message: NodeRequest::Status {} };
        let frame = BytesMut::from(&postcard::to_stdvec(&envelope).unwrap()[..]);
        let message: ClientMessage<NodeRequest> = Pin::new(&mut Codec::default()).deserialize(&frame).unwrap();
        let ClientMessage::Request(request) = message else { panic!("not a request") };
        assert!(request.context.deadline <= Instant::now() + TIMEOUT_MAX + HANDLER_GRACE);
    }

    #[test]
    fn commands_keep_their_place_in_the_trace() {
        let trace = RequestId::from_wire(7).map(|request| Trace { request, span: 8, is_sampled: true });
        let commands = Commands::of_parts(Vec::new(), trace);
        let message = NodeRequest::Execute { epoch: None, timeout_ms: 1, commands };
        // As tarpc changes it.
        let mut context = context::current();
        context.trace_context.span_id = 9.into();
        let mut codec = Codec::default();
        let sent = ClientMessage::Request(Request { context, id: 1, message });
        let frame = Pin::new(&mut codec).serialize(&sent).unwrap().split_off(HEAD_BYTES);
        let received: ClientMessage<NodeRequest> = Pin::new(&mut codec).deserialize(&BytesMut::from(frame)).unwrap();
        let ClientMessage::Request(Request { message: NodeRequest::Execute { commands, .. }, .. }) = received else {
            panic!("not a batch")
        };
        assert_eq!(commands.trace, trace);
    }

    #[test]
    fn bytes_left_over_are_an_error() {
        assert!(decode::<u8>(&BytesMut::from(&[1, 2][..])).is_err());
    }
}
