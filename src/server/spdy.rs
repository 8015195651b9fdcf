//! A SPDY/3.1 client, as much of it as the remote-command protocol needs: open streams, send and receive data.
//!
//! containerd's streaming server speaks SPDY/3.1 and WebSocket up to v4; half-closing stdin needs SPDY. There is no
//! flow control between Kubernetes' SPDY peers, and header blocks from the peer (SYN_REPLY) carry nothing that we
//! read, so only the sending side compresses. The zlib stream is written without the preset dictionary: RFC 1950 lets
//! the sender choose (FDICT), and Go's reader follows the flag.
//! Source: SPDY Protocol, Draft 3.1, section 2.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A larger frame from containerd's streaming server (32 KiB reads) means that the stream is out of step.
const MAX_FRAME_BYTES: usize = 1 << 20;

const FLAG_FIN: u8 = 0x01;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;

/// A stream's number; ours are odd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct StreamId(u32);

/// What the peer sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Data {
        stream: StreamId,
        data: Bytes,
        /// The peer will send no more on this stream.
        fin: bool,
    },
    /// The peer gave the stream up.
    Reset(StreamId),
    /// To be sent back as it is.
    Ping(u32),
    /// The peer accepts no new streams.
    GoAway,
    /// A reply, a setting, or a kind of frame that asks nothing of us.
    Other,
}

/// The sending half.
pub(super) struct SpdyWriter<W> {
    io: W,
    headers: Compress,
    next: u32,
}

impl<W: AsyncWrite + Unpin> SpdyWriter<W> {
    pub(super) fn new(io: W) -> Self {
        Self { io, headers: Compress::new(Compression::fast(), true), next: 1 }
    }

    /// Opens a stream with these headers (lower-case names).
    pub(super) async fn open(&mut self, headers: &[(&str, &str)]) -> io::Result<StreamId> {
        let stream = StreamId(self.next);
        self.next += 2;
        let block = self.compress(&header_block(headers))?;
        let mut frame = control_head(SYN_STREAM, 0, 10 + block.len());
        frame.put_u32(stream.0);
        frame.put_u32(0); // associated to no other stream
        frame.put_u16(0); // highest priority, no credential slot
        frame.extend_from_slice(&block);
        self.io.write_all(&frame).await?;
        self.io.flush().await?;
        Ok(stream)
    }

    /// Sends data; with `fin` it is the last of the stream.
    pub(super) async fn data(&mut self, stream: StreamId, data: &[u8], fin: bool) -> io::Result<()> {
        let mut frame = BytesMut::with_capacity(8 + data.len());
        frame.put_u32(stream.0);
        frame.put_u32(flags_and_length(if fin { FLAG_FIN } else { 0 }, data.len()));
        frame.extend_from_slice(data);
        self.io.write_all(&frame).await?;
        self.io.flush().await
    }

    /// Answers a ping.
    pub(super) async fn pong(&mut self, id: u32) -> io::Result<()> {
        let mut frame = control_head(PING, 0, 4);
        frame.put_u32(id);
        self.io.write_all(&frame).await?;
        self.io.flush().await
    }

    /// One zlib stream serves all header blocks of the connection, each ended by a sync flush.
    fn compress(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        // Deflate adds 5 bytes to each 16 KiB that does not shrink, and the flush and zlib header a few more.
        let mut out = Vec::with_capacity(block.len() + block.len() / 1024 + 64);
        let before = self.headers.total_in();
        self.headers.compress_vec(block, &mut out, FlushCompress::Sync).map_err(io::Error::other)?;
        if self.headers.total_in() - before != block.len() as u64 {
            return Err(io::Error::other("the SPDY header block did not fit its buffer"));
        }
        Ok(out)
    }
}

/// The receiving half.
pub(super) struct SpdyReader<R> {
    io: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> SpdyReader<R> {
    pub(super) fn new(io: R) -> Self {
        Self { io, buffer: BytesMut::with_capacity(16 * 1024) }
    }

    /// The next frame; `None` at the end of the connection. Cancel-safe: partial input stays in the buffer.
    pub(super) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = decode(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(4 * 1024);
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }
}

/// Takes one frame off the front of the buffer, when it is complete.
fn decode(buffer: &mut BytesMut) -> io::Result<Option<Frame>> {
    if buffer.len() < 8 {
        return Ok(None);
    }
    let first = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
    let flags = buffer[4];
    let length = u32::from_be_bytes([0, buffer[5], buffer[6], buffer[7]]) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a SPDY frame of {length} bytes")));
    }
    if buffer.len() < 8 + length {
        return Ok(None);
    }
    buffer.advance(8);
    let mut body = buffer.split_to(length).freeze();
    if first & 0x8000_0000 == 0 {
        return Ok(Some(Frame::Data { stream: StreamId(first), data: body, fin: flags & FLAG_FIN != 0 }));
    }
    let (version, kind) = ((first >> 16) & 0x7fff, (first & 0xffff) as u16);
    if version != 3 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("SPDY version {version}, wanted 3")));
    }
    let wanted = if matches!(kind, RST_STREAM | GOAWAY) { 8 } else { 4 };
    if matches!(kind, SYN_REPLY | RST_STREAM | PING | GOAWAY) && body.len() < wanted {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a SPDY control frame that is too short"));
    }
    Ok(Some(match kind {
        RST_STREAM => Frame::Reset(StreamId(body.get_u32() & 0x7fff_ffff)),
        PING => Frame::Ping(body.get_u32()),
        GOAWAY => Frame::GoAway,
        SYN_REPLY | SETTINGS => Frame::Other,
        _ => Frame::Other,
    }))
}

fn control_head(kind: u16, flags: u8, length: usize) -> BytesMut {
    let mut frame = BytesMut::with_capacity(8 + length);
    frame.put_u16(0x8003);
    frame.put_u16(kind);
    frame.put_u32(flags_and_length(flags, length));
    frame
}

/// The length is 24 bits wide; our frames are bounded by the 32 KiB that a WebSocket message carries.
fn flags_and_length(flags: u8, length: usize) -> u32 {
    (u32::from(flags) << 24) | (length as u32 & 0x00ff_ffff)
}

fn header_block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    block.put_u32(headers.len() as u32);
    for (name, value) in headers {
        block.put_u32(name.len() as u32);
        block.put_slice(name.as_bytes());
        block.put_u32(value.len() as u32);
        block.put_slice(value.as_bytes());
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Decompress, FlushDecompress};

    #[tokio::test]
    async fn header_blocks_share_one_zlib_stream() {
        let mut wire = Vec::new();
        let mut writer = SpdyWriter::new(&mut wire);
        assert_eq!(writer.open(&[("streamtype", "error")]).await.unwrap(), StreamId(1));
        assert_eq!(writer.open(&[("streamtype", "stdout")]).await.unwrap(), StreamId(3));
        let mut inflate = Decompress::new(true);
        let mut rest = &wire[..];
        for (id, kind) in [(1, "error"), (3, "stdout")] {
            assert_eq!(rest[..4], [0x80, 3, 0, 1]);
            let length = u32::from_be_bytes([0, rest[5], rest[6], rest[7]]) as usize;
            assert_eq!(rest[8..12], u32::to_be_bytes(id));
            let mut block = Vec::with_capacity(1024);
            inflate.decompress_vec(&rest[18..8 + length], &mut block, FlushDecompress::Sync).unwrap();
            assert_eq!(block, header_block(&[("streamtype", kind)]));
            rest = &rest[8 + length..];
        }
        assert!(rest.is_empty());
    }

    #[tokio::test]
    async fn frames_split_anywhere_are_read_whole() {
        let mut wire = Vec::new();
        let mut writer = SpdyWriter::new(&mut wire);
        writer.data(StreamId(5), b"hello", false).await.unwrap();
        writer.pong(7).await.unwrap();
        writer.data(StreamId(5), b"", true).await.unwrap();
        for cut in 0..wire.len() {
            let (a, b) = wire.split_at(cut);
            let mut reader = SpdyReader::new(AsyncReadExt::chain(a, b));
            let data = Frame::Data { stream: StreamId(5), data: Bytes::from_static(b"hello"), fin: false };
            assert_eq!(reader.next().await.unwrap(), Some(data));
            assert_eq!(reader.next().await.unwrap(), Some(Frame::Ping(7)));
            let fin = Frame::Data { stream: StreamId(5), data: Bytes::new(), fin: true };
            assert_eq!(reader.next().await.unwrap(), Some(fin));
            assert_eq!(reader.next().await.unwrap(), None);
        }
    }

    #[test]
    fn refuses_what_is_not_spdy_3() {
        for (wire, message) in [
            (&[0x80, 2, 0, 1, 0, 0, 0, 0][..], "SPDY version 2, wanted 3"),
            (&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff][..], "a SPDY frame of 16777215 bytes"),
            (&[0x80, 3, 0, 6, 0, 0, 0, 1, 0][..], "a SPDY control frame that is too short"),
        ] {
            assert_eq!(decode(&mut BytesMut::from(wire)).unwrap_err().to_string(), message);
        }
    }
}
