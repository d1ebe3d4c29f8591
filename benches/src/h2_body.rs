//! Long bodies over HTTP/2, as fast as the other side takes them.

use std::future::poll_fn;

use anyhow::Context;
use bytes::Bytes;
use h2::SendStream;

use crate::pattern::Pattern;

/// Asked of the window at a time: a frame of the usual size, several times.
const PIECE_BYTES: usize = 64 * 1024;

/// Sends so many bytes of the pattern, the last with the end of the stream.
///
/// # Errors
/// When the other side gives up.
pub async fn send(stream: &mut SendStream<Bytes>, bytes: u64, pattern: &Pattern) -> anyhow::Result<()> {
    let mut sent = 0;
    while sent < bytes {
        // What was granted and not used is not granted again: whoever waited for it would wait for ever.
        if stream.capacity() == 0 {
            stream.reserve_capacity(PIECE_BYTES);
            poll_fn(|cx| stream.poll_capacity(cx)).await.context("the stream has ended")??;
        }
        let piece = pattern.at(sent, (bytes - sent).min(stream.capacity() as u64));
        sent += piece.len() as u64;
        if !piece.is_empty() {
            stream.send_data(piece, sent == bytes)?;
        }
    }
    Ok(())
}
