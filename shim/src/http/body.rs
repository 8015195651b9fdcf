//! Bodies: whole ones, chunks made on demand, streams; and reading a request's within its limit.

use crate::error::ApiError;
use bytes::{Bytes, BytesMut};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};

/// Every response's body.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A stream that broke: the connection ends with it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BodyError(pub String);

pub fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// Chunks as they are asked for: a long list is never whole in memory.
pub fn chunks(chunks: impl Iterator<Item = Bytes> + Send + 'static) -> Body {
    stream(futures::stream::iter(chunks))
}

pub fn stream(stream: impl futures::Stream<Item = Bytes> + Send + 'static) -> Body {
    use futures::StreamExt;
    StreamBody::new(stream.map(|bytes| Ok(Frame::data(bytes)))).boxed_unsync()
}

/// A request's body as it comes.
pub fn pass<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Display,
{
    body.map_err(|error| BodyError(error.to_string())).boxed_unsync()
}

/// Bytes over the limit that are still read.
const DRAINED: usize = 16 << 20;

/// The whole body, if it has at most `limit` bytes.
///
/// # Errors
/// 413 over the limit; 400 when the client stops in the middle.
pub async fn read<B>(body: B, limit: usize) -> Result<Bytes, ApiError>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Display,
{
    let too_large = || ApiError::TooLarge(format!("limit is {limit}"));
    let mut excess = 0;
    let mut body = Box::pin(body);
    let mut first: Option<Bytes> = None;
    let mut whole: Option<BytesMut> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| ApiError::BadRequest(format!("the request body could not be read: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let have = whole.as_ref().map_or(first.as_ref().map_or(0, Bytes::len), BytesMut::len);
        // The rest is read and dropped, within bounds: a client that is still sending would not see the answer.
        if excess > 0 || have + data.len() > limit {
            excess += data.len();
            whole = None;
            first = None;
            if excess > DRAINED {
                break;
            }
            continue;
        }
        match (&mut whole, first.take()) {
            (None, None) => first = Some(data),
            (None, Some(start)) => {
                let mut buffer = BytesMut::with_capacity(start.len() + data.len());
                buffer.extend_from_slice(&start);
                buffer.extend_from_slice(&data);
                whole = Some(buffer);
            }
            (Some(buffer), _) => buffer.extend_from_slice(&data),
        }
    }
    if excess > 0 {
        return Err(too_large());
    }
    Ok(whole.map(BytesMut::freeze).or(first).unwrap_or_default())
}
