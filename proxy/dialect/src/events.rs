//! A streamed answer cut into events, however it is framed: server-sent events, lines of JSON, gRPC messages.

use crate::grpc::Frames;
use crate::lines::{Line, Lines};
use crate::reply::Framing;
use crate::sse::Splitter;
pub use crate::sse::{EVENT_BYTES_MAX, Event};

/// Cuts one stream. Any cut between pushes gives the same events.
#[derive(Debug)]
pub struct Cutter(Cut);

#[derive(Debug)]
enum Cut {
    Events(Splitter),
    Lines(Lines),
    Messages(Frames),
}

impl Cutter {
    /// Begins a stream of text.
    #[must_use]
    pub fn new(framing: Framing) -> Cutter {
        Cutter(match framing {
            Framing::Events => Cut::Events(Splitter::new(EVENT_BYTES_MAX)),
            Framing::Lines => Cut::Lines(Lines::new(EVENT_BYTES_MAX)),
        })
    }

    /// Begins a stream of gRPC messages. Of each only the beginning is told, and nothing if it is compressed.
    #[must_use]
    pub fn grpc() -> Cutter {
        Cutter(Cut::Messages(Frames::default()))
    }

    /// Reads the next bytes and tells of everything that they complete, in order.
    pub fn push(&mut self, chunk: &[u8], mut on_event: impl FnMut(Event<'_>)) {
        match &mut self.0 {
            Cut::Events(splitter) => splitter.push(chunk, on_event),
            Cut::Lines(lines) => lines.push(chunk, |line| on_event(event(line))),
            Cut::Messages(frames) => {
                frames.push(chunk, |beginning| on_event(Event::Message { name: None, data: beginning }));
            }
        }
    }

    /// The stream has ended. Only lines may lack their end: an event or message without one was cut, and is nobody's.
    pub fn end(&mut self, mut on_event: impl FnMut(Event<'_>)) {
        match &mut self.0 {
            Cut::Lines(lines) => lines.end(|line| on_event(event(line))),
            Cut::Events(_) | Cut::Messages(_) => {}
        }
    }
}

fn event(line: Line<'_>) -> Event<'_> {
    match line {
        Line::Whole(data) => Event::Message { name: None, data },
        Line::Oversized(bytes) => Event::Oversized { name: None, bytes },
    }
}
